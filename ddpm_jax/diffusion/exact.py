r"""Exact denoisers: the answer that a network approximates, where it is known.

For data sum_k (1/K) N(c_k, s^2 I) the noised law at a level (alpha, sigma) is again a
mixture, of centers alpha c_k and variance v = alpha^2 s^2 + sigma^2, so that

    (1)  r_k(x_t)     = softmax_k(-|x_t - alpha c_k|^2 / 2 v)
    (2)  E[eps | x_t] = sigma / v * sum_k r_k (x_t - alpha c_k)
    (3)  E[x_0 | x_t] = sum_k r_k (c_k + alpha s^2 / v (x_t - alpha c_k)).

With s = 0 it is the denoiser of the finite set of points c_k: what a network without
limits would learn of a training set, and whose samples are its points.

Source: (2) and (3) are Bayes' rule for Gaussians, component by component; the score is
    -E[eps | x_t] / sigma (Efron 2011, "Tweedie's Formula and Selection Bias").
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.process import Prediction, like
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError


def mixture_denoiser(centers: np.ndarray, std: float = 0.0) -> Denoiser:
    """Make the exact denoiser of Gaussians of one deviation and equal weights.

    It is conditioned on nothing, whatever `cond` is. Memory is that of B x K x D
    numbers.

    Args:
        centers: c_k, [K, D].
        std: s, of each coordinate around its center; 0 for the points themselves.

    Raises:
        UserError: centers are no such array, or the deviation is negative.
    """
    places = np.asarray(centers, np.float32)
    if places.ndim != 2 or not len(places) or not std >= 0:
        raise UserError(
            f"centers of shape {list(places.shape)} with std={std}; want [K, D], one "
            "or more, and std 0 or above."
        )

    def denoise(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        del cond
        alpha, sigma = (like(leaf, x_t)[..., None] for leaf in level[1:])
        variance = alpha**2 * std**2 + sigma**2  # [B, 1, 1], or of one level
        off = x_t[:, None] - alpha * places  # [B, K, D]
        exponents = -0.5 * jnp.sum(off**2, axis=-1, keepdims=True) / variance
        share = jax.nn.softmax(exponents, axis=1)
        x0 = jnp.sum(share * (places + alpha * std**2 / variance * off), axis=1)
        eps = jnp.sum(share * off * (sigma / variance), axis=1)
        return Prediction(x0, eps)

    return denoise
