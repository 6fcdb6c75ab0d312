"""Guidance, classifier-free and by a classifier: functions Denoiser -> Denoiser.

At a given x_t, x_0 and eps are affine in each other, with weights that sum to one. So
what is extrapolated in eps is extrapolated in x_0 by the same numbers, and both stay in
agreement without a division by alpha or sigma. Scales may be traced values: one
compiled program serves all.

    classifier_free       c + (w - 1) (c - u), c conditional and u unconditional
    projected             the same, with less of c - u along c, and of a bounded norm
    optimized_scale       c + (w - 1) (c - s u), s the scale that brings u nearest to c
    autoguidance          c + (w - 1) (c - c'), c' of a worse model
    classifier_guidance   eps - w sigma grad log p(y | x_t)

Sources:
    [A] Sadat, Hilliges, Weber 2024, "Eliminating Oversaturation and Artifacts of High
        Guidance Scales in Diffusion Models" (adaptive projected guidance, APG).
    [D] Dhariwal, Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis".
    [F] Fan et al. 2025, "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching
        Models".
    [H] Ho, Salimans 2022, "Classifier-Free Diffusion Guidance".
    [I] Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval Improves
        Sample and Distribution Quality in Diffusion Models".
    [K] Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself".
    [L] Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed".
    [S] Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
        Language Understanding" (Imagen).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.denoisers import Cond, Denoiser, predict
from ddpm_jax.diffusion.process import (
    Prediction,
    eps_from_flow,
    eps_from_x0,
    like,
    x0_from_flow,
)
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
        conditional, unconditional = _with_and_without(denoise, null, x_t, level, cond)
        found = _extrapolate(
            conditional, unconditional, _scale_at(level, scale, low, high)
        )
        x0 = found.x0
        before, after = _spread(conditional.x0), _spread(x0)
        restored = jnp.where(after > 0, before / jnp.where(after > 0, after, 1.0), 1.0)
        factor = 1.0 - rescale + rescale * restored
        return found._replace(
            x0=factor * x0,
            eps=found.eps + like(level.alpha / level.sigma, x0) * (1.0 - factor) * x0,
        )

    return guided


def _with_and_without(
    denoise: Denoiser,
    null: Callable[[Cond], Cond],
    x_t: jax.Array,
    level: Level,
    cond: Cond,
) -> tuple[Prediction, Prediction]:
    """Predict with a condition and without it, in one pass over 2B rows."""
    # Row i and its double are neighbours, so that a batch which is spread over
    # devices stays where it is.
    both = predict(
        denoise,
        jnp.repeat(x_t, 2, axis=0),
        jax.tree.map(
            lambda leaf: jnp.repeat(leaf, 2, axis=0) if jnp.ndim(leaf) else leaf, level
        ),
        jax.tree.map(_interleave, cond, null(cond)),
    )
    conditional, unconditional = (
        jax.tree.map(lambda leaf, i=i: leaf[i::2], both) for i in (0, 1)
    )
    return conditional, unconditional


def _scale_at(
    level: Level,
    scale: jax.Array | float,
    low: jax.Array | float,
    high: jax.Array | float,
) -> jax.Array:
    """Return the scale inside of the interval, and 1 outside: [] or [B]."""
    ratio = level.sigma / level.alpha
    return jnp.where((low < ratio) & (ratio <= high), scale, 1.0)


def _extrapolate(to: Prediction, away: Prediction, scale: jax.Array) -> Prediction:
    """Go from one prediction through the other, whose learned variance is kept."""

    def weighed(to: jax.Array, away: jax.Array) -> jax.Array:
        # This form, and not away + scale (to - away), is exact at 0 and at 1.
        weight = like(scale, to)
        return weight * to + (1.0 - weight) * away

    return to._replace(x0=weighed(to.x0, away.x0), eps=weighed(to.eps, away.eps))


def _interleave(first: jax.Array, second: jax.Array) -> jax.Array:
    stacked = jnp.stack([first, second], axis=1)
    return stacked.reshape(2 * first.shape[0], *first.shape[1:])


def _spread(x: jax.Array) -> jax.Array:
    """Compute the standard deviation of each row, [B, 1, ...]."""
    return jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """Compute the inner product of each row, [B, 1, ...]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def _coefficient(a: jax.Array, b: jax.Array) -> jax.Array:
    """Compute s that brings s b nearest to a in each row, [B, 1, ...]; 0 if b is 0."""
    square = _inner(b, b)
    return jnp.where(square > 0, _inner(a, b) / jnp.where(square > 0, square, 1.0), 0.0)


