"""Training-free image editing: inpainting, restoration, SDEdit, inversion.

    project, reconstruction_guidance    Denoiser -> Denoiser: sample x with A x = y
    inpaint, repaint_grid               Sampler -> Sampler: keep the known part of x
    start_at                            begin the chain at a given image (SDEdit)
    invert                              a Sampler from an image to its noise
    lerp, slerp                         between two points of the chain

Sources:
    [D] Wang, Yu, Zhang 2023, "Zero-Shot Image Restoration Using Denoising Diffusion
        Null-Space Model" (DDNM).
    [P] Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative
        Diffusion Inversion".
    [R] Lugmayr et al. 2022, "RePaint: Inpainting using Denoising Diffusion
        Probabilistic Models".
    [S] Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models".
    [V] Ho et al. 2022, "Video Diffusion Models".
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.denoisers import Cond, Denoiser, predict
from ddpm_jax.diffusion.generate import fold_each
from ddpm_jax.diffusion.operators import Operator
from ddpm_jax.diffusion.picklable import picklable
from ddpm_jax.diffusion.process import (
    Prediction,
    add_noise,
    eps_from_x0,
    like,
    markov_step,
    noise_like,
)
from ddpm_jax.diffusion.samplers import BoundDenoiser, Info, Sampler, State
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError

# The keys of a step of `inpaint`, one for the sampler, one for the wrapper.
_OWN, _FRESH = 0, 1


# --- Denoisers given y = A x ----------------------------------------------------------


def project(denoise: Denoiser, operator: Operator, y: jax.Array) -> Denoiser:
    """Correct the predicted x_0 so that A x_0 = y: [D], Algorithm 1.

    x_0 + A^+ (y - A x_0): the range of A^+ comes from y, the null space of A from the
    model. The image that a sampler ends with is the last x_0, so it satisfies A x = y
    to rounding, if this is the outermost wrapper.

    Args:
        denoise: what to wrap, clipped or not.
        operator: A and A^+.
        y: what is known, [B, ...]; free of noise.
    """

    def projected(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        prediction = predict(denoise, x_t, level, cond)
        x0 = prediction.x0
        x0 = x0 + operator.pinv(y - operator.apply(x0))
        return prediction._replace(x0=x0, eps=eps_from_x0(x0, x_t, level))

    return projected


def reconstruction_guidance(
    denoise: Denoiser, operator: Operator, y: jax.Array, weight: jax.Array | float
) -> Denoiser:
    """Pull the predicted x_0 towards y along a gradient through the network.

    x_0 - (weight alpha / 2) grad |y - A x_0(x_t)|^2, the gradient being with respect to
    x_t: [V], section 3.1. Weight 1 is exact guidance by p(y | x_t) = N(A x_0(x_t),
    (sigma / alpha)^2 I), which claims too much variance, so that y is met nearly and
    not exactly. Pixels that y does not measure move along; the price is a backward
    pass. The same gradient drives Chung et al. 2023, "Diffusion Posterior Sampling for
    General Noisy Inverse Problems", with another length of step.

    Args:
        denoise: what to wrap, best unclipped: no gradient passes where a clamp acts.
        operator: A; its pseudo-inverse is not used.
        y: what is known, [B, ...].
        weight: w_r of the paper, [] or [B]; may be traced. Where A is a mask, the
            error grows instead of shrinking once weight alpha d x_0 / d x_t > 2.
    """

    def guided(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        def distance(x: jax.Array) -> tuple[jax.Array, Prediction]:
            prediction = predict(denoise, x, level, cond)
            return jnp.sum((y - operator.apply(prediction.x0)) ** 2), prediction

        gradient, prediction = jax.grad(distance, has_aux=True)(x_t)
        pull = like(0.5 * weight * level.alpha, x_t) * gradient
        # eps = (x_t - alpha x_0) / sigma, by what x_0 has changed.
        return prediction._replace(
            x0=prediction.x0 - pull,
            eps=prediction.eps + like(level.alpha / level.sigma, x_t) * pull,
        )

    return guided


# --- Inpainting by replacement --------------------------------------------------------


@picklable
def inpaint(sampler: Sampler, known: jax.Array, mask: jax.Array) -> Sampler:
    """Put the known part back after each step, noised afresh to the level reached.

    The last level is clean, so the result equals `known` there exactly. On the levels
    of `repaint_grid` this is [R], Algorithm 1: a step to a noisier level is one
    of the forward process, without the network; the sampler then starts anew, since its
    carry belongs to another level. `record` gets the chain itself for such a step.

    Plain replacement does not draw from the conditional law: each step sees the known
    part with other noise than the unknown one was matched to. Walking each stretch
    several times brings the two together.

    Args:
        sampler: any.
        known: clean data, [B, ...] or broadcasting against it.
        mask: nonzero where known; broadcasts against x.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        noise = noise_like(fold_each(keys, _FRESH), state.x)

        def cleaner() -> tuple[State, Info]:
            own = fold_each(keys, _OWN)
            inner, info = sampler.step(own, denoise, state, t, s)
            x = jnp.where(mask != 0, add_noise(known, noise, s), inner.x)
            return inner._replace(x=x), info._replace(x_s=x)

        def noisier() -> tuple[State, Info]:
            x = markov_step(state.x, noise, s, t)
            _, blank = _blank(cleaner)
            prediction = blank.prediction._replace(x0=state.x)
            info = blank._replace(x_t=state.x, x_s=x, prediction=prediction, t=t, s=s)
            return sampler.init(x), info

        return jax.lax.cond(_is_noisier(s, t), noisier, cleaner)

    return Sampler(sampler.init, step)


