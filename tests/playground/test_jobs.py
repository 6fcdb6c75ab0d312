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
from ddpm_jax.commands.edit import lay_out, read_pictures
from ddpm_jax.commands.sample import Conditions, sample_batches, sampling_program
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.errors import UserError
from ddpm_jax.playground import jobs, pictures, programs, work
from ddpm_jax.playground.choices import chosen
from ddpm_jax.runtime import images
from ddpm_jax.sampling.parts import frame_steps
from ddpm_jax.sampling.plan import run_plan


@pytest.fixture(scope="module")
def studio():
    return make_studio()


def config_of(studio, **options):
    named = {name.replace("__", "."): value for name, value in options.items()}
    return chosen(studio.cfg, studio.trained.info, named)


def whole(studio, cfg):
    """Draw as `sample` does: the whole chain in one compiled scan."""
    cfg = cfg.copy_and_resolve_references()
    cfg.sample.film_images = cfg.sample.batch_size = cfg.sample.num_images
    trained = studio.trained
    (made,) = sample_batches(
        cfg,
        sampling_program(cfg, trained.info, trained.unet, trained.mesh, trained.codec),
        trained.params,
        Conditions(assembly.sample_cond(cfg, trained.info), None),
    )
    return made.items, made.trajectory


def check_as_whole(studio, cfg):
    *_, last = jobs.draw(studio, cfg)
    drawn, trajectory = whole(studio, cfg)
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
    drawn = check_as_whole(studio, chosen(studio.cfg, studio.trained.info, options))
    assert len({image.tobytes() for image in drawn}) == 3


def test_latents_are_drawn_to_the_byte_as_well():
    matrix = patchwork.orthogonal(4)
    autoencoder = patchwork.autoencoder((8, 8, 1), matrix=matrix)
    studio = make_studio(autoencoder=autoencoder)
    options = {"sample.sampler": "ddim", "sample.num_steps": 7, "sample.num_images": 3}
    drawn = check_as_whole(studio, chosen(studio.cfg, studio.trained.info, options))
    assert drawn.shape == (3, 8, 8, 1)


def test_a_model_that_draws_from_a_picture_is_shown_the_same_ones():
    studio = make_studio(
        "conditioners.low_res.kind=low_res", "conditioners.low_res.max_aug_level=0.5"
    )
    options = {"sample.num_images": 3, "sample.num_steps": 4}
    for noise in (0.0, 0.3):
        asked = {**options, "sample.picture_noise": noise}
        check_as_whole(studio, chosen(studio.cfg, studio.trained.info, asked))


def test_a_kept_program_serves_other_steps_seeds_and_labels(studio):
    for options in (
        {"sample__num_steps": 4, "sample__seed": 0},
        {"sample__num_steps": 11, "sample__seed": 3, "sample__labels": "1"},
        {"sample__num_steps": 11, "sample__guidance_scale": 2.0},
    ):
        check_as_whole(
            studio,
            config_of(studio, sample__sampler="ddim", sample__num_images=2, **options),
        )


def test_what_is_kept_is_bounded_and_named_by_what_is_compiled(studio):
    made = []
    keep = programs.keeper(most=2)

    def ask(**options):
        cfg = config_of(studio, **options)
        plan = assembly.sampling_plan(cfg, studio.trained.unet, studio.trained.codec)
        made.append(keep("sample", plan, cfg, 4, studio.trained.mesh))
        return made[-1]

    first = ask(sample__num_steps=5)
    assert ask(sample__num_steps=20, sample__seed=9, sample__labels="3") is first
    other = ask(sample__guidance_scale=2.0)
    assert other is not first
    assert ask() is first, "used again, it is not the oldest"
    ask(sample__sampler="ddim")
    assert ask() is first
    assert ask(sample__guidance_scale=2.0) is not other, "was dropped for the third"


@pytest.fixture
def files(studio, tmp_path):
    """Two digits and a mask, as files."""
    source = assembly.dataset(studio.cfg).source
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
        "sample.sampler": "ddim",
        "sample.num_steps": 10,
    }
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
    cfg = config_of(
        studio,
        edit__image=image,
        edit__mask=str(files / "mask.png"),
        edit__method=method,
        edit__num_images=2,
        edit__num_points=3,
        sample__sampler="ddim",
        sample__num_steps=10,
    )
    *_, last = jobs.edit(studio, mode, cfg)
    pictures = read_pictures(mode, cfg, studio.trained.info)
    given, noise, columns = lay_out(mode, cfg, studio.trained.info, pictures)
    plan = assembly.plan_edit(cfg, mode, studio.trained.unet, studio.trained.codec)
    keys = image_keys(assembly.sample_key(cfg), noise)
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
    cfg = config_of(studio, sample__sampler="ddim", sample__num_images=2)
    job = jobs.draw(studio, cfg)
    steps = [next(job).point.step for _ in range(3)]
    assert steps[0] == 0 and 0 < steps[-1] < 20
    assert studio.device.locked()
    job.close()
    assert not studio.device.locked()
    *_, last = jobs.draw(studio, cfg)
    np.testing.assert_array_equal(last.point.items, whole(studio, cfg)[0])


def test_the_second_job_waits_for_the_first(studio):
    cfg = config_of(studio, sample__sampler="ddim", sample__num_images=2)
    order = []

    def run(name):
        for now in jobs.draw(studio, cfg):
            order.append((name, now.point.step))

    first = jobs.draw(studio, cfg)
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
    cfg = config_of(studio, sample__sampler="ddim", sample__num_images=2)
    job = jobs.draw(studio, cfg)
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
    cfg = config_of(broken, sample__sampler="ddim", sample__num_steps=2)
    cfg.sample.clip = False
    with pytest.raises(UserError, match="not finite"):
        list(jobs.draw(broken, cfg))
    assert not broken.device.locked()