def projected(
    denoise: Denoiser,
    scale: jax.Array | float,
    null: Callable[[Cond], Cond],
    *,
    parallel: jax.Array | float = 0.0,
    max_norm: jax.Array | float = jnp.inf,
    low: jax.Array | float = 0.0,
    high: jax.Array | float = jnp.inf,
) -> Denoiser:
    """Guide by the part of the difference that is orthogonal to the prediction.

    d = x_0(x_t, cond) - x_0(x_t, null) is shortened to `max_norm`, and its projection
    on x_0(x_t, cond) multiplied by `parallel`; scale - 1 times what is left is added.
    What lies along x_0 is mostly contrast: it saturates images. With `parallel` 1 and
    no bound this is `classifier_free`.

    The third part of [A], a negative momentum of d over the steps, is not here: a
    denoiser sees one level, and remembers none.

    Source: [A], section 4 and Algorithm 1, whose eta is `parallel`, 0 throughout, and
        whose r is `max_norm`, chosen for each model.

    Args:
        denoise: as of `classifier_free`.
        scale: [] or [B]; 1 is the conditional model.
        null: as of `classifier_free`.
        parallel: share of the parallel part that is kept; 1 all of it.
        max_norm: of d, a Euclidean norm over all axes but the first.
        low: as of `classifier_free`.
        high: as of `classifier_free`.
    """

    def guided(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        conditional, unconditional = _with_and_without(denoise, null, x_t, level, cond)
        x0 = conditional.x0
        difference = x0 - unconditional.x0
        square = _inner(difference, difference)
        is_long = square > max_norm**2
        # Without a root of 0, whose gradient is not finite.
        norm = jnp.sqrt(jnp.where(is_long, square, 1.0))
        difference *= jnp.where(is_long, max_norm / norm, 1.0)
        along = _coefficient(difference, x0) * x0
        push = like(_scale_at(level, scale, low, high) - 1.0, x0) * (
            difference - (1.0 - parallel) * along
        )
        return conditional._replace(
            x0=x0 + push,
            eps=conditional.eps - like(level.alpha / level.sigma, x0) * push,
        )

    return guided


def optimized_scale(
    denoise: Denoiser,
    scale: jax.Array | float,
    null: Callable[[Cond], Cond],
    *,
    low: jax.Array | float = 0.0,
    high: jax.Array | float = jnp.inf,
) -> Denoiser:
    """Scale the unconditional velocity before guidance goes away from it.

    v = scale v(x_t, cond) + (1 - scale) s v(x_t, null), where s = <v(x_t, cond),
    v(x_t, null)> / |v(x_t, null)|^2 brings s v(x_t, null) nearest to v(x_t, cond): the
    difference that is amplified is orthogonal to v(x_t, null). Where the two velocities
    are parallel, guidance does nothing.

    v is eps - x_0, the velocity of the straight path: of a flow model what it predicts,
    of any other that of the same model on the straight path (`denoisers.rescaled`).

    Source: [F], section 4, "optimized scale". The other half of it is `zero_init`.

    Args:
        denoise: as of `classifier_free`.
        scale: [] or [B]; 1 is the conditional model.
        null: as of `classifier_free`.
        low: as of `classifier_free`.
        high: as of `classifier_free`.
    """

    def guided(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        conditional, unconditional = _with_and_without(denoise, null, x_t, level, cond)
        to, away = (one.eps - one.x0 for one in (conditional, unconditional))
        weight = like(_scale_at(level, scale, low, high), to)
        v = weight * to + (1.0 - weight) * _coefficient(to, away) * away
        return conditional._replace(
            x0=x0_from_flow(v, x_t, level), eps=eps_from_flow(v, x_t, level)
        )

    return guided


def zero_init(denoise: Denoiser, above: jax.Array | float) -> Denoiser:
    """Stand still at the noisiest levels: the velocity there is zero.

    An underfitted flow model errs most in its first steps; not to make them is better.
    Where sigma / alpha > above, x_0 = eps = x_t / (alpha + sigma): a step of a
    deterministic solver leaves x on the straight path, x_t / (alpha + sigma), as it is.

    Source: [F], section 4, "zero-init": one step in general, for video the first 4%.

    Args:
        denoise: outermost, clipping included.
        above: [] or [B].
    """

    def still(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        prediction = predict(denoise, x_t, level, cond)
        stays = like(level.sigma / level.alpha > above, x_t)
        x = x_t / like(level.alpha + level.sigma, x_t)
        return prediction._replace(
            x0=jnp.where(stays, x, prediction.x0),
            eps=jnp.where(stays, x, prediction.eps),
        )

    return still


def autoguidance(
    denoise: Denoiser,
    worse: Denoiser,
    scale: jax.Array | float,
    *,
    low: jax.Array | float = 0.0,
    high: jax.Array | float = jnp.inf,
) -> Denoiser:
    """Extrapolate from a worse version of a model through the model itself.

    x_0 = scale x_0(model) + (1 - scale) x_0(worse): errors that the two share, and of
    which the worse model makes more, are made smaller. It needs no condition, and keeps
    the variety that `classifier_free` gives up. What is worse is of the same kind: an
    earlier checkpoint, another average of the parameters, a smaller network.

    Source: [K], eq. (3), with D_1 the model and D_0 its bad version, both with the same
        condition.

    Args:
        denoise: the model.
        worse: the other, of the same condition.
        scale: [] or [B]; 1 is the model, to the last bit.
        low: as of `classifier_free`; [K] guides at all levels.
        high: as of `classifier_free`.
    """

    def guided(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        to, away = (predict(one, x_t, level, cond) for one in (denoise, worse))
        return _extrapolate(to, away, _scale_at(level, scale, low, high))

    return guided


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
