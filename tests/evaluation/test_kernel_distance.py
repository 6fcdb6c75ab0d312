import itertools

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import kernel_distance as kernel_module
from ddpm_jax.evaluation.kernel_distance import kid, polynomial_kernel, squared_mmd


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


@pytest.mark.parametrize(("counts", "size"), [((400, 400), 100), ((600, 200), 1000)])
def test_the_standard_error_is_that_of_drawing_all_images_anew(counts, size):
    """Not that of drawing more subsets of the same images, which can be made small."""
    rng = np.random.default_rng(3)
    found = [
        kid(
            rng.standard_normal((counts[0], 4)),
            rng.standard_normal((counts[1], 4)) + 2.0,
            seed=seed,
            num_subsets=20,
            subset_size=size,
        )
        for seed in range(100)
    ]
    spread = np.std([one.value for one in found], ddof=1)
    # The spread of 100 is known to 7%; the variances of 10 groups in the mean to 5%.
    error = np.mean([one.standard_error**2 for one in found]) ** 0.5
    assert 0.8 * spread < error < 1.25 * spread


def test_of_one_law_the_standard_error_is_too_large_by_no_more_than_is_said():
    rng = np.random.default_rng(5)
    found = [kid(*rng.standard_normal((2, 200, 4)), seed=seed) for seed in range(100)]
    spread = np.std([one.value for one in found], ddof=1)
    error = np.mean([one.standard_error**2 for one in found]) ** 0.5
    assert spread < error < 1.25 * 10**0.5 * spread


def test_a_much_larger_set_is_not_held_whole_in_one_kernel(monkeypatch):
    sizes = []

    def watched(a, b):
        sizes.append(len(a) * len(b))
        return polynomial_kernel(a, b)

    monkeypatch.setattr(kernel_module, "polynomial_kernel", watched)
    rng = np.random.default_rng(6)
    found = kid(rng.standard_normal((40, 3)), rng.standard_normal((5000, 3)))
    assert found.standard_error > 0
    assert max(sizes) <= 40**2


def test_three_images_have_no_standard_error():
    rng = np.random.default_rng(7)
    assert kid(*rng.standard_normal((2, 3, 4))).standard_error is None
    assert kid(*rng.standard_normal((2, 4, 4))).standard_error > 0


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(value):
    broken = np.zeros((5, 3))
    broken[3, 1] = value
    with pytest.raises(UserError, match=r"1 of 5 images .* image 3;"):
        kid(np.zeros((6, 3)), broken)
