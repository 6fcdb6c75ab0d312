"""The editing modes of the program: pictures in, pictures out, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from program import flags

from ddpm_jax.cli import main
from ddpm_jax.data import load

SIDE = 8  # of the digits


@pytest.fixture(scope="module")
def digits():
    dataset = load("digits", split="train")
    return [dataset.source[i]["image"][..., 0] for i in range(3)]


@pytest.fixture
def picture(digits, tmp_path):
    path = tmp_path / "seven.png"
    Image.fromarray(digits[0]).save(path)
    return path


@pytest.fixture
def mask(tmp_path):
    """White, to be filled, in the lower half."""
    white = np.zeros((SIDE, SIDE), np.uint8)
    white[SIDE // 2 :] = 255
    path = tmp_path / "mask.png"
    Image.fromarray(white).save(path)
    return path


def edit(mode, workdir, **options):
    """Run a mode; return its images [R, H, W] and its record."""
    command = f"edit {mode}"
    if mode not in ("interpolate", "encode"):
        options = {"num_images": 2} | options
    shutil.rmtree(workdir / "edits", ignore_errors=True)  # what was made would be found
    assert main(["edit", mode, f"{workdir}", *flags(command, **options)]) == 0
    (folder,) = workdir.glob("edits/*")
    assert (folder / "grid.png").exists() and (folder / "film.png").exists()
    with np.load(folder / "images.npz") as stored:
        made = stored["arr_0"][..., 0]
    on_disk = sorted((folder / "images").iterdir())
    np.testing.assert_array_equal(
        made, [np.asarray(Image.open(file)) for file in on_disk]
    )
    return made.astype(int), json.loads((folder / "edit.json").read_text())


@pytest.mark.parametrize("method", ["repaint", "replace", "project", "guidance"])
def test_inpainting_keeps_every_known_pixel(finished, picture, mask, digits, method):
    made, _ = edit("inpaint", finished, image=picture, mask=mask, method=method)
    assert made.shape == (2, SIDE, SIDE)
    top = slice(None, SIDE // 2)
    np.testing.assert_array_equal(made[:, top], np.stack([digits[0][top]] * 2))
    below = made[:, SIDE // 2 :]
    assert (below[0] != below[1]).any(), "each image has noise of its own"


def test_what_was_asked_for_before_is_found_without_reading_parameters(
    finished, picture, capsys, monkeypatch
):
    edit("encode", finished, image=picture)
    monkeypatch.setattr("ddpm_jax.training.checkpoints.restore_params", None)
    assert main(["edit", "encode", f"{finished}", f"--image={picture}"]) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_the_result_does_not_depend_on_the_batch(finished, picture, mask):
    given = {"image": f"{picture},data:1", "mask": mask, "num_images": 3}
    whole, _ = edit("inpaint", finished, **given, **{"sample.batch_size": 6})
    parts, _ = edit("inpaint", finished, **given, **{"sample.batch_size": 4})
    assert np.abs(whole - parts).max() <= 1
    assert len(whole) == 6


def test_full_strength_forgets_the_picture_and_little_strength_keeps_it(finished):
    changes = [
        edit("image-to-image", finished, image="data:0", strength=strength)[1][
            "root_mean_square_change"
        ]
        for strength in (0.05, 0.5, 1.0)
    ]
    assert changes[0] < changes[1] < changes[2]


def test_a_walk_begins_at_its_first_picture(finished):
    """Its first point is `image-to-image` of that picture, with the same noise."""
    walk, _ = edit(
        "interpolate",
        finished,
        image="data:0-2",
        method="noise",
        num_points=3,
        strength=0.5,
    )
    assert len(walk) == 6
    alone, _ = edit("image-to-image", finished, image="data:0", num_images=1)
    assert np.abs(walk[0] - alone[0]).max() <= 1


def test_encoding_is_undone_by_decoding(finished, capsys):
    options = {"image": "data:0-1", "sample.labels": "0"}
    once, _ = edit("encode", finished, iterations=1, **options)
    often, record = edit("encode", finished, iterations=20, **options)
    assert len(once) == len(often) == 2
    assert record["root_mean_square_change"] < 1.0
    assert "off by" in capsys.readouterr().out


def test_a_walk_between_encodings_ends_at_both_pictures(finished, digits):
    walk, _ = edit(
        "interpolate", finished, image="data:0,data:1", num_points=3, iterations=20
    )
    for point, digit in ((walk[0], digits[0]), (walk[-1], digits[1])):
        assert np.sqrt(np.mean((point - digit.astype(int)) ** 2)) < 1.0


def test_upscaling_agrees_with_the_small_picture(finished, digits):
    def pooled(x):
        return x.reshape(*x.shape[:-2], SIDE // 2, 2, SIDE // 2, 2).mean((-3, -1))

    projected, _ = edit("upscale", finished, image="data:0", method="project")
    free, _ = edit("image-to-image", finished, image="data:0", strength=1.0)
    wanted = pooled(digits[0].astype(float))
    errors = [
        np.sqrt(np.mean((pooled(made) - wanted) ** 2)) for made in (projected, free)
    ]
    # What lies outside black and white is cut off, so the projection is not exact.
    assert errors[0] < 0.2 * errors[1]


def test_a_small_picture_is_taken_as_it_is(finished, tmp_path):
    """A file of half the size gives what the picture it was made from gives."""
    blocks = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16, np.ones((2, 2)))
    for name, pixels in (("small", blocks[::2, ::2]), ("large", blocks)):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    small, _ = edit("upscale", finished, image=tmp_path / "small.png", num_images=1)
    large, _ = edit("upscale", finished, image=tmp_path / "large.png", num_images=1)
    np.testing.assert_array_equal(small, large)


def test_a_picture_of_any_size_and_colour_is_fitted(finished, tmp_path):
    path = tmp_path / "photo.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (30, 50, 3), np.uint8)).save(path)
    made, _ = edit("image-to-image", finished, image=path)
    assert made.shape == (2, SIDE, SIDE)


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("inpaint", {}, "needs a picture; give --image="),
        ("inpaint", {"image": "data:0"}, "needs a mask; give --mask="),
        ("inpaint", {"image": "none.png"}, "cannot read the image none.png"),
        ("inpaint", {"image": "data:9999"}, "examples 9999 to 9999 of digits"),
        ("inpaint", {"image": "data:0", "method": "magic"}, "use repaint, replace"),
        ("image-to-image", {"image": "data:0", "strength": 0.0}, "not in (0, 1]"),
        ("interpolate", {"image": "data:0"}, "two pictures or more"),
        ("colorize", {"image": "data:0"}, "wants one of color images"),
        ("upscale", {"image": "data:0", "factor": 3}, "does not divide images of 8x8"),
        ("encode", {"image": "data:0", "iterations": 0}, "iterations=0 is too small"),
        ("encode", {"image": "data:0", "sample.labels": "12"}, "is not a class"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    finished, capsys, mode, options, message
):
    given = flags(f"edit {mode}", **options)
    assert main(["edit", mode, f"{finished}", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("size", "value", "message"),
    [
        ((SIDE, SIDE + 1), None, f"is {SIDE}x{SIDE + 1}, the model's images are"),
        ((SIDE, SIDE), 255, "is all white"),
        ((SIDE, SIDE), 0, "is all black"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(
    finished, tmp_path, capsys, size, value, message
):
    pixels = np.full(size, 0 if value is None else value, np.uint8)
    path = tmp_path / "mask.png"
    Image.fromarray(pixels).save(path)
    given = ["--image=data:0", f"--mask={path}"]
    assert main(["edit", "inpaint", f"{finished}", *given]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_picture_is_refused(finished, tmp_path, capsys):
    path = tmp_path / "text.png"
    path.write_text("not a picture")
    assert main(["edit", "encode", f"{finished}", f"--image={path}"]) == 2
    assert f"cannot read the image {path}" in capsys.readouterr().err
