"""Points in the plane: moments, exact densities, classes, and files of one's own."""

import math

import numpy as np
import pytest

from ddpm_jax import data
from ddpm_jax.data.points import MIXTURES, NAMES, SIZES, load_points
from ddpm_jax.errors import UserError


def points_of(name, split="train"):
    found = data.load(f"points:{name}", split=split)
    return np.asarray(found.source.items, np.float64), found.source.labels


@pytest.mark.parametrize("name", NAMES)
def test_coordinates_are_of_mean_zero_and_unit_variance(name):
    points, labels = points_of(name)
    assert points.shape == (SIZES["train"], 2)
    np.testing.assert_allclose(points.mean(0), 0, atol=0.05)
    assert points.var(0).mean() == pytest.approx(1, abs=0.03)
    if labels is not None:  # each class is drawn as often as any
        share = np.bincount(labels) / len(labels)
        np.testing.assert_allclose(share, 1 / len(share), atol=4 * 0.5 / 141)


def test_points_are_a_function_of_name_and_split():
    one, again = (load_points("ring", split="train") for _ in range(2))
    np.testing.assert_array_equal(one.source.items, again.source.items)
    assert one.fingerprint == again.fingerprint
    test, _ = points_of("ring", "test")
    assert not set(map(tuple, test)) & set(map(tuple, one.source.items.tolist()))
    fingerprints = {
        load_points(name, split=s).fingerprint for name in NAMES for s in SIZES
    }
    assert len(fingerprints) == len(NAMES) * len(SIZES)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_density_of_a_mixture(name):
    mixture, (points, labels) = MIXTURES[name], points_of(name)
    count, std = len(mixture.centers), mixture.std
    # Around each center lies its share, all but what is beyond 6 deviations.
    line = np.linspace(-6, 6, 121) * std
    x, y = np.meshgrid(line, line, indexing="ij")
    square = np.stack([x.ravel(), y.ravel()], axis=1)
    for center in mixture.centers[[0, count // 2, -1]]:
        density = np.exp(mixture.log_density(center + square))
        mass = density.sum() * (line[1] - line[0]) ** 2
        assert mass == pytest.approx(1 / count, rel=1e-6)
    # Entropy of Gaussians far apart: that of one, and of the choice among them. Half a
    # chi-squared of two degrees has a deviation of 1.
    entropy = math.log(count) + 1 + math.log(2 * math.pi * std**2)
    found = -mixture.log_density(points).mean()
    assert found == pytest.approx(entropy, abs=4 / math.sqrt(len(points)))
    # A point's class is its nearest center.
    nearest = np.linalg.norm(points[:, None] - mixture.centers, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, labels)


def test_a_checkerboard_is_uniform_on_its_dark_squares():
    points, _ = points_of("checkerboard")
    place = points / (math.sqrt(3) / 2) + 2
    assert (place > 0).all() and (place < 4).all()
    column, row = np.floor(place).astype(int).T
    assert ((column + row) % 2 == 0).all()
    count = np.bincount(4 * column + row, minlength=16)
    dark = count[count > 0]
    assert len(dark) == 8
    np.testing.assert_allclose(dark / len(points), 1 / 8, atol=4 * 0.33 / 141)
    within = place - np.floor(place)
    np.testing.assert_allclose(within.mean(0), 0.5, atol=4 * 0.29 / 141)
    np.testing.assert_allclose(within.var(0), 1 / 12, rtol=0.05)


def test_a_file_of_points(tmp_path):
    rng = np.random.default_rng(0)
    given = rng.normal([5, -3], 2.0, (50, 2))
    words = ["b" if x > 5 else "a" for x, _ in given]
    lines = [
        "x,y,kind",
        *(f"{x},{y},{w}" for (x, y), w in zip(given, words, strict=True)),
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    found = data.load(f"points:file:{tmp_path}/p.csv")
    items = np.asarray(found.source.items, np.float64)
    np.testing.assert_allclose(items.mean(0), 0, atol=1e-6)
    assert items.var(0).mean() == pytest.approx(1, rel=1e-5)
    # Moved and scaled alike each way: shapes stay.
    ratio = (given - given.mean(0)) / items
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    assert found.label_names == ("a", "b")
    assert [found.label_names[label] for label in found.source.labels] == words
    test = data.load(f"points:file:{tmp_path}/p.csv", split="test", hold_out=5)
    np.testing.assert_array_equal(test.source.items, found.source.items[4::5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("x,y\n1,2\n3,four\n", "3,four"),
        ("1,2\n3,nan\n", "two finite numbers"),
        ("1,2,3,4\n5,6,7,8\n", "write x,y"),
        ("1,2\n3,4,a\n", "all alike"),
        ("x,y\n1,2\n", "two or more"),
        ("1,2\n1,2\n", "points that differ"),
        (b"\xff\xfe\x00", "no table of text"),
    ],
)
def test_a_file_that_holds_no_points_is_one_line(tmp_path, text, message):
    path = tmp_path / "p.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        data.load(f"points:file:{path}")
    assert "\n" not in str(caught.value)


def test_what_there_is_not():
    with pytest.raises(UserError, match="use ring, grid, moons"):
        data.load("points:rings")
    with pytest.raises(data.NoSplitError, match="use train or test"):
        data.load("points:ring", split="dev")
    with pytest.raises(UserError, match="image_size=8 is for image files"):
        data.load("points:ring", image_size=8)
