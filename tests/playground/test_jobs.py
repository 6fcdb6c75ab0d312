"""The chain in parts: the same images as in one piece, one at a time, to be stopped."""

import dataclasses
import threading
from functools import partial
from pathlib import Path

import jax
import numpy as np
import patchwork
import pytest
from PIL import Image
from studio import make_studio

from ddpm_jax import assembly
from ddpm_jax.assembly.editing import method_of
from ddpm_jax.commands.edit import lay_out, read_pictures
from ddpm_jax.commands.sample import Conditions, sample_batches
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.errors import UserError
from ddpm_jax.playground import jobs, pictures, programs, work
from ddpm_jax.playground.choices import chosen
from ddpm_jax.requests import COMMANDS, Sample
from ddpm_jax.runtime import images
from ddpm_jax.sampling.parts import frame_steps
from ddpm_jax.sampling.plan import run_plan


@pytest.fixture(scope="module")
def studio():
    return make_studio()


def ask(studio, request=Sample, **options):
    return studio.recipe.request(request, **options)


def whole(studio, asked):
    """Draw as `sample` does: the whole chain in one compiled scan."""
    count, trained = asked.num_images, studio.trained
    asked = dataclasses.replace(asked, film_images=count, batch_size=count)
    spec = studio.recipe.task
    (made,) = sample_batches(
        spec,
        asked,
        assembly.program(trained, asked),
        trained.params,
        Conditions(assembly.sample_cond(spec, trained.info, asked), None),
    )
    return made.items, made.trajectory


def check_as_whole(studio, asked):
    *_, last = jobs.draw(studio, asked)
    drawn, trajectory = whole(studio, asked)
    np.testing.assert_array_equal(last.point.items, drawn)
    np.testing.assert_array_equal(np.stack(last.point.trajectory.x_t), trajectory.x_t)
    np.testing.assert_array_equal(np.stack(last.point.trajectory.x0), trajectory.x0)
    return drawn


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ancestral", 20), ("ddim", 7), ("heun", 5), ("dpmpp_2m", 9), ("unipc", 8)],
)
def test_the_parts_of_a_chain_are_the_whole_to_the_byte(studio, sampler, steps):
    options = {"sample.sampler": sampler, "sample.num_steps": steps, "sample.seed": 5}
    options |= {"sample.num_images": 3, "sample.labels": "7,none"}
    asked = chosen(studio.recipe, studio.trained.info, Sample, options)
    drawn = check_as_whole(studio, asked)
    assert len({image.tobytes() for image in drawn}) == 3


def test_latents_are_drawn_to_the_byte_as_well():
    matrix = patchwork.orthogonal(4)
    autoencoder = patchwork.autoencoder((8, 8, 1), matrix=matrix)
    studio = make_studio(autoencoder=autoencoder)
    asked = ask(studio, sampler="ddim", num_steps=7, num_images=3)
    drawn = check_as_whole(studio, asked)
    assert drawn.shape == (3, 8, 8, 1)


def test_a_model_that_draws_from_a_picture_is_shown_the_same_ones():
    studio = make_studio(
        "conditioners.low_res.kind=low_res", "conditioners.low_res.max_aug_level=0.5"
    )
    for noise in (0.0, 0.3):
        asked = ask(studio, num_images=3, num_steps=4, picture_noise=noise)
        check_as_whole(studio, asked)


def test_a_kept_program_serves_other_steps_seeds_and_labels(studio):
    for options in (
        {"num_steps": 4, "seed": 0},
        {"num_steps": 11, "seed": 3, "label": "1"},
        {"num_steps": 11, "guidance_scale": 2.0},
    ):
        check_as_whole(studio, ask(studio, sampler="ddim", num_images=2, **options))


def test_what_is_kept_is_bounded_and_named_by_what_is_compiled(studio):
    made = []
    keep = programs.keeper(most=2)

    def programs_of(**options):
        asked, spec, trained = (
            ask(studio, **options),
            studio.recipe.task,
            studio.trained,
        )
        plan = assembly.plan_of(trained, asked)
        made.append(keep(plan, spec, asked, 4, trained.mesh))
        return made[-1]

    first = programs_of(num_steps=5)
    assert programs_of(num_steps=20, seed=9, label="3") is first
    other = programs_of(guidance_scale=2.0)
    assert other is not first
    assert programs_of() is first, "used again, it is not the oldest"
    programs_of(sampler="ddim")
    assert programs_of() is first
    assert programs_of(guidance_scale=2.0) is not other, "was dropped for the third"
    still = {"sampler": "ddim", "zero_init_steps": 1}  # steps by their levels
    assert programs_of(**still, num_steps=5) is not programs_of(**still, num_steps=9)


@pytest.fixture
def files(studio, tmp_path):
    """Two digits and a mask, as files."""
    source = studio.recipe.task.data.open().source
    for number, name in enumerate(("a", "b")):
        images.save_png(tmp_path / f"{name}.png", source[number]["image"])
    white = np.zeros((8, 8), np.uint8)
    white[3:, 2:6] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    return tmp_path