def _is_noisier(s: Level, t: Level) -> jax.Array:
    return s.sigma * t.alpha > t.sigma * s.alpha


def _blank(function: Callable, *args: Any) -> Any:
    """Return zeros in the place of what a function would return."""
    shapes = jax.eval_shape(function, *args)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def repaint_grid(levels: Level, jump_length: int, num_resamples: int) -> Level:
    """Lay out the levels of RePaint, upward jumps included, as one sequence.

    Counted from the first noisy level, the chain is cut into stretches of
    `jump_length` steps; at the end of each the chain jumps back to its start, until it
    has walked it `num_resamples` times. The last step, to the clean level, and what is
    left over at the noisy end are walked once. The order is that of [R]'s published
    code, which climbs in single steps; here a jump is one step of the same law.

    How far the result is from the conditional law depends on the data and on the number
    of visits, and little on the number of steps or on short jumps: on Gaussian data
    with eigenvalues 0.1 to 1, half of it known, 44 % of the way from the unconditional
    to the conditional mean are missing with one visit, 16 % with 5, 10 % with 10, 6 %
    with 20 and 4 % with 40 (250 steps; `benchmarks/repaint_bias.py`, exactly). Jumps of
    a fifth of the chain are bad: 25 % with 20 visits.

    Args:
        levels: leaves [N + 1], noisiest first, from `grid`.
        jump_length: j of the paper, in steps of this grid: 10 there, of 250.
        num_resamples: r of the paper, 10 there; 1 leaves the levels as they are.

    Returns:
        Level with leaves [M + 1], for `generate` with a sampler from `inpaint`.

    Raises:
        UserError: if a number is below 1, or no stretch is so long.
    """
    num_steps = levels.alpha.shape[0] - 1
    if num_resamples < 1:
        raise UserError(f"num_resamples={num_resamples} is too small; use 1 or more.")
    if num_resamples == 1:
        return levels
    if not 1 <= jump_length < num_steps:
        raise UserError(
            f"jump_length={jump_length} does not fit a chain of {num_steps} steps; use "
            "1 or more, but fewer than the steps, or num_resamples=1."
        )
    visited = []
    for index in range(num_steps + 1):
        visited.append(index)
        start, above = index - jump_length, num_steps - 1 - index
        if start >= 0 and above >= 0 and above % jump_length == 0:
            visited += [*range(start, index + 1)] * (num_resamples - 1)
    order = np.asarray(visited)
    return jax.tree.map(lambda leaf: leaf[order], levels)


# --- From an image into the chain -----------------------------------------------------


