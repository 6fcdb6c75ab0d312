"""The variational bound on the likelihood, term by term, in bits per dimension.

    -log p(x_0) <= E_q[ L_T + sum_{t=2..T} L_{t-1} + L_0 ]              [H] eq. (5)
    L_T     = KL(q(x_T | x_0) || N(0, I))                      prior term
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))    denoising terms
    L_0     = -log p(x_0 | x_1)                                decoder term

Data are 8-bit values scaled to [-1, 1]; the decoder is a Gaussian integrated over the
bin of each value, so that the bound is one on discrete data and in true bits.

Source: [H] Ho, Jain, Abbeel 2020, eq. (5), (8), (13) and section 4 (bits/dim).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from ddpm_jax.diffusion.denoisers import Cond, Denoiser, predict
from ddpm_jax.diffusion.generate import fold_each
from ddpm_jax.diffusion.process import (
    Prediction,
    Variance,
    add_noise,
    like,
    noise_like,
    posterior,
    small_variance,
)
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError


def gaussian_kl(
    mean1: jax.Array,
    variance1: jax.Array,
    mean2: jax.Array | float,
    variance2: jax.Array | float,
) -> jax.Array:
    """Compute KL(N(mean1, variance1) || N(mean2, variance2)) in nats, elementwise."""
    log_ratio = jnp.log(variance2) - jnp.log(variance1)
    # expm1(-r) + r = variance1/variance2 - 1 - log(variance1/variance2), and is exactly
    # 0 for equal variances; its rounding error shrinks with r.
    return 0.5 * (jnp.expm1(-log_ratio) + log_ratio + (mean1 - mean2) ** 2 / variance2)


def discretized_log_likelihood(
    x0: jax.Array, mean: jax.Array, std: jax.Array, num_values: int = 256
) -> jax.Array:
    """Integrate N(mean, std^2) over the bin of each value of x0: nats, elementwise.

    The bins of the lowest and highest value reach to infinity, so the probabilities of
    the `num_values` values sum to one.

    Args:
        x0: values on the grid -1, -1 + 2/(num_values - 1), ..., 1.
        mean: broadcasts against x0.
        std: broadcasts against x0.
        num_values: 256 for 8-bit data.

    Source: [H] eq. (13), with the exact normal distribution function; [H]'s code
        approximates it by a tanh.
    """
    half = 1.0 / (num_values - 1)
    upper = (x0 - mean + half) / std
    lower = (x0 - mean - half) / std
    # Phi(upper) - Phi(lower), taken in the tail where both are small: the normal
    # density is even, so a bin right of the mean is mirrored to the left.
    mirrored = lower > 0
    low = jnp.where(mirrored, -upper, lower)
    high = jnp.where(mirrored, -lower, upper)
    log_high = log_ndtr(high)
    gap = jnp.minimum(log_ndtr(low) - log_high, -1e-7)  # < 0; float32 may give 0
    inside = log_high + jnp.log(-jnp.expm1(gap))
    at_top, at_bottom = x0 > 1.0 - half, x0 < -1.0 + half
    return jnp.where(
        at_top, log_ndtr(-lower), jnp.where(at_bottom, log_ndtr(upper), inside)
    )


def bits_per_dim(nats: jax.Array) -> jax.Array:
    """Average nats [B, ...] over all axes but the first, in bits: [B]."""
    return jnp.mean(nats, axis=range(1, nats.ndim)) / jnp.log(2.0)


def prior_term(x0: jax.Array, level: Level) -> jax.Array:
    """Compute L_T: the information on the image left in q(x_T | x_0), bits/dim [B]."""
    mean = like(level.alpha, x0) * x0
    variance = like(level.sigma**2, x0)
    return bits_per_dim(gaussian_kl(mean, variance, 0.0, 1.0))


def decoder_variance(schedule: Schedule) -> jax.Array:
    """Choose the width of the decoder p(x_0 | x_1): beta_tilde_2, [].

    The posterior of the first step has no variance to copy; Ho et al.'s code gives the
    decoder that of the second, for both fixed variances.
    """
    return small_variance(schedule.at(jnp.int32(1)), schedule.at(jnp.int32(0)))


def step_term(
    prediction: Prediction,
    x0: jax.Array,
    x_t: jax.Array,
    t: Level,
    s: Level,
    *,
    variance: Variance,
    decoder_var: jax.Array | float,
) -> jax.Array:
    """Compute L_{t-1} where s is noisy, L_0 where s is the clean end: bits/dim [B].

    Args:
        prediction: the model's, at x_t.
        x0: 8-bit data on [-1, 1], [B, ...].
        x_t: [B, ...], drawn from q(x_t | x_0).
        t: the noisier level, leaves [] or [B].
        s: the level one step cleaner.
        variance: of the reverse step.
        decoder_var: variance of the decoder, from `decoder_variance`.
    """
    q_mean, q_variance = posterior(x_t, x0, t, s)
    p_mean, _ = posterior(x_t, prediction.x0, t, s)
    p_variance = like(variance(t, s, prediction, decoder_var), x0)
    is_first = like(s.sigma == 0, x0)
    # q has no variance at the first step: a stand-in keeps the unused branch finite.
    q_variance = jnp.where(is_first, 1.0, like(q_variance, x0))
    kl = gaussian_kl(q_mean, q_variance, p_mean, p_variance)
    decoder = -discretized_log_likelihood(x0, p_mean, jnp.sqrt(p_variance))
    return bits_per_dim(jnp.where(is_first, decoder, kl))


class Bound(NamedTuple):
    """The bound of each image, term by term: JAX arrays, or NumPy's once fetched.

    Attributes:
        prior: L_T, bits/dim [B].
        steps: L_0, L_1, ..., L_{T-1}, bits/dim [T, B].
        x0_mse: mean squared error of the predicted x_0 at t = 0..T-1, [T, B].
        eps_mse: the same of eps: Algorithm 1's loss, by t, [T, B].
    """

    prior: Any
    steps: Any
    x0_mse: Any
    eps_mse: Any

    @property
    def total(self) -> jax.Array:
        """Sum the terms: an upper bound on -log2 p(x_0) per dimension, [B]."""
        return self.prior + jnp.sum(self.steps, axis=0)


class RateDistortion(NamedTuple):
    """What is known of an image on the way, when x_t arrives for t = T-1 down to 0.

    Attributes:
        rate: bits/dim spent on x_t and all noisier ones, mean over images, [T].
        distortion: root mean square error of the x_0 predicted from x_t, over all
            images and dimensions, on the scale 0..255, [T].
        rate_error: standard error of the rate over images, [T]; NaN for one image.
        distortion_error: that of the distortion, to first order, [T].
    """

    rate: np.ndarray
    distortion: np.ndarray
    rate_error: np.ndarray
    distortion_error: np.ndarray


def standard_error(values: np.ndarray) -> np.ndarray:
    """Estimate that of the mean over the last axis: [..., n] -> [...]; NaN if n = 1."""
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[:-1], np.nan)
    return np.std(values, axis=-1, ddof=1) / np.sqrt(count)


def rate_distortion(bound: Bound) -> RateDistortion:
    """Read the bound as a progressive code: float64 NumPy, outside of jit.

    x_T costs L_T, and each next x_t its own term: so entry t of the
    rate is L_T + L_{T-1} + ... + L_{t+1}, the terms being numbered as `Bound.steps`.
    Entry 0, where x_1 of the papers is known and only L_0 is missing, is the rate and
    distortion of [H], section 4.3; the whole curve is that of its figure 5 and table 4.
    """
    prior, steps, mse = (
        np.asarray(a, np.float64) for a in (bound.prior, bound.steps, bound.x0_mse)
    )
    paid = np.cumsum(np.concatenate([prior[None], steps[:0:-1]]), axis=0)[::-1]
    rmse = np.sqrt(mse.mean(-1))
    return RateDistortion(
        rate=paid.mean(-1),
        distortion=127.5 * rmse,
        rate_error=standard_error(paid),
        distortion_error=127.5 * standard_error(mse) / (2.0 * rmse),
    )


def variational_bound(
    keys: jax.Array,
    denoise: Denoiser,
    x0: jax.Array,
    levels: Level,
    *,
    variance: Variance = small_variance,
    cond: Cond = None,
) -> Bound:
    """Estimate the bound with one sample of x_t per image and step; one `lax.scan`.

    Args:
        keys: typed keys [B], one per image.
        denoise: the model. Clipped or not makes two different p; the one that a
            sampler with clipping draws from, and [H] evaluate, is the clipped one.
            Clipping cannot raise a term of fixed variance, but for L_0 of the lowest
            and the highest value, whose bins reach to infinity.
        x0: 8-bit data on [-1, 1], float32 [B, ...].
        levels: leaves [T + 1], noisiest first, from `grid`.
        variance: of the reverse steps.
        cond: what the denoiser is conditioned on.

    Raises:
        UserError: if there is one step only.
    """
    num_steps = levels.alpha.shape[0] - 1
    if num_steps < 2:
        raise UserError(
            f"the bound got num_steps={num_steps}; use at least 2, for the decoder "
            "takes its width from the second step."
        )
    at = [jax.tree.map(lambda leaf, i=i: leaf[i], levels) for i in (0, -3, -2)]
    decoder_var = small_variance(at[1], at[2])  # beta_tilde_2 of this grid

    def body(_: None, xs: tuple) -> tuple[None, tuple]:
        index, t, s = xs
        eps = noise_like(fold_each(keys, index), x0)
        x_t = add_noise(x0, eps, t)
        prediction = predict(denoise, x_t, t, cond)
        term = step_term(
            prediction, x0, x_t, t, s, variance=variance, decoder_var=decoder_var
        )
        errors = [
            jnp.mean((a - b) ** 2, axis=range(1, x0.ndim))
            for a, b in ((x0, prediction.x0), (eps, prediction.eps))
        ]
        return None, (term, *errors)

    # From the clean end, so that entry i belongs to the level with input t = i.
    t = jax.tree.map(lambda leaf: leaf[:-1][::-1], levels)
    s = jax.tree.map(lambda leaf: leaf[1:][::-1], levels)
    _, (steps, x0_mse, eps_mse) = jax.lax.scan(
        body, None, (jnp.arange(num_steps), t, s)
    )
    return Bound(prior_term(x0, at[0]), steps, x0_mse, eps_mse)
