"""The tabs of a decoder of image embeddings: variations, and text differences."""

import shlex
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from studio import make_decoder_studio, make_studio

from ddpm_jax import assembly
from ddpm_jax.cli import read_line
from ddpm_jax.commands.edit import lay_out, read_pictures
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.errors import UserError
from ddpm_jax.playground import jobs, pictures, work
from ddpm_jax.requests import TextDiff, Variations
from ddpm_jax.runtime import images
from ddpm_jax.sampling.plan import run_plan

TEXTS = {"from_text": "a red circle", "to_text": "a blue circle"}


@pytest.fixture(scope="module")
def studio():
    return make_decoder_studio()


@pytest.fixture
def asked(studio, tmp_path):
    """The fields of both tabs, with an uploaded picture."""
    image = studio.recipe.task.data.open().source[3]["image"]
    images.save_png(tmp_path / "a.png", image)
    picture = {"picture": str(tmp_path / "a.png"), "sample.num_steps": 6}
    turned = {f"edit.{name}": text for name, text in TEXTS.items()}
    turned |= {"edit.share": 0.3, "edit.strength": 0.9, "edit.num_points": 3}
    return {
        "variations": {**picture, "edit.num_images": 3},
        "text-diff": {**picture, **turned},
    }


@pytest.mark.parametrize(
    ("request_", "options", "columns"),
    [
        (Variations, {"num_images": 3}, None),
        (TextDiff, {**TEXTS, "num_points": 3, "strength": 0.9}, 3),
    ],
)
def test_the_parts_of_an_edit_are_the_plan_to_the_byte(
    studio, tmp_path, request_, options, columns
):
    image = studio.recipe.task.data.open().source[3]["image"]
    images.save_png(tmp_path / "a.png", image)
    path = str(tmp_path / "a.png")
    asked = studio.recipe.request(request_, image=path, num_steps=6, **options)
    *_, last = jobs.edit(studio, asked)
    assert last.columns == columns  # a walk is a row
    spec, info = studio.recipe.task, studio.trained.info
    given, noise, _ = lay_out(spec, asked, info, read_pictures(spec, asked, info))
    keys = image_keys(assembly.sample_key(assembly.seed_of(spec, asked)), noise)
    plan = assembly.plan_of(studio.trained, asked)
    whole = jax.jit(partial(run_plan, plan))(studio.trained.params, keys, given)
    np.testing.assert_array_equal(last.point.items, images.to_uint8(whole.items))
    assert len({item.tobytes() for item in last.point.items}) == 3


def test_a_tab_shows_its_work_and_the_command_of_it(studio, tmp_path, asked):
    for mode, stages in {"variations": 1, "text-diff": 2}.items():
        answers = [*work.answers(studio, tmp_path, mode, asked[mode], pictures.CHAIN)]
        assert answers[-1].status.startswith("**Done.**")
        assert all(Path(path).stat().st_size > 0 for path in answers[-1].files)
        said = " ".join(str(answer.status) for answer in answers)
        assert (f"Stage {stages} of {stages}" in said) == (stages > 1)
        program, script, *words = shlex.split(answers[0].command)
        assert (program, script) == ("python", "main.py")
        line = read_line(words)
        assert line.command == f"edit {mode}" and line.values["num_steps"] == 6
        if mode == "text-diff":
            assert {n: line.values[n] for n in TEXTS} == TEXTS
            assert line.values["share"] == 0.3 and line.values["strength"] == 0.9


@pytest.mark.parametrize(
    ("mode", "changed", "message"),
    [
        ("text-diff", {"edit.to_text": ""}, "needs two texts"),
        ("text-diff", {"edit.to_text": TEXTS["from_text"]}, "have no difference"),
        ("text-diff", {"edit.from_text": "a red dragon"}, "dragon"),
        ("text-diff", {"edit.from_text": 7}, "not a text"),
        ("text-diff", {"edit.share": 0.0}, "is not in \\(0, 1\\]"),
        ("text-diff", {"edit.share": "1"}, "not a number"),
        ("text-diff", {"edit.num_points": 9}, "use 1 to 4"),
        ("text-diff", {"sample.seed": 5}, "seed=5 does nothing in mode text-diff"),
        ("variations", {"edit.num_images": 9}, "use 1 to 4"),
        ("variations", {"picture": None}, "the picture is missing"),
        ("variations", {"edit.share": 0.5}, "edit.share is no option of this tab"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    studio, tmp_path, asked, mode, changed, message
):
    job = work.answers(
        studio, tmp_path, mode, {**asked[mode], **changed}, pictures.CHAIN
    )
    with pytest.raises(UserError, match=message) as caught:
        for _ in range(2):  # what the job finds comes after "Starting"
            next(job)
    assert "\n" not in str(caught.value)
    assert not studio.device.locked()


def test_a_decoder_has_the_tabs_and_other_models_have_not(studio, tmp_path):
    gradio = pytest.importorskip("gradio", reason="gradio is missing")
    from ddpm_jax.playground.page import _model_tabs

    def ids(studio):
        with gradio.Blocks() as page:
            _model_tabs(studio, tmp_path)
        return {getattr(block, "elem_id", None) for block in page.blocks.values()}

    decoder, plain = ids(studio), ids(make_studio())
    assert {"tab-variations", "tab-text-diff", "variations-seed"} <= decoder
    assert {"text-diff-from", "text-diff-to", "text-diff-share"} <= decoder
    # Both chains are deterministic DDIM: nothing to choose.
    assert not {"text-diff-seed", "text-diff-sampler"} & decoder
    assert "tab-interpolate" in plain
    assert not {"tab-variations", "tab-text-diff"} & plain
