"""Guidance, classifier-free and by a classifier: functions Denoiser -> Denoiser.

At a given x_t, x_0 and eps are affine in each other, with weights that sum to one. So
what is extrapolated in eps is extrapolated in x_0 by the same numbers, and both stay in
agreement without a division by alpha or sigma. Scales may be traced values: one
compiled program serves all.

Sources:
    [D] Dhariwal, Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis".
    [H] Ho, Salimans 2022, "Classifier-Free Diffusion Guidance".
    [I] Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval Improves
        Sample and Distribution Quality in Diffusion Models".
    [L] Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed".
    [S] Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
        Language Understanding" (Imagen).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.denoisers import Cond, Denoiser, predict
from ddpm_jax.diffusion.process import Prediction, eps_from_x0, like
from ddpm_jax.diffusion.schedules import Level

LogProb = Callable[[jax.Array, Level, Cond], jax.Array]
"""(x_t [B, ...], level, cond) -> log p(condition | x_t) in nats, [B]."""


def classifier_free(
    denoise: Denoiser,
    scale: jax.Array | float,
    null: Callable[[Cond], Cond],
    *,
    low: jax.Array | float = 0.0,
    high: jax.Array | float = jnp.inf,
    rescale: jax.Array | float = 0.0,
) -> Denoiser:
    """Extrapolate from the unconditional prediction through the conditional one.

    eps = scale eps(x_t, cond) + (1 - scale) eps(x_t, null): scale 1 is the conditional
    model and 0 the unconditional one, both to the last bit, and above 1 is guidance.
    The w of [H], eq. (6), is scale - 1. Both come from one pass over a batch of 2B
    rows. A learned variance is that of the conditional.

    Args:
        denoise: a conditional model that was also trained without its condition.
        scale: [] or [B].
        null: cond -> the same pytree, saying nothing.
        low: guide only while low < sigma / alpha <= high, with scale 1 elsewhere: [I].
            Without it strong guidance at high noise loses modes.
        high: end of that interval.
        rescale: phi of [L], section 3.4, in [0, 1]: how far the standard deviation of
            each x_0 is brought back to that of the conditional. 0 leaves it; 0.7 is
            theirs. [L] rescales the output of a network that predicts v, which is x_0
            but for its sign at the noisy end, where the over-exposure comes from.
    """

    def guided(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        # Row i and its double are neighbours, so that a batch which is spread over
        # devices stays where it is.
        both = predict(
            denoise,
            jnp.repeat(x_t, 2, axis=0),
            jax.tree.map(
                lambda leaf: jnp.repeat(leaf, 2, axis=0) if jnp.ndim(leaf) else leaf,
                level,
            ),
            jax.tree.map(_interleave, cond, null(cond)),
        )
        conditional, unconditional = (
            jax.tree.map(lambda leaf, i=i: leaf[i::2], both) for i in (0, 1)
        )
        ratio = level.sigma / level.alpha
        here = jnp.where((low < ratio) & (ratio <= high), scale, 1.0)

        def extrapolate(conditional: jax.Array, unconditional: jax.Array) -> jax.Array:
            # This form, and not u + scale (c - u), is exact at 0 and at 1.
            weight = like(here, conditional)
            return weight * conditional + (1.0 - weight) * unconditional

        x0, eps = (extrapolate(conditional[i], unconditional[i]) for i in (0, 1))
        before, after = _spread(conditional.x0), _spread(x0)
        restored = jnp.where(after > 0, before / jnp.where(after > 0, after, 1.0), 1.0)
        factor = 1.0 - rescale + rescale * restored
        return conditional._replace(
            x0=factor * x0,
            eps=eps + like(level.alpha / level.sigma, x0) * (1.0 - factor) * x0,
        )

    return guided


def _interleave(first: jax.Array, second: jax.Array) -> jax.Array:
    stacked = jnp.stack([first, second], axis=1)
    return stacked.reshape(2 * first.shape[0], *first.shape[1:])


def _spread(x: jax.Array) -> jax.Array:
    """Compute the standard deviation of each row, [B, 1, ...]."""
    return jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def classifier_guidance(
    denoise: Denoiser, log_prob: LogProb, scale: jax.Array | float
) -> Denoiser:
    """Climb the gradient of a classifier of noisy data.

    eps - scale sigma grad log p(y | x_t), the gradient being with respect to x_t: [D],
    Algorithm 2, in every sampler. With the exact classifier and scale 1 an
    unconditional model turns into the conditional one, by Bayes' rule.

    Args:
        denoise: unconditional or conditional.
        log_prob: any differentiable function of x_t, such as log p(y | x_t).
        scale: [] or [B].
    """

    def guided(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        prediction = predict(denoise, x_t, level, cond)
        gradient = jax.grad(lambda x: jnp.sum(log_prob(x, level, cond)))(x_t)
        push = like(scale * level.sigma, x_t) * gradient
        # Pure noise is independent of y: the gradient is 0 there, and 0 / alpha too.
        per_alpha = level.sigma / jnp.where(level.alpha > 0, level.alpha, jnp.inf)
        return prediction._replace(
            x0=prediction.x0 + like(per_alpha, x_t) * push, eps=prediction.eps - push
        )

    return guided


def dynamic_threshold(denoise: Denoiser, percentile: float = 0.995) -> Denoiser:
    """Clamp each predicted x_0 to its own range and scale that to [-1, 1].

    s is the percentile of |x_0| in an image, or 1 if that is larger; x_0 is clamped to
    [-s, s] and divided by s. Strong guidance saturates pixels, which `clip_x0` leaves
    at the edge; this draws them inwards. eps is made to agree.

    Source: [S], section 2.3.

    Args:
        denoise: what to wrap; unclipped.
        percentile: in (0, 1]; 1 takes the largest value. 0.995 is theirs.
    """

    def thresholded(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        prediction = predict(denoise, x_t, level, cond)
        x0 = prediction.x0
        share = jnp.asarray(percentile, x0.dtype)
        size = jnp.quantile(jnp.abs(x0.reshape(x0.shape[0], -1)), share, axis=1)
        s = like(jnp.maximum(size, 1.0), x0)
        x0 = jnp.clip(x0, -s, s) / s
        return prediction._replace(x0=x0, eps=eps_from_x0(x0, x_t, level))

    return thresholded
