"""The Frechet distance where it is known, and its bias where that is known."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import mean_covariance
from ddpm_jax.evaluation.frechet import fid_infinity, frechet_distance


def covariance(rng, size, rank=None):
    factor = rng.standard_normal((size, rank or 2 * size))
    return factor @ factor.T / size


def test_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    turn = ortho_group.rvs(6, random_state=1)
    a, b = rng.uniform(0, 4, 6), rng.uniform(0, 4, 6)
    b[:2] = 0  # a Gaussian that is flat in two directions
    mean = rng.standard_normal((2, 6))
    expected = ((mean[0] - mean[1]) ** 2).sum() + ((a**0.5 - b**0.5) ** 2).sum()
    found = frechet_distance(mean[0], turn * a @ turn.T, mean[1], turn * b @ turn.T)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_two_dimensions_by_hand():
    # det and trace of S_a S_b give its root's trace: t^2 = tr + 2 sqrt(det).
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    product = a @ b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(a) + np.trace(b) - 2 * root
    zero = np.zeros(2)
    np.testing.assert_allclose(frechet_distance(zero, a, zero, b), expected, rtol=1e-12)


def test_full_rank_agrees_with_the_matrix_root():
    rng = np.random.default_rng(2)
    a, b = covariance(rng, 20), covariance(rng, 20)
    mean_a, mean_b = rng.standard_normal((2, 20))
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    np.testing.assert_allclose(
        frechet_distance(mean_a, a, mean_b, b), expected, rtol=1e-9
    )
    np.testing.assert_allclose(
        frechet_distance(mean_b, b, mean_a, a), expected, rtol=1e-9
    )


def test_a_rotation_changes_nothing_and_a_translation_its_square():
    rng = np.random.default_rng(3)
    a, b = covariance(rng, 12), covariance(rng, 12)
    zero, shift = np.zeros(12), rng.standard_normal(12)
    turn = ortho_group.rvs(12, random_state=4)
    plain = frechet_distance(zero, a, zero, b)
    turned = frechet_distance(zero, turn @ a @ turn.T, zero, turn @ b @ turn.T)
    np.testing.assert_allclose(turned, plain, rtol=1e-11)
    moved = frechet_distance(zero, a, shift, b)
    np.testing.assert_allclose(moved - plain, shift @ shift, rtol=1e-11)


@pytest.mark.parametrize("count", [5, 30, 500])
def test_a_set_is_at_no_distance_from_itself(count):
    """Also with fewer images than features, where roots of rounding noise add up."""
    x = 100 * np.random.default_rng(5).standard_normal((count, 64)).astype(np.float32)
    own = mean_covariance.from_vectors(x)
    cov = mean_covariance.covariance(own)
    found = frechet_distance(own.mean, cov, own.mean, cov)
    assert abs(found) < 1e-12 * np.trace(cov) * 64


def test_few_images_in_many_features_are_exact():
    """Two planes of 64 dimensions: the trace of the root from the factors alone."""
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 5, 64))  # S = A^T A, rank 5
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = (a**2).sum() + (b**2).sum() - 2 * root
    zero = np.zeros(64)
    found = frechet_distance(zero, a.T @ a, zero, b.T @ b)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("mean", "cov", "said"),
    [
        (np.zeros(3), np.eye(3), "one network"),
        (np.zeros(2), np.eye(3), r"want \[D\] and \[D, D\]"),
        (np.zeros(2), np.full((2, 2), np.nan), "not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(mean, cov, said):
    with pytest.raises(UserError, match=said):
        frechet_distance(mean, cov, np.zeros(2), np.eye(2))


# --- The bias -------------------------------------------------------------------------

SIZE = 16
ZERO, UNIT = np.zeros(SIZE), np.eye(SIZE)


def plain(x):
    own = mean_covariance.from_vectors(x)
    return frechet_distance(own.mean, mean_covariance.covariance(own), ZERO, UNIT)


def test_the_plain_distance_is_biased_by_a_term_in_one_over_n():
    """Of N draws of N(0, I) against it: E d^2 = (D + D(D+1)/4) / N to first order.

    The mean gives D / N. A covariance I + E has tr(I + S - 2 S^(1/2)) = tr(E^2) / 4 to
    second order, and the entries of E have variance 1/N, twice that on the diagonal.
    """
    rng = np.random.default_rng(7)
    for count in (500, 1000):
        draws = [plain(rng.standard_normal((count, SIZE))) for _ in range(60)]
        expected = (SIZE + (SIZE * (SIZE - 1) + 2 * SIZE) / 4) / count
        error = np.std(draws) / 60**0.5
        assert abs(np.mean(draws) - expected) < 4 * error + 0.05 * expected


def test_the_extrapolation_has_no_such_bias():
    rng = np.random.default_rng(8)
    sets = [rng.standard_normal((1000, SIZE)) for _ in range(24)]
    found = [fid_infinity(x, ZERO, UNIT, seed=i).value for i, x in enumerate(sets)]
    error = np.std(found) / 24**0.5
    bias = np.mean([plain(x) for x in sets])
    assert abs(np.mean(found)) < 4 * error
    assert abs(np.mean(found)) < 0.2 * bias
    # A shift is found at its size.
    shift = np.full(SIZE, 0.5)
    moved = fid_infinity(sets[0] + shift, ZERO, UNIT, seed=0)
    assert abs(moved.value - shift @ shift) < 0.3


def test_subsets_smaller_than_the_features_are_not_used():
    """Below D images the distance is off the line: the rank is that of the images."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((300, 64))
    found = fid_infinity(x, np.zeros(64), np.eye(64), seed=0)
    assert abs(found.value) < 0.15 * plain_of(x)


def plain_of(x):
    own = mean_covariance.from_vectors(x)
    size = x.shape[1]
    return frechet_distance(
        own.mean, mean_covariance.covariance(own), np.zeros(size), np.eye(size)
    )


def test_subsets_lie_evenly_in_one_over_n(monkeypatch):
    """1,000 images of 16 features, from a tenth of them on: 1 / N falls by 0.009 / 14
    from subset to subset, but for the rounding of N, which is at most 1 / (2 N^2)."""
    counts = []

    def counted(x, of=mean_covariance.from_vectors):
        counts.append(len(x))
        return of(x)

    monkeypatch.setattr(
        "ddpm_jax.evaluation.frechet.mean_covariance.from_vectors", counted
    )
    x = np.random.default_rng(11).standard_normal((1000, SIZE))
    fid_infinity(x, ZERO, UNIT, seed=0)
    counts = np.sort(counts)
    assert counts[0] == 100 and counts[-1] == 1000 and len(counts) == 15
    even = 0.01 - (0.01 - 0.001) / 14 * np.arange(15)
    assert np.all(np.abs(1 / counts - even) <= 0.51 / counts.astype(float) ** 2)
    # Even in N they would be 100, 164, 229, ...; even in 1 / N most are small.
    assert counts[1] == 107 and np.median(counts) == 182


def test_the_seed_decides_the_subsets():
    x = np.random.default_rng(10).standard_normal((200, 8))
    one, same, other = (
        fid_infinity(x, np.zeros(8), np.eye(8), seed=seed) for seed in (0, 0, 1)
    )
    assert one == same != other
