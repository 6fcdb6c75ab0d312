"""Models that draw from a picture: trained, drawn from, and used on pictures given."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from program import ROOT, TINY, flags

from ddpm_jax.cli import main
from ddpm_jax.data import load
from ddpm_jax.requests import COMMANDS

SIDE = 8  # of the digits


def train(folder, *options):
    flags = ["--config.training.num_steps=4", "--config.training.preview_every=0"]
    flags += [f"--config.{option}" for option in options]
    assert main([f"--config={TINY}", f"--workdir={folder}", *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def low_res(tmp_path_factory):
    """A network that makes 4x4 into 8x8, in classes, told up to half of the noise."""
    return train(
        tmp_path_factory.mktemp("low_res") / "run",
        "conditioners.low_res.kind=low_res",
        "conditioners.low_res.max_aug_level=0.5",
        "training.preview_every=4",
    )


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return train(
        tmp_path_factory.mktemp("masked") / "run",
        "conditioners.masked.kind=masked",
        "conditioners.label=None",
    )


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A folder of small colour pictures."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory, colours):
    return train(
        tmp_path_factory.mktemp("grey") / "run",
        f"data.source=folder:{colours}",
        "conditioners.grey.kind=grey",
        "conditioners.label=None",
    )


def newest(folder):
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime)


def run(mode, workdir, **options):
    """Run a mode; return the folder of its results."""
    command = mode if mode in COMMANDS else f"edit {mode}"
    given = flags(command, **options)
    assert main([*command.split(), f"{workdir}", *given]) == 0
    return newest(workdir / ("samples" if mode == "sample" else "edits"))


def images_in(folder, name):
    with np.load(folder / name) as stored:
        return stored["arr_0"][..., 0].astype(int)


def pooled(x):
    return x.reshape(*x.shape[:-2], SIDE // 2, 2, SIDE // 2, 2).mean((-3, -1))


def threes(folder):
    """Cut a sheet into its pictures: shown, drawn and real, [N, 3, side, side]."""
    pixels = np.asarray(Image.open(folder / "grid.png").convert("L")).astype(int)
    step = 64 + 2  # each is enlarged to 64 pixels
    rows = (pixels.shape[0] - 2) // step
    return np.stack(
        [
            [pixels[2 + i * step :, 2 + j * step :][:64:8, :64:8] for j in range(3)]
            for i in range(rows)
        ]
    )


def test_a_drawing_takes_pictures_of_the_data_and_shows_them_beside(low_res, capsys):
    shutil.rmtree(low_res / "samples")  # else a finished result is named again
    folder = run("sample", low_res)
    said = capsys.readouterr().out
    drawn = images_in(folder, "samples.npz")
    with np.load(folder / "samples.npz") as stored:
        labels = stored["arr_1"]
    data = load("digits", split="train")
    real = np.stack([data.source[i]["image"][..., 0] for i in range(6)]).astype(int)
    # Each is told the class of its own picture.
    assert labels.tolist() == [data.source[i]["label"] for i in range(6)]
    beside = threes(folder)
    np.testing.assert_array_equal(beside[:, 1], drawn)
    np.testing.assert_array_equal(beside[:, 2], real)
    # How far the drawn ones agree with the small pictures is said and noted.
    errors = np.square((pooled(drawn) - pooled(real)) / 255).mean((1, 2))
    decibels = np.mean(-10 * np.log10(errors))
    record = json.loads((folder / "sample.json").read_text())
    assert record["consistency_db"] == pytest.approx(decibels, rel=1e-5)
    assert f"a PSNR of {decibels:.2f} dB" in said
    # What is shown on the left is the small picture, enlarged by straight lines: the
    # means over blocks are near those of the image.
    middles = (np.arange(8) + 0.5) / 2 - 0.5
    for small, shown in zip(pooled(real), beside[:, 0], strict=True):
        tall = np.stack([np.interp(middles, range(4), row) for row in small])
        wide = np.stack([np.interp(middles, range(4), row) for row in tall.T]).T
        assert np.abs(wide - shown).max() <= 1
    # So does the preview of training.
    assert (low_res / "progress" / "step-0000004.png").exists()


def test_a_drawing_takes_the_pictures_of_another_split_and_their_noise(low_res):
    options = {"sample.picture": "data:test"}
    clean = threes(run("sample", low_res, **options))
    first = load("digits", split="test").source[0]["image"][..., 0]
    np.testing.assert_array_equal(clean[0, 2], first)
    noisy = threes(run("sample", low_res, **options, **{"sample.picture_noise": 0.5}))
    change = np.abs(noisy - clean).mean(axis=(0, 2, 3))
    assert change[0] > 10  # s = 0.5 is as much noise as picture
    assert change[2] == 0


def test_a_small_file_is_enlarged_by_the_network(low_res, tmp_path):
    small = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    Image.fromarray(small).save(tmp_path / "small.png")
    folder = run("upscale", low_res, **{"edit.image": tmp_path / "small.png"})
    record = json.loads((folder / "edit.json").read_text())
    assert record["mode"] == "upscale"
    made = images_in(folder, "images.npz")
    assert made.shape == (4, SIDE, SIDE)
    assert (made[0] != made[1]).any(), "each image has noise of its own"
    # The same file, enlarged by repeating, is the same picture.
    large = small.repeat(2, 0).repeat(2, 1)
    Image.fromarray(large).save(tmp_path / "large.png")
    again = run("upscale", low_res, **{"edit.image": tmp_path / "large.png"})
    np.testing.assert_array_equal(images_in(again, "images.npz"), made)
    # And another one another.
    Image.fromarray(255 - large).save(tmp_path / "other.png")
    other = run("upscale", low_res, **{"edit.image": tmp_path / "other.png"})
    assert (images_in(other, "images.npz") != made).any()


def test_what_is_known_is_kept_by_a_network_that_fills(masked, tmp_path):
    white = np.zeros((SIDE, SIDE), np.uint8)
    white[SIDE // 2 :] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    options = {"edit.image": "data:0", "edit.mask": tmp_path / "mask.png"}
    made = images_in(run("inpaint", masked, **options), "images.npz")
    real = load("digits", split="train").source[0]["image"][..., 0]
    np.testing.assert_array_equal(made[:, :4], np.stack([real[:4]] * 4))
    assert (made[0, 4:] != made[1, 4:]).any()
    # What lies under the mask is not looked at.
    Image.fromarray(np.where(white, 255 - real, real)).save(tmp_path / "other.png")
    options["edit.image"] = tmp_path / "other.png"
    again = images_in(run("inpaint", masked, **options), "images.npz")
    np.testing.assert_array_equal(again, made)


def test_a_network_colours_by_the_luma_alone(grey, tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    folder = run("colorize", grey, **{"edit.image": tmp_path / "grey.png"})
    with np.load(folder / "images.npz") as stored:
        assert stored["arr_0"].shape == (4, 8, 8, 3)


def test_the_scores_of_a_network_that_enlarges_are_over_pictures_of_a_split(low_res):
    features = low_res.parent / "features"
    small = ["channels=4", "num_groups=4", "channel_multipliers=(1,)", "num_features=8"]
    given = [f"--config.network.{size}" for size in small]
    short = ["num_steps=2", "warmup_steps=1", "batch_size=8"]
    given += [f"--config.training.{option}" for option in short]
    recipe = f"--config={ROOT / 'configs' / 'digits_features.py'}"
    assert main([recipe, f"--workdir={features}", *given]) == 0
    options = {
        "evaluate.features": features,
        "evaluate.num_images": 12,
        "evaluate.batch_size": 12,
        "evaluate.allow_few": True,
        "sample.picture": "data:test",
    }
    assert main(["evaluate", f"{low_res}", *flags("evaluate", **options)]) == 0


@pytest.mark.parametrize(
    ("model", "mode", "options", "message"),
    [
        ("low_res", "image-to-image", {"edit.image": "data:0"}, "use edit upscale"),
        ("low_res", "inpaint", {"edit.image": "data:0"}, "use edit upscale"),
        ("masked", "upscale", {"edit.image": "data:0"}, "use edit inpaint"),
        ("low_res", "likelihood", {}, "only beside one"),
        ("low_res", "export", {}, "diffusers does not have; it has unet"),
        (
            "low_res",
            "upscale",
            {"edit.image": "data:0", "edit.factor": 4},
            "2 times larger",
        ),
        (
            "low_res",
            "upscale",
            {"edit.image": "data:0", "edit.method": "project"},
            "is not a way to upscale; use trained",
        ),
        ("low_res", "sample", {"sample.picture_noise": 0.6}, "is not in [0, 0.5]"),
        ("masked", "sample", {"sample.picture_noise": 0.1}, "is not in [0, 0]"),
        ("low_res", "sample", {"sample.picture": "a.png"}, "or edit upscale for"),
        ("finished", "sample", {"sample.picture": "data:test"}, "without pictures"),
        (
            "finished",
            "upscale",
            {"edit.image": "data:0", "edit.method": "trained"},
            "is not a way to upscale; use project",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    request, capsys, tmp_path, model, mode, options, message
):
    workdir = request.getfixturevalue(model)
    command = mode if mode in COMMANDS else f"edit {mode}"
    given = flags(command, **options)
    if mode == "export":
        given.append(f"{tmp_path / 'out'}")
    capsys.readouterr()
    assert main([*command.split(), f"{workdir}", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
