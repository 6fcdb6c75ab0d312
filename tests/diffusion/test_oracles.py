"""The oracles by a second route: Tweedie's formula and a numerical integral."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion.schedules import Level

MEAN = np.array([0.3, -0.2, 0.1])
DIAGONAL = np.array([0.5, 0.02, 1.5])
ROOT = np.array([[0.7, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.5, 0.3]])
FULL = ROOT @ ROOT.T
WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-1.0, 0.5, 0.0], [0.8, 0.1, -0.4]])
VARIANCES = np.array([0.05, 0.3])

CASES = {
    "diagonal": (
        oracles.gaussian(MEAN, DIAGONAL),
        lambda x, a, s: oracles.gaussian_log_density(x, MEAN, DIAGONAL, a, s),
    ),
    "full": (
        oracles.gaussian(MEAN, FULL),
        lambda x, a, s: oracles.gaussian_log_density(x, MEAN, FULL, a, s),
    ),
    "mixture": (
        oracles.mixture(WEIGHTS, MEANS, VARIANCES),
        lambda x, a, s: oracles.mixture_log_density(x, WEIGHTS, MEANS, VARIANCES, a, s),
    ),
    "finite": (
        oracles.finite(MEANS),
        lambda x, a, s: oracles.mixture_log_density(
            x, [0.5, 0.5], MEANS, [0.0, 0.0], a, s
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_eps_is_minus_sigma_times_the_gradient_of_the_log_density(name, alpha):
    """Tweedie's formula, with the gradient by central differences in float64."""
    denoise, log_density = CASES[name]
    sigma = np.sqrt(1 - alpha**2)
    x = np.random.default_rng(0).standard_normal((5, 3))
    level = Level(jnp.float32(0), jnp.float32(alpha), jnp.float32(sigma))
    prediction = denoise(jnp.asarray(x, jnp.float32), level)
    step = 1e-5 * np.eye(3)
    gradient = np.stack(
        [
            (log_density(x + h, alpha, sigma) - log_density(x - h, alpha, sigma)) / 2e-5
            for h in step
        ],
        axis=-1,
    )
    np.testing.assert_allclose(prediction.eps, -sigma * gradient, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(
        alpha * prediction.x0 + sigma * prediction.eps, x, atol=2e-6
    )


def test_densities_of_the_gaussian_and_of_a_mixture_of_one_agree():
    """Standard normal data stay standard normal: log q(0) = -3/2 log 2 pi."""
    at_zero = oracles.gaussian_log_density(
        np.zeros((1, 3)), np.zeros(3), np.ones(3), 0.6, 0.8
    )
    np.testing.assert_allclose(at_zero, -1.5 * np.log(2 * np.pi), rtol=1e-12)
    x = np.random.default_rng(1).standard_normal((4, 3))
    one = oracles.mixture_log_density(x, [1.0], [MEAN], [0.3], 0.6, 0.8)
    np.testing.assert_allclose(
        one, oracles.gaussian_log_density(x, MEAN, np.full(3, 0.3), 0.6, 0.8)
    )


def test_reverse_variance_by_integrating_the_joint_density():
    """var(x_s | x_t) of N(0.4, 0.09) data on a fine lattice of x_s, by Bayes' rule."""
    alpha_s, alpha_t, value, x_t = 0.9, 0.7, 0.09, 0.5
    x_s = np.linspace(-6, 6, 20001)
    factor = alpha_t / alpha_s
    noise = (1 - alpha_t**2) - factor**2 * (1 - alpha_s**2)
    log_joint = (
        -0.5 * (x_s - alpha_s * 0.4) ** 2 / (alpha_s**2 * value + 1 - alpha_s**2)
        - 0.5 * (x_t - factor * x_s) ** 2 / noise
    )
    density = np.exp(log_joint)
    density /= density.sum()
    mean = np.sum(density * x_s)
    expected = np.sum(density * (x_s - mean) ** 2)
    t, s = (
        Level(jnp.float32(0), jnp.float32(a), jnp.float32(np.sqrt(1 - a * a)))
        for a in (alpha_t, alpha_s)
    )
    variance = oracles.gaussian_variance([value])(t, s)
    np.testing.assert_allclose(variance, [[expected]], rtol=1e-5)
