"""Drawn points: what a request may hold, and what a model learns of them."""

import math

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.playground import train_points as module
from ddpm_jax.playground.canvas import FEWEST, MOST, points_of
from ddpm_jax.playground.gate import POINTS, Refused, _checked_value


def ring(count=600, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, count)
    on = 0.6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (on + rng.normal(0, 0.02, (count, 2)) + [0.1, -0.2]).astype(np.float32)


def test_points_are_read():
    rows = [[-1, 1], [0.25, -0.5]] * FEWEST
    points = points_of({"points": rows})
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, rows)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "0 points are drawn"),
        ({}, "0 points are drawn"),
        ({"points": [[0, 0]] * (FEWEST - 1)}, f"{FEWEST - 1} points are drawn"),
        ({"points": [[0, 0]] * (MOST + 1)}, f"{MOST + 1} points are drawn"),
        ({"points": [[0, 1.001]] * FEWEST}, "no list of points"),
        ({"points": [[0, math.nan]] * FEWEST}, "no list of points"),
        ({"points": [[0, math.inf]] * FEWEST}, "no list of points"),
        ({"points": [[0, 10**400]] * FEWEST}, "no list of points"),
        ({"points": [[0, True]] * FEWEST}, "no list of points"),
        ({"points": [[0]] * FEWEST}, "no list of points"),
        ({"points": ["ab"] * FEWEST}, "no list of points"),
        ({"points": "ab"}, "no list of points"),
    ],
)
def test_what_is_no_drawing_is_refused(value, said):
    with pytest.raises(UserError, match=said):
        points_of(value)


def test_the_gate_lets_points_through_and_nothing_beside_them(tmp_path):
    value = {"points": [[0, 0.5], [1, -1]], "path": "/etc/passwd"}
    assert _checked_value(value, POINTS, tmp_path) == {"points": value["points"]}
    for wrong in ({"points": [["/etc/passwd", 1]]}, {"points": [{}]}, "text", 3):
        with pytest.raises(Refused):
            _checked_value(wrong, POINTS, tmp_path)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_model_learns_the_drawing(monkeypatch, seed):
    monkeypatch.setattr(module, "NUM_STEPS", 500)
    points = ring(seed=seed)
    *_, last = module.train_points(points, seed)
    assert last.step == 500
    assert last.frames.shape == (module.NUM_FRAMES, module.NUM_SAMPLES, 2)

    def off(x):
        """Mean distance from the circle that was drawn."""
        return np.abs(np.hypot(*(x - [0.1, -0.2]).T) - 0.6).mean()

    # E|N(0, 1)| 0.02 is 0.016; of the noise of the same deviation it is 0.2.
    assert off(last.frames[-1]) < 0.06
    assert off(last.frames[0]) > 0.15
    # It is all of the circle: no direction is left out.
    x, y = (last.frames[-1] - [0.1, -0.2]).T
    shares = np.histogram(np.arctan2(y, x), bins=8, range=(-np.pi, np.pi))[0]
    assert shares.min() > 0.04 * module.NUM_SAMPLES


def test_a_seed_is_its_own_training_and_the_same_again(monkeypatch):
    monkeypatch.setattr(module, "NUM_STEPS", 100)
    ends = [[*module.train_points(ring(), seed)][-1] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(ends[0].frames, ends[1].frames)
    assert not np.array_equal(ends[0].frames, ends[2].frames)


def test_repeating_the_points_to_one_size_leaves_them_as_likely(monkeypatch):
    """Rows beyond the count are never drawn: their place among them is."""
    monkeypatch.setattr(module, "NUM_STEPS", 100)
    points = ring(FEWEST)
    (*_, one), (*_, twice) = (
        [*module.train_points(p, 0)] for p in (points, np.tile(points, (3, 1)))
    )
    assert np.isfinite(one.frames).all() and np.isfinite(twice.frames).all()
    np.testing.assert_allclose(
        one.frames[0], twice.frames[0], rtol=1e-5, atol=1e-5
    )  # the same noise, mean and deviation
