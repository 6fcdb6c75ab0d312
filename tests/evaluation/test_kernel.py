import itertools

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.kernel import kid, squared_mmd


def kernel(x, y):
    return (float(np.dot(x, y)) / len(x) + 1) ** 3


def test_the_estimator_is_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 3)), rng.standard_normal((4, 3)) + 1
    within_a = np.mean([kernel(x, y) for x, y in itertools.permutations(a, 2)])
    within_b = np.mean([kernel(x, y) for x, y in itertools.permutations(b, 2)])
    across = np.mean([kernel(x, y) for x in a for y in b])
    expected = within_a + within_b - 2 * across
    np.testing.assert_allclose(squared_mmd(a, b), expected, rtol=1e-12)
    # Few images are one subset, and are all used.
    small = kid(a[:4], b)
    np.testing.assert_allclose(small.value, squared_mmd(a[:4], b), rtol=1e-12)


def test_two_points_have_a_closed_form():
    """x is 0, y is 0 or 2 with equal chance: k(0, y) = 1, and k(2, 2) = 125."""
    rng = np.random.default_rng(1)
    exact = 1 + (3 * 1 + 125) / 4 - 2
    b = 2.0 * rng.integers(0, 2, (200, 1000, 1))
    found = [squared_mmd(np.zeros((10, 1)), one) for one in b]
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / 200**0.5


def test_one_distribution_gives_nothing_in_the_mean():
    rng = np.random.default_rng(2)
    found = [squared_mmd(*rng.standard_normal((2, 50, 6))) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 400**0.5
    assert min(found) < 0 < max(found)


def test_the_standard_error_is_that_of_drawing_all_images_anew():
    """Not that of drawing more subsets of the same images, which can be made small."""
    rng = np.random.default_rng(3)
    values, errors = [], []
    for seed in range(60):
        a = rng.standard_normal((400, 4))
        b = rng.standard_normal((400, 4)) * 1.2
        found = kid(a, b, seed=seed, num_subsets=40, subset_size=100)
        values.append(found.value)
        errors.append(found.standard_error)
    spread = np.std(values, ddof=1)
    assert spread / 1.6 < np.mean(errors) < spread * 1.6


def test_the_seed_decides_the_subsets():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 60, 3))
    one, same, other = (
        kid(a, b, seed=s, num_subsets=5, subset_size=20) for s in (0, 0, 1)
    )
    assert one == same != other


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="two or more"):
        kid(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(UserError, match="one network"):
        kid(np.zeros((5, 3)), np.zeros((5, 4)))
