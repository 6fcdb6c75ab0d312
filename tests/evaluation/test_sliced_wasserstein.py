"""Sliced Wasserstein distance: closed forms, and the sets of points."""

import math

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.sliced_wasserstein import sliced_wasserstein


def test_a_shift_and_a_scale():
    points = np.random.default_rng(0).standard_normal((500, 2))
    assert sliced_wasserstein(points, points[::-1]) == 0
    # Along u a shift by d moves all by d u, and the mean of cos^2 is 1/2.
    assert sliced_wasserstein(points, points + np.array([3.0, 4.0])) == pytest.approx(
        5 / math.sqrt(2)
    )
    # Twice as large: the mean square of the projections, in the plane half of |x|^2.
    spread = math.sqrt(np.square(points).sum(1).mean() / 2)
    assert sliced_wasserstein(points, 2 * points) == pytest.approx(spread)


@pytest.mark.parametrize("seed", range(3))
def test_random_directions_of_other_dimensions(seed):
    points = np.random.default_rng(seed).standard_normal((50, 5))
    shift = np.array([1.0, 0, 0, 0, 2.0])
    found = sliced_wasserstein(points, points + shift, num_directions=4000, seed=seed)
    # E (u d)^2 = |d|^2 / D; u_1^2 of the sphere has mean 1/5 and deviation .21.
    assert found**2 == pytest.approx(1, abs=5 * 0.21 * 5 / math.sqrt(4000))
    assert found == sliced_wasserstein(
        points, points + shift, num_directions=4000, seed=seed
    )


@pytest.mark.parametrize(
    ("other", "message"), [(np.zeros((3, 2)), "3 points"), (np.ones((2, 3)), "2 and 3")]
)
def test_sets_that_cannot_be_compared(other, message):
    with pytest.raises(UserError, match=message):
        sliced_wasserstein(np.zeros((2, 2)), other)
