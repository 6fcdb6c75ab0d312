"""What the page asks for and says: options, messages, the command, pictures, masks."""

import base64
import dataclasses
import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio import make_studio

from ddpm_jax import config
from ddpm_jax.cli import override
from ddpm_jax.errors import UserError
from ddpm_jax.playground import pictures, work
from ddpm_jax.playground.choices import chosen, command_line, labels_text
from ddpm_jax.sampling import Film


@pytest.fixture(scope="module")
def studio():
    return make_studio()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sample.num_steps": 21}, "num_steps=21 is not in 1..T; use 1 to 20"),
        ({"sample.num_steps": 2.5}, "num_steps=2.5 is not a whole number"),
        ({"sample.num_images": None}, "sample.num_images is empty"),
        ({"sample.num_images": 0}, "num_images=0 is too small"),
        ({"sample.num_images": 5}, "draws at a time; use 1 to 4"),
        ({"sample.seed": -1}, "sample.seed=-1 is out of range"),
        ({"sample.seed": 2**53}, "use up to 2^53-1, or the command line"),
        ({"sample.seed": 2.0**53}, "use up to 2^53-1, or the command line"),
        ({"sample.guidance_scale": None}, "guidance_scale is empty"),
        ({"sample.spacing": "odd"}, "spacing='odd' is not known"),
        ({"sample.film_frames": 1}, "film_frames=1 is too small"),
        ({"sample.eta": 2.0}, "eta=2.0 is not in [0, 1]"),
    ],
)
def test_a_wrong_number_is_named_before_anything_is_compiled(studio, asked, message):
    asked = {"sample.num_images": 2} | asked
    answers = work.answers(studio, Path("none"), "sample", asked, pictures.CHAIN)
    with pytest.raises(UserError) as caught:
        next(answers)
    assert message in str(caught.value)
    assert not studio.device.locked()


def test_a_field_left_empty_means_the_default(studio):
    cfg = chosen(
        studio.cfg,
        studio.trained.info,
        {"sample.seed": None, "sample.num_steps": None, "sample.num_images": 3.0},
    )
    assert cfg.sample.seed is None and cfg.sample.num_steps is None
    assert cfg.sample.num_images == 3


def test_the_command_line_asks_for_the_same(studio):
    cfg = chosen(
        studio.cfg,
        studio.trained.info,
        {
            "sample.labels": "3,none",
            "sample.seed": 7,
            "sample.guidance_scale": 1.5,
            "sample.num_images": 2,
        },
    )
    line = command_line(studio.cfg, cfg, "sample", "runs/my model")
    python, main, mode, workdir, *flags = shlex.split(line)
    assert [python, main, mode] == ["python", "main.py", "--mode=sample"]
    assert workdir == "--workdir=runs/my model"
    read = config.from_json(config.to_json(studio.cfg))
    override(read, flags)
    assert read.to_dict() == cfg.to_dict()


def test_a_class_name_with_a_comma_is_told_by_its_number(studio):
    names = ("cat", "dog, small", "3")
    info = dataclasses.replace(studio.trained.info, label_names=names)
    assert labels_text(["cat", "dog, small", "3", "none"], info) == "cat,1,3,none"


def test_a_frame_of_the_film_is_the_chain_or_the_belief(tmp_path):
    def flat(values):
        return tuple(np.full((2, 64, 64, 1), v, np.uint8) for v in values)

    watched = work.Watched(Film(flat((1, 2, 3)), flat((20, 30))), 2)

    def middle(number, view):
        path = work.seen(tmp_path, watched, number, view)
        return np.asarray(Image.open(path))[30, 30]

    assert [middle(n, pictures.CHAIN) for n in (0, 1, 2, 9)] == [1, 2, 3, 3]
    assert [middle(n, pictures.BELIEF) for n in (0, 1, 2, 9)] == [20, 20, 30, 30]
    assert work.seen(tmp_path, None, 0, pictures.CHAIN) is None


def test_a_sheet_is_a_file_that_is_not_written_again(tmp_path):
    """A browser may be reading it."""
    sheet = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = pictures.keep_sheet(tmp_path, sheet)
    written = Path(path).stat().st_mtime_ns
    np.testing.assert_array_equal(np.asarray(Image.open(path)), sheet)
    assert pictures.keep_sheet(tmp_path, sheet) == path
    assert Path(path).stat().st_mtime_ns == written
    assert pictures.keep_sheet(tmp_path, sheet.reshape(4, 3)) != path


# --- Pictures and masks ---------------------------------------------------------------


def painted(white):
    text = "".join("1" if on else "0" for on in white.ravel())
    return {"picture": "", "height": 8, "width": 8, "mask": text}


def test_a_painted_mask_becomes_the_file_that_an_edit_reads(tmp_path):
    white = np.zeros((8, 8), bool)
    white[2, 5] = white[7, 0] = True
    path = pictures.keep_mask(tmp_path, painted(white), (8, 8))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), white * np.uint8(255))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "nothing is painted"),
        ({}, "nothing is painted"),
        (painted(np.zeros((8, 8), bool)), "nothing is painted"),
        ({"mask": "1"}, "nothing is painted"),
        ({"mask": 7}, "nothing is painted"),
        (painted(np.ones((8, 8), bool)), "all is painted"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        pictures.keep_mask(tmp_path, value, (8, 8))


def test_the_painter_shows_the_picture_at_the_model_s_size(tmp_path):
    pixels = np.kron(np.arange(64).reshape(8, 8), np.ones((4, 4))).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    value = pictures.canvas(str(tmp_path / "large.png"), (8, 8, 1), padded=False)
    assert (value["height"], value["width"]) == (8, 8)
    data = base64.b64decode(value["picture"].partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(shown.astype(int) - np.arange(64).reshape(8, 8)).max() <= 1


@pytest.mark.parametrize("mode", ["image-to-image", "inpaint", "interpolate"])
def test_a_missing_picture_is_named(studio, tmp_path, mode):
    asked = {"picture": None, "other": None, "mask": None}
    with pytest.raises(UserError, match="the picture is missing"):
        next(work.answers(studio, tmp_path, mode, asked, pictures.CHAIN))


def test_a_file_that_is_no_picture_is_refused(studio, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    asked = {"picture": str(tmp_path / "text.png"), "level": 10}
    with pytest.raises(UserError, match="cannot read the picture"):
        next(work.answers(studio, tmp_path, "image-to-image", asked, pictures.CHAIN))


def test_examples_of_the_data_are_told_apart_from_others(studio):
    read = work.example_reader(studio)
    assert read(0.0).shape == (8, 8, 1)
    for number in (-1, 10**6, None):
        with pytest.raises(UserError, match="is not among the model's data; use 0 to"):
            read(number)
