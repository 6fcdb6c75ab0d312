import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import mean_covariance


def test_merged_parts_are_the_moments_of_the_whole():
    x = np.random.default_rng(0).standard_normal((50, 4)) @ np.diag([1, 2, 3, 4.0])
    parts = [
        mean_covariance.from_vectors(x[:1]),
        mean_covariance.from_vectors(x[1:20]),
        mean_covariance.from_vectors(x[20:]),
    ]
    whole = mean_covariance.merge(mean_covariance.merge(parts[0], parts[1]), parts[2])
    assert whole.count == 50
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        mean_covariance.covariance(whole), np.cov(x.T), rtol=1e-12
    )


def test_a_large_mean_costs_no_digits():
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((1000, 3))
    x = spread + 1e7
    batches = [mean_covariance.from_vectors(part) for part in np.split(x, 10)]
    whole = batches[0]
    for part in batches[1:]:
        whole = mean_covariance.merge(whole, part)
    np.testing.assert_allclose(
        mean_covariance.covariance(whole), np.cov(spread.T), atol=1e-8
    )
    # Sums of squares would not do: this is what they leave.
    naive = (x.T @ x - 1000 * np.outer(x.mean(0), x.mean(0))) / 999
    assert np.abs(naive - np.cov(spread.T)).max() > 1e-3


def test_one_image_has_no_covariance():
    with pytest.raises(UserError, match="two or more"):
        mean_covariance.covariance(mean_covariance.from_vectors(np.ones((1, 3))))