def test_a_page_shows_every_stage_of_an_edit(studio, files):
    """Each stage has a trajectory of its own, and the page begins it anew."""
    asked = {
        "picture": f"{files}/a.png",
        "other": f"{files}/b.png",
        "edit.method": "encode",
        "edit.num_points": 3,
        "sample.num_steps": 10,
        # As the page has them when it is opened, though an encoding looks at neither.
        "sample.sampler": studio.recipe.request(Sample).sampler,
        "sample.seed": assembly.seed_of(studio.recipe.task, Sample()),
    }
    changed = {"sample.sampler": "euler", "sample.seed": 1234}
    for name, value in changed.items():
        with pytest.raises(UserError, match=f"{name}=.* does nothing in mode interpol"):
            next(
                work.answers(
                    studio, files, "interpolate", {**asked, name: value}, pictures.CHAIN
                )
            )
    answers = [*work.answers(studio, files, "interpolate", asked, pictures.CHAIN)]
    said = [answer.status for answer in answers]
    assert all(any(f"Stage {n} of 3" in line for line in said) for n in (1, 2, 3))
    assert [answer.last_frame for answer in answers].count(0) == 3
    assert "Done" in said[-1]
    assert all(Path(path).stat().st_size > 0 for path in answers[-1].files)


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        ("image-to-image", "sdedit"),
        ("inpaint", "repaint"),
        ("inpaint", "project"),
        ("interpolate", "noise"),
        ("interpolate", "encode"),
    ],
)
def test_the_stages_of_an_edit_in_parts_are_the_plan_to_the_byte(
    studio, files, mode, method
):
    image = f"{files}/a.png" + (f",{files}/b.png" if mode == "interpolate" else "")
    options = {
        "image-to-image": {"num_images": 2},
        "inpaint": {
            **{"num_images": 2, "method": method},
            "mask": str(files / "mask.png"),
        },
        "interpolate": {"num_points": 3, "method": method},
    }
    spec, kind = studio.recipe.task, COMMANDS[f"edit {mode}"]
    chain = {"sampler": "ddim", "num_steps": 10}
    asked = ask(studio, kind, image=image, **chain, **options[mode])
    assert method_of(spec, asked) == method
    *_, last = jobs.edit(studio, asked)
    pictures = read_pictures(spec, asked, studio.trained.info)
    given, noise, columns = lay_out(spec, asked, studio.trained.info, pictures)
    plan = assembly.plan_of(studio.trained, asked)
    keys = image_keys(assembly.sample_key(assembly.seed_of(spec, asked)), noise)
    edited = jax.jit(partial(run_plan, plan))(studio.trained.params, keys, given)
    np.testing.assert_array_equal(last.point.items, images.to_uint8(edited.items))
    np.testing.assert_array_equal(
        last.point.condition_preview, images.to_uint8(edited.condition_preview)
    )
    assert last.columns == (columns if mode == "interpolate" else None)


def test_frames_are_kept_where_the_command_line_keeps_them():
    for num_steps in range(1, 40):
        for frames in (2, 3, 16, 60):
            kept = min(frames - 1, num_steps)
            slots = np.arange(num_steps) * kept // num_steps
            ends = [int(np.flatnonzero(slots == slot)[-1]) + 1 for slot in range(kept)]
            assert frame_steps(num_steps, frames) == ends


# --- One at a time --------------------------------------------------------------------


def test_a_closed_job_stops_and_leaves_the_device(studio):
    asked = ask(studio, sampler="ddim", num_images=2)
    job = jobs.draw(studio, asked)
    steps = [next(job).point.step for _ in range(3)]
    assert steps[0] == 0 and 0 < steps[-1] < 20
    assert studio.device.locked()
    job.close()
    assert not studio.device.locked()
    *_, last = jobs.draw(studio, asked)
    np.testing.assert_array_equal(last.point.items, whole(studio, asked)[0])


def test_the_second_job_waits_for_the_first(studio):
    asked = ask(studio, sampler="ddim", num_images=2)
    order = []

    def run(name):
        for now in jobs.draw(studio, asked):
            order.append((name, now.point.step))

    first = jobs.draw(studio, asked)
    next(first)
    second = threading.Thread(target=run, args=("second",))
    second.start()
    for now in first:
        order.append(("first", now.point.step))
    second.join(timeout=60)
    assert not second.is_alive()
    names = [name for name, _ in order]
    assert names == sorted(names), "the steps of the two are not mixed"
    assert order[-1] == ("second", 20)


def test_a_job_ends_when_the_server_does(studio):
    asked = ask(studio, sampler="ddim", num_images=2)
    job = jobs.draw(studio, asked)
    next(job)
    studio.closing.set()
    try:
        assert list(job) == []
    finally:
        studio.closing.clear()
    assert not studio.device.locked()


def test_an_image_that_is_not_finite_is_refused_and_the_device_left():
    whole = make_studio()
    params = jax.tree.map(lambda leaf: leaf * np.nan, whole.trained.params)
    broken = whole._replace(trained=dataclasses.replace(whole.trained, params=params))
    asked = ask(broken, sampler="ddim", num_steps=2, clip=False, num_images=2)
    with pytest.raises(UserError, match="not finite"):
        list(jobs.draw(broken, asked))
    assert not broken.device.locked()
