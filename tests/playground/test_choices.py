"""What the page asks for and says: options, messages, the command, pictures, masks."""

import base64
import dataclasses
import io
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio import make_studio

from ddpm_jax.cli import read_line
from ddpm_jax.errors import UserError
from ddpm_jax.playground import pictures, work
from ddpm_jax.playground.choices import chosen, command_line, labels_text
from ddpm_jax.requests import Sample
from ddpm_jax.sampling.plan import Trajectory


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


CRAFTED = [
    True,
    "7",
    "",
    [7],
    {"path": "/etc/passwd"},
    float("nan"),
    float("inf"),
    -(10.0**300),
    10**400,
    -(2**63),
]
NUMBERS = ("num_images", "num_steps", "seed", "guidance_scale", "eta", "film_frames")
TEXTS = ("sampler", "spacing", "prompt", "negative_prompt", "labels")
OPTIONS = [
    *(("sample", f"sample.{name}") for name in (*NUMBERS, *TEXTS)),
    *(("inpaint", f"edit.{name}") for name in ("num_images", "method")),
    *(("interpolate", f"edit.{name}") for name in ("num_points", "strength")),
    ("image-to-image", "edit.num_images"),
    ("image-to-image", "level"),
]


def is_asked_for(name, value):
    return isinstance(value, str) and name.endswith(("prompt", "labels"))


@pytest.mark.parametrize(
    ("mode", "name", "value"),
    [
        (*o, value)
        for o in OPTIONS
        for value in CRAFTED
        if not is_asked_for(o[1], value)
    ],
    ids=lambda part: f"{part!r:.20}",
)
def test_a_value_of_any_type_is_answered_with_a_sentence(
    studio, tmp_path, mode, name, value
):
    digit = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(digit).save(tmp_path / "digit.png")
    half = np.arange(64).reshape(8, 8) < 32
    given = {"picture": str(tmp_path / "digit.png"), "mask": painted(half)}
    asked = {**given, "other": given["picture"], name: value}
    if mode == "sample":
        asked = {"sample.num_images": 2} | asked
    with pytest.raises(UserError) as caught:
        next(work.answers(studio, tmp_path, mode, asked, pictures.CHAIN))
    said = str(caught.value)
    assert said.endswith(".") and len(said) < 300 and "\n" not in said
    assert not studio.device.locked()


@pytest.mark.parametrize("value", [10**9, 2**53 - 1])
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("sample", "sample.num_images"),
        ("image-to-image", "edit.num_images"),
        ("inpaint", "edit.num_images"),
        ("interpolate", "edit.num_points"),
    ],
)
def test_a_number_of_images_is_refused_before_they_are_laid_out(
    studio, tmp_path, mode, name, value
):
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    half = np.arange(64).reshape(8, 8) < 32
    picture = str(tmp_path / "black.png")
    asked = {"picture": picture, "other": picture, "mask": painted(half), name: value}
    with pytest.raises(UserError, match="draws at a time; use 1 to 4"):
        next(work.answers(studio, tmp_path, mode, asked, pictures.CHAIN))


@pytest.mark.parametrize("name", ["sample.prompt", "sample.negative_prompt"])
@pytest.mark.parametrize("start", ["file:", " file:", "data:"])
def test_a_prompt_of_the_page_is_a_text_and_never_a_file(studio, tmp_path, name, start):
    (tmp_path / "secret").write_text("a secret")
    os.mkfifo(tmp_path / "pipe")  # to read it would take for ever
    for file in ("secret", "pipe"):
        options = {name: f"{start}{tmp_path / file}", "sample.num_images": 2}
        with pytest.raises(UserError, match="reads no files") as caught:
            chosen(studio.recipe, studio.trained.info, Sample, options)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["x" * 10_001, "a \x1b[31m word", "a\0b"])
def test_a_prompt_is_short_and_printable(studio, value):
    with pytest.raises(UserError, match="characters"):
        chosen(studio.recipe, studio.trained.info, Sample, {"sample.prompt": value})


@pytest.mark.parametrize(
    "value", ["7", 7, {"7": 1}, [["7"]], ["8x"], [None], [7], ["file:/etc/passwd"]]
)
def test_labels_are_a_list_of_those_offered(studio, value):
    asked = {"sample.labels": value, "sample.num_images": 2}
    with pytest.raises(UserError, match=r"sample.labels is not a list|is not known"):
        next(work.answers(studio, Path("none"), "sample", asked, pictures.CHAIN))


