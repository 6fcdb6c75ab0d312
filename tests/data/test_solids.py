"""Renders of solids as data: each a pure function of split and index, captions true."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data import NoSplitError, in_memory, load
from ddpm_jax.data.solids import COUNTS, camera_of, load_solids
from ddpm_jax.data.spec import Data
from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras
from ddpm_jax.scenes.cameras import CameraRange
from ddpm_jax.scenes.solids import SOLIDS, render

NAMES = tuple(SOLIDS)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "solids.md").read_text()


def test_images_are_a_function_of_split_and_index():
    few, more = load("solids:8", image_size=8), load("solids:20", image_size=8)
    images, labels = in_memory(few)
    again, _ = in_memory(load("solids:8", image_size=8))
    np.testing.assert_array_equal(images, again)  # bit for bit
    np.testing.assert_array_equal(
        images[[7, 2]], [more.source[i]["image"] for i in (7, 2)]
    )
    assert few.texts == more.texts[:8] and few.fingerprint != more.fingerprint
    assert images.dtype == np.uint8 and images.shape == (8, 8, 8, 3)
    np.testing.assert_array_equal(labels, np.arange(8) % 6)
    assert few.label_names == NAMES and few.source.label(7) == 1
    tested, _ = in_memory(load("solids:8", image_size=8, split="test"))
    assert all((a != b).any() for a, b in zip(images, tested, strict=True))
    # The colors that a checked-in render has: the mug of example 2 of training.
    assert load("solids").shape == (32, 32, 3)


def test_an_image_is_the_render_of_its_solid_by_its_camera():
    dataset = load("solids:lamp,car:5", image_size=(6, 9), split="test")
    camera = camera_of("test", np.arange(5))
    for index in range(5):
        one = cameras.Camera(*(field[index] for field in camera))
        solid = SOLIDS[("lamp", "car")[index % 2]]
        expected = np.rint(255 * render(solid, one, (6, 9)).image)
        np.testing.assert_array_equal(dataset.source[index]["image"], expected)
    assert dataset.label_names == ("lamp", "car")


def test_cameras_are_even_between_their_limits():
    ranges, camera = CameraRange(), camera_of("train", np.arange(2000))
    for name, degrees in (
        ("azimuth", True),
        ("elevation", True),
        ("distance", False),
        ("field_of_view", True),
    ):
        low, high = getattr(ranges, name)
        values = getattr(camera, name)
        shares = ((np.rad2deg(values) if degrees else values) - low) / (high - low)
        assert shares.min() >= 0 and shares.max() <= 1
        # Of a uniform share: mean 1/2, variance 1/12; 5 standard errors.
        assert shares.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * 2000))
        assert shares.var() == pytest.approx(1 / 12, abs=5 / np.sqrt(180 * 2000))
    pairs = np.corrcoef(np.stack(camera))
    assert np.abs(pairs - np.eye(4)).max() < 5 / np.sqrt(2000)


def test_captions_name_the_solid_and_the_side_that_is_seen():
    dataset = load("solids:600", image_size=8)
    camera = camera_of("train", np.arange(600))
    azimuth, elevation = np.rad2deg(camera.azimuth), np.rad2deg(camera.elevation)
    sides = ("the front", "the left side", "the back", "the right side")
    for i, text in enumerate(dataset.texts):
        # By the angle to each side's own azimuth, apart from `view_of`.
        apart = np.abs((azimuth[i] - np.array([0, 90, 180, 270]) + 180) % 360 - 180)
        side = "overhead" if elevation[i] >= 60 else sides[apart.argmin()]
        assert text == f"a {NAMES[i % 6]}, seen from {side}"
    assert len(set(dataset.texts)) == 6 * 5
    assert set(load("solids:blind:600").texts) == {f"a {name}" for name in NAMES}


def test_numpy_cameras_keep_to_numpy_and_agree_with_those_of_jax():
    camera = camera_of("train", np.arange(50))
    views = cameras.view_of(camera)
    assert isinstance(views, np.ndarray)
    degrees = [np.rad2deg(camera.azimuth), np.rad2deg(camera.elevation)]
    np.testing.assert_array_equal(
        views, cameras.view_of(cameras.from_degrees(*degrees))
    )


def test_names_counts_and_blindness():
    assert len(load("solids")) == 6 * COUNTS["train"]
    assert len(load("solids", split="test")) == 6 * COUNTS["test"]
    two = load("solids:snowman,car")
    assert len(two) == 2 * COUNTS["train"] and two.label_names == ("snowman", "car")
    assert len(load("solids:blind:mug:7")) == 7
    fingerprints = {
        load(f"solids{rest}", image_size=8, split=split).fingerprint
        for rest in (":6", ":7", ":mug:6", ":blind:6", "")
        for split in COUNTS
    }
    assert len(fingerprints) == 10
    blind, seeing = (
        load(f"solids{rest}:3", image_size=8).source[2] for rest in (":blind", "")
    )
    np.testing.assert_array_equal(blind["image"], seeing["image"])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("solids:teapot", {}, "'teapot', which is no solid; use some of snowman,car"),
        ("solids:", {}, "'', which is no solid"),
        ("solids:car,car", {}, "names a solid twice"),
        ("solids:0", {}, "use one from 1"),
        ("solids:car:many", {}, "names no number"),
        ("solids:car:7:8", {}, "names no number"),
        ("solids", {"channels": 1}, "rendered in color"),
        ("solids", {"pad_to": 40}, "give image_size alone"),
        ("solids", {"resize": "squash"}, "does nothing"),
        ("solids", {"hold_out": 5}, "leave it out"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(source, options, message):
    with pytest.raises(UserError, match=message) as found:
        load(source, **options)
    assert "\n" not in str(found.value)


def test_the_example_of_the_document_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    tree = ast.parse(code.replace("views, 64", "views, 8"))
    assert isinstance(tree.body[-1], ast.Assert)
    monkeypatch.chdir(tmp_path)
    exec(compile(tree, "solids.md", "exec"), {})
    assert (tmp_path / "solids.png").exists()


def test_the_document_counts_the_images():
    counts = [f"{6 * COUNTS[split]:,}" for split in ("train", "test")]
    assert f"{counts[0]} for training, {counts[1]} of the split `test`" in DOCUMENT
    said = re.sub(r"\s+", " ", DOCUMENT)
    assert all(f"a {name}" in said for name in NAMES)


def test_splits_and_mirrored_images_are_refused():
    with pytest.raises(NoSplitError, match="use train, test"):
        load_solids(None, split="all", layout=None)
    with pytest.raises(UserError, match="left and right"):
        Data(source="solids", flip=True).open()
