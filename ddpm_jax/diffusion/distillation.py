r"""Score distillation: a denoiser as a loss of images that something else makes.

An image x = g(theta) is noised to a random level, and the denoiser is asked which noise
it sees. The difference to the noise that was added is the gradient:

    (1)  grad = E_{t, eps}[ w(t) (eps_hat(alpha x + sigma eps, t) - eps) dx/dtheta ]
                                                                        [P] eq. (3)

It leaves out the derivative of the network, which [P] eq. (2) has, and is still the
gradient of something, if eps_hat is the exact denoiser of the data:

    (2)  grad_theta E_t[ w(t) (sigma / alpha) KL(q(x_t | x) || p(x_t)) ]    [P] appendix

because the KL's derivative in x is alpha E_eps[-grad log p(x_t)] = (alpha / sigma)
E_eps[eps_hat]. Its minimum is where q fits under p best, a mode of the noised data, and
no sample of them. Of data N(mu, S) the expected gradient is

    (3)  w alpha sigma (alpha^2 S + sigma^2)^-1 (x - mu)

which vanishes at mu, where its variance does not.

Guidance works as in sampling, because it makes a denoiser of a denoiser, and scale 1 is
the conditional model, as everywhere in this package. Of classes N(c, S) in N(0, S) the
minimum under scale s is s c, outside of the data: images become saturated.

Source: [P] Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.denoisers import Cond, Denoiser, predict
from ddpm_jax.diffusion.process import add_noise, like
from ddpm_jax.diffusion.schedules import Level, Schedule

LevelWeight = Callable[[Level], jax.Array]
"""level -> w(t) of eq. (1), of the shape of its leaves."""

_BELOW_1 = 1.0 - 2.0**-24


def noise_variance(level: Level) -> jax.Array:
    """Weigh a level by sigma^2: [P], section 3, "w(t) = sigma_t^2"."""
    return level.sigma**2


def even(level: Level) -> jax.Array:
    """Weigh each level alike: 1."""
    return jnp.ones_like(level.sigma)


def sample_levels(
    key: jax.Array,
    num: int,
    schedule: Schedule,
    times: tuple[jax.Array | float, jax.Array | float] = (0.02, 0.98),
) -> Level:
    """Draw levels evenly in a range of times.

    Args:
        key: of all.
        num: how many.
        schedule: the forward process.
        times: least and most, as shares of the schedule: 0 is the clean end, 1 the
            noisiest level. They may be traced values, of a range that is annealed.

    Returns:
        Level of leaves [num].
    """
    low, high = times
    share = low + (high - low) * jax.random.uniform(key, (num,), jnp.float32)
    share = jnp.clip(share, 0.0, _BELOW_1)
    # `draw` of a table rises with u, that of a function falls: both are uniform.
    first, last = schedule.draw(jnp.array([0.0, _BELOW_1], jnp.float32))
    u = jnp.where(first < last, share, jnp.minimum(1.0 - share, _BELOW_1))
    return schedule.at(schedule.draw(u))


def gradient_at(
    denoise: Denoiser,
    x: jax.Array,
    eps: jax.Array,
    level: Level,
    cond: Cond = None,
    weight: LevelWeight = noise_variance,
) -> jax.Array:
    """Evaluate w (eps_hat - eps), eq. (1), for given noise.

    Args:
        denoise: the prior; guidance and clipping wrap it as they do in sampling.
        x: images [B, ...], in the range of its data.
        eps: standard normal noise [B, ...].
        level: leaves [] or [B].
        cond: what the prior is conditioned on, leaves [B, ...].
        weight: w.

    Returns:
        The gradient with respect to x, [B, ...], a constant of which nothing has a
        derivative.
    """
    x = jax.lax.stop_gradient(x)
    prediction = predict(denoise, add_noise(x, eps, level), level, cond)
    gradient = like(weight(level), x) * (prediction.eps - eps)
    return jax.lax.stop_gradient(gradient)


def score_distillation(
    key: jax.Array,
    denoise: Denoiser,
    schedule: Schedule,
    x: jax.Array,
    cond: Cond = None,
    *,
    times: tuple[jax.Array | float, jax.Array | float] = (0.02, 0.98),
    weight: LevelWeight = noise_variance,
) -> jax.Array:
    """Estimate the gradient of score distillation with one draw an image, eq. (1).

    Args:
        key: of levels and noise.
        denoise: the prior.
        schedule: the forward process of the prior.
        x: images [B, ...], in the range of its data.
        cond: what the prior is conditioned on, leaves [B, ...].
        times: least and most of the levels, as shares of the schedule; see
            `sample_levels`. [P] take 0.02 to 0.98.
        weight: w of eq. (1).

    Returns:
        The gradient with respect to x, [B, ...]: of each image alone, not of a mean.
        `with_gradient` hands it on to what made x.
    """
    key_t, key_eps = jax.random.split(key)
    level = sample_levels(key_t, x.shape[0], schedule, times)
    eps = jax.random.normal(key_eps, x.shape, x.dtype)
    return gradient_at(denoise, x, eps, level, cond, weight)


def with_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Make a number [] whose derivative with respect to x is a given gradient.

    `jax.grad` of a function that renders x and returns this is the gradient times
    dx/dtheta, eq. (1), and may be added to that of other losses. The number itself,
    sum(gradient x), means nothing and need not fall.

    Args:
        x: [B, ...].
        gradient: [B, ...].
    """
    return jnp.sum(jax.lax.stop_gradient(gradient) * x)