def test_a_field_left_empty_means_the_default(studio):
    asked = chosen(
        studio.recipe,
        studio.trained.info,
        Sample,
        {"sample.seed": None, "sample.num_steps": None, "sample.num_images": 3.0},
    )
    assert asked.seed is None and asked.num_steps is None
    assert asked.num_images == 3


def test_an_option_of_another_tab_is_refused(studio):
    with pytest.raises(UserError, match=r"edit\.mask is no option of this tab; reload"):
        chosen(studio.recipe, studio.trained.info, Sample, {"edit.mask": "a.png"})


def test_the_command_line_asks_for_the_same(studio):
    asked = chosen(
        studio.recipe,
        studio.trained.info,
        Sample,
        {
            "sample.labels": "3,none",
            "sample.seed": 7,
            "sample.guidance_scale": 1.5,
            "sample.num_images": 2,
        },
    )
    line = command_line(studio.recipe, asked, "runs/my model")
    python, main, *words = shlex.split(line)
    assert [python, main, *words[:2]] == [
        "python",
        "main.py",
        "sample",
        "runs/my model",
    ]
    read = studio.recipe.request(Sample, **read_line(words).values)
    assert read == dataclasses.replace(asked, run="runs/my model")


def test_a_class_name_with_a_comma_is_told_by_its_number(studio):
    names = ("cat", "dog, small", "3")
    info = dataclasses.replace(studio.trained.info, label_names=names)
    assert labels_text(["cat", "dog, small", "3", "none"], info) == "cat,1,3,none"


def test_a_frame_of_the_trajectory_is_the_chain_or_the_belief(tmp_path):
    def flat(values):
        return tuple(np.full((2, 64, 64, 1), v, np.uint8) for v in values)

    watched = work.Watched(Trajectory(flat((1, 2, 3)), flat((20, 30))), 2)

    def middle(number, view):
        path = work.seen(tmp_path, watched, number, view)
        return np.asarray(Image.open(path))[30, 30]

    assert [middle(n, pictures.CHAIN) for n in (0, 1, 2, 9)] == [1, 2, 3, 3]
    assert [middle(n, pictures.BELIEF) for n in (0, 1, 2, 9)] == [20, 20, 30, 30]
    assert work.seen(tmp_path, None, 0, pictures.CHAIN) is None


@pytest.mark.parametrize(
    ("number", "view"),
    [
        *((number, pictures.CHAIN) for number in (None, "1", [1], True, {})),
        *((number, pictures.CHAIN) for number in (float("nan"), float("inf"), 10**30)),
        *((0, view) for view in (None, "x", 7, ["x"], {})),
    ],
)
def test_a_frame_that_cannot_be_is_refused_in_a_sentence(tmp_path, number, view):
    trajectory = Trajectory((np.zeros((1, 8, 8, 1), np.uint8),), ())
    with pytest.raises(UserError, match=r"a number|finite number|the view"):
        work.seen(tmp_path, work.Watched(trajectory, 1), number, view)


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
    with pytest.raises(UserError, match="cannot read the image"):
        next(work.answers(studio, tmp_path, "image-to-image", asked, pictures.CHAIN))


def test_only_uploads_are_read(studio, tmp_path):
    """A path in a request can name any file, by whatever way."""
    page, secret = tmp_path / "page", tmp_path / "secret.png"
    page.mkdir()
    Image.new("L", (8, 8)).save(secret)
    (page / "link.png").symlink_to(secret)
    os.mkfifo(page / "pipe.png")  # to read it would take for ever
    ways = [secret, page / "link.png", page / "pipe.png", page / "../secret.png", page]
    ways += ["/dev/zero", "file:/etc/passwd", "data:7", "~/x.png", 7, [str(secret)]]
    for way in ways:
        path = str(way) if isinstance(way, Path) else way
        asked = {"picture": path, "level": 10}
        with pytest.raises(UserError, match="only pictures that were uploaded"):
            next(work.answers(studio, page, "image-to-image", asked, pictures.CHAIN))


def test_an_upload_has_a_limit(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_UPLOAD", 2**20)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**20 + 1)
    asked = {"picture": str(tmp_path / "large.png"), "level": 10}
    with pytest.raises(UserError, match="larger than 1 MiB"):
        next(work.answers(studio, tmp_path, "image-to-image", asked, pictures.CHAIN))


def test_examples_of_the_data_are_told_apart_from_others(studio):
    read = work.example_reader(studio)
    assert read(0.0).shape == (8, 8, 1)
    for number in (-1, 10**6, None):
        with pytest.raises(UserError, match="is not among the model's data; use 0 to"):
            read(number)
    for number in ("3", [3], {}, True, 2.5, float("nan"), float("inf"), 10**400):
        with pytest.raises(UserError, match="number"):
            read(number)