def start_at(levels: Level, strength: float) -> Level:
    """Cut a grid down to its last steps: a given image is noised to the first of them.

    Source: Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with
        Stochastic Differential Equations"; the strength is its t_0.

    Args:
        levels: leaves [N + 1], noisiest first.
        strength: share of the N steps to run, in (0, 1]; at least one is run.

    Raises:
        UserError: if the strength is out of range.
    """
    if not 0 < strength <= 1:
        raise UserError(
            f"strength={strength} is not in (0, 1]; 1 starts from pure noise, small "
            "values change little."
        )
    num_steps = levels.alpha.shape[0] - 1
    left = max(1, round(strength * num_steps))
    return jax.tree.map(lambda leaf: leaf[num_steps - left :], levels)


@picklable
def invert(num_iterations: jax.Array | int = 1) -> Sampler:
    """Run the deterministic chain backwards, from an image to its noise.

    Run it on a grid turned round, the clean level first. A step solves for the x_s from
    which `ddim(0)` steps to x_t, that is solves

        x_s = a x_t + (sigma_s - a sigma_t) eps(x_s, s),    a = alpha_s / alpha_t,

    by iteration from x_s = a x_t: [P], section 3. It never evaluates the network at the
    clean level, for which it was not trained. One iteration is the usual inversion, of
    first order ([S], section 4.3); more make decoding on the same grid undo it. For
    data of variance v the error of a step falls with each by the factor
    (sigma_s - a sigma_t) sigma_s / (alpha_s^2 v + sigma_s^2): slowly where the first
    level is noisier than the finest detail. Clipping is no part of the equation: use
    the denoiser without.

    Args:
        num_iterations: evaluations per step, 1 or more; may be traced.

    Raises:
        UserError: if it is a number below 1.
    """
    if isinstance(num_iterations, int) and num_iterations < 1:
        raise UserError(f"num_iterations={num_iterations} is too small; use 1 or more.")

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        del keys
        a = s.alpha / t.alpha
        shrunk = like(a, state.x) * state.x
        added = like(s.sigma - a * t.sigma, state.x)

        def improve(_: jax.Array, carry: tuple) -> tuple[jax.Array, Prediction]:
            prediction = denoise(carry[0], s)
            return shrunk + added * prediction.eps, prediction

        # The loop ends with a prediction; nothing reads the zeros it begins with.
        first = (shrunk, _blank(denoise, shrunk, s))
        x, prediction = jax.lax.fori_loop(0, num_iterations, improve, first)
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(State, step)


# --- Blending -------------------------------------------------------------------------


def lerp(a: jax.Array, b: jax.Array, share: jax.Array | float) -> jax.Array:
    """Blend on a straight line: (1 - share) a + share b.

    Of two images noised alike it is the interpolation of Ho et al. 2020, section 4.4.

    Args:
        a: [B, ...].
        b: [B, ...].
        share: of b, [] or [B].
    """
    share = like(jnp.asarray(share), a)
    return (1.0 - share) * a + share * b


def slerp(a: jax.Array, b: jax.Array, share: jax.Array | float) -> jax.Array:
    """Blend on the great circle, row by row, for noise: [S], appendix D.5.

    The blend of two independent draws of noise is again as long as noise is; that of
    `lerp` is shorter, by sqrt(2) halfway.

    Args:
        a: [B, ...].
        b: [B, ...], not opposite to a.
        share: of b, [] or [B].
    """
    axes = tuple(range(1, a.ndim))

    def length(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True))

    u, v = (x / length(x) for x in (a, b))
    # From both chords: exact for small angles too, where an arc cosine is not.
    angle = 2.0 * jnp.arctan2(length(u - v), length(u + v))
    share = like(jnp.asarray(share), a)
    narrow = angle < 1e-4
    sine = jnp.where(narrow, 1.0, jnp.sin(angle))
    of_a = jnp.where(narrow, 1.0 - share, jnp.sin((1.0 - share) * angle) / sine)
    of_b = jnp.where(narrow, share, jnp.sin(share * angle) / sine)
    return of_a * a + of_b * b
