"""Exact answers: data whose optimal denoiser, density and reverse variance are known.

For Gaussian data, a mixture of Gaussians and a finite data set the posterior mean
E[x_0 | x_t] has a closed form, so that samplers, bounds and losses can be run without a
network and compared with numbers that involve no sampling and no training. The
denoisers are `Denoiser` functions in float32; densities and tables are float64 NumPy.
`test_oracles.py` holds them against each other by Tweedie's formula.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.process import Prediction


def alpha_bars(betas):
    """The textbook products: float64 [T + 1], entry 0 the clean image."""
    return np.concatenate([[1.0], np.cumprod(1.0 - np.asarray(betas, np.float64))])


def quantize(x):
    """Round to the nearest of 256 values on [-1, 1]."""
    return np.round((np.clip(x, -1, 1) + 1) * 127.5) / 127.5 - 1


def column(value, rank=2):
    """Give a `[]` or `[B]` leaf of a level trailing axes up to this rank."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (rank - value.ndim))


# --- Gaussian data N(mean, covariance) ------------------------------------------------


def gaussian(mean, covariance):
    """The optimal denoiser of N(mean [D], covariance [D] or [D, D]); x_t [B, ...].

    In the eigenbasis of the covariance, with eigenvalue v,
    E[x_0 | x_t] = mean + alpha v / (alpha^2 v + sigma^2) (x_t - alpha mean).
    """
    mean = np.asarray(mean, np.float64)
    covariance = np.asarray(covariance, np.float64)
    diagonal = covariance.ndim < 2
    values, basis = (covariance, None) if diagonal else np.linalg.eigh(covariance)
    values, mean = jnp.asarray(values, jnp.float32), jnp.asarray(mean, jnp.float32)
    basis = None if diagonal else jnp.asarray(basis, jnp.float32)

    def denoise(x_t, level, cond=None):
        del cond
        alpha, sigma = column(level.alpha), column(level.sigma)
        flat = x_t.reshape(x_t.shape[0], -1) - alpha * mean
        if not diagonal:
            flat = jnp.matmul(flat, basis, precision="highest")
        scaled = flat / (alpha**2 * values + sigma**2)
        x0, eps = alpha * values * scaled, sigma * scaled
        if not diagonal:
            x0 = jnp.matmul(x0, basis.T, precision="highest")
            eps = jnp.matmul(eps, basis.T, precision="highest")
        return Prediction((mean + x0).reshape(x_t.shape), eps.reshape(x_t.shape))

    return denoise


def gaussian_log_density(x, mean, covariance, alpha, sigma):
    """log q(x_t) of noised Gaussian data: float64 [B]."""
    covariance = np.asarray(covariance, np.float64)
    full = np.diag(covariance) if covariance.ndim < 2 else covariance
    noised = alpha**2 * full + sigma**2 * np.eye(len(full))
    off = np.asarray(x, np.float64) - alpha * np.asarray(mean, np.float64)
    distance = np.sum(off * np.linalg.solve(noised, off.T).T, axis=-1)
    return -0.5 * (distance + np.linalg.slogdet(2 * np.pi * noised)[1])


def gaussian_variance(values):
    """The optimal reverse variance for N(mean, diag(values [D])): a `Variance`.

    var(x_s | x_t) = sigma_s^2 c + (alpha_s c)^2 var(x_0 | x_t), the law of total
    variance over eq. (4) and (5) of `process`; at the clean end it is var(x_0 | x_1),
    whatever `first` is.
    """
    values = jnp.asarray(values, jnp.float32)

    def variance(t, s, prediction=None, decoder_var=0.0):
        del prediction, decoder_var
        left = values * column(t.sigma) ** 2
        of_x0 = left / (column(t.alpha) ** 2 * values + column(t.sigma) ** 2)
        c = column(1.0 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2)
        return column(s.sigma) ** 2 * c + (column(s.alpha) * c) ** 2 * of_x0

    return variance


# --- A mixture of isotropic Gaussians, and a finite data set --------------------------


def mixture(weights, means, variances):
    """The optimal denoiser of sum_k weights_k N(means_k [D], variances_k I).

    The posterior mean is that of each component, weighed by its responsibility.
    """
    log_weights = jnp.asarray(np.log(weights), jnp.float32)
    means = jnp.asarray(means, jnp.float32)
    variances = jnp.asarray(variances, jnp.float32)

    def denoise(x_t, level, cond=None):
        del cond
        alpha, sigma = column(level.alpha, 3), column(level.sigma, 3)
        flat = x_t.reshape(x_t.shape[0], 1, -1)  # [B, 1, D] against [K, D]
        spread = alpha**2 * variances[:, None] + sigma**2  # [., K, 1]
        off = flat - alpha * means  # [B, K, D]
        scores = log_weights[:, None] - 0.5 * (
            jnp.sum(off**2, -1, keepdims=True) / spread
            + means.shape[1] * jnp.log(spread)
        )
        share = jax.nn.softmax(scores, axis=1)  # [B, K, 1]
        x0 = jnp.sum(share * (means + alpha * variances[:, None] * off / spread), 1)
        eps = jnp.sum(share * (sigma * off / spread), 1)
        return Prediction(x0.reshape(x_t.shape), eps.reshape(x_t.shape))

    return denoise


def mixture_log_density(x, weights, means, variances, alpha, sigma):
    """log q(x_t) of a noised mixture: float64 [B]."""
    means = np.asarray(means, np.float64)
    spread = alpha**2 * np.asarray(variances, np.float64) + sigma**2  # [K]
    off = np.asarray(x, np.float64)[:, None] - alpha * means
    scores = (
        np.log(weights)
        - 0.5 * np.sum(off**2, -1) / spread
        - 0.5 * means.shape[1] * np.log(2 * np.pi * spread)
    )
    return np.logaddexp.reduce(scores, axis=-1)


def finite(points):
    """The optimal denoiser of a data set of points [K, D], each equally likely."""
    num = len(points)
    return mixture(np.full(num, 1 / num), points, np.zeros(num))
