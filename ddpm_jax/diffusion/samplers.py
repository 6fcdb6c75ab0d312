"""Samplers: pairs of pure functions `(init, step)` that `generate` runs in one scan.

    init(x) -> State                                what the first step needs
    step(keys, denoise, state, t, s) -> (State, Info)    from level t to the cleaner s

A step is given the denoiser, not a prediction, so that a method with two evaluations
is as plain as one with one. It owns no loop, no time and no recording.

Sources:
    [H] Ho, Jain, Abbeel 2020: Algorithm 2.
    [S] Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models".
    [K] Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
        Models".
    [L] Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
        Probabilistic Models".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import (
    Prediction,
    Variance,
    fraction_of_noise,
    like,
    noise_like,
    posterior,
    small_variance,
)
from ddpm_jax.diffusion.schedules import Level


class State(NamedTuple):
    """What a sampler carries from step to step.

    Attributes:
        x: [B, ...], the chain.
        memory: whatever else the method needs, a pytree; None for one-step methods.
    """

    x: jax.Array
    memory: Any = None


class Info(NamedTuple):
    """What a person may want to see of a step: shown to `record`, then forgotten."""

    x_t: jax.Array  # [B, ...] before the step
    x_s: jax.Array  # [B, ...] after it
    prediction: Prediction  # made at x_t
    t: Level
    s: Level


BoundDenoiser = Callable[[jax.Array, Level], Prediction]
"""A denoiser with its conditions already given."""


class Sampler(NamedTuple):
    """A sampling method; see the module's docstring for the two functions."""

    init: Callable[[jax.Array], State]
    step: Callable[[jax.Array, BoundDenoiser, State, Level, Level], tuple[State, Info]]


def ancestral(variance: Variance = small_variance) -> Sampler:
    """Walk the reverse Markov chain: [H], Algorithm 2.

    x_s = mean(x_t, x0) + sqrt(variance) z, the mean being that of the posterior with
    the predicted x_0 in the place of the true one. On a grid of fewer than T levels
    this is the respaced chain of Nichol and Dhariwal 2021, section 4.

    Args:
        variance: `small_variance`, `large_variance` or `learned_variance`. The last
            step, to the clean end, adds no noise with any of them.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        prediction = denoise(state.x, t)
        mean, _ = posterior(state.x, prediction.x0, t, s)
        std = jnp.sqrt(variance(t, s, prediction, 0.0))
        x = mean + like(std, mean) * noise_like(keys, mean)
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)


def ddim(eta: jax.Array | float = 0.0) -> Sampler:
    """Step along the predicted noise, with a share of it drawn anew: [S], eq. (12).

    x_s = alpha_s x0 + sigma_s (sqrt(1 - eta^2 c) eps + eta sqrt(c) z), c being the
    fraction of x_t's noise that is new since s.

    Args:
        eta: 0 for the deterministic sampler, 1 for `ancestral(small_variance)`. May be
            a traced value: the same compiled program serves every eta.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        prediction = denoise(state.x, t)
        c = fraction_of_noise(t, s)
        # The maximum guards against 1 - c = -1e-8 at the clean end.
        kept = jnp.sqrt(jnp.maximum(1.0 - eta**2 * c, 0.0))
        noise = like(kept, state.x) * prediction.eps + like(
            eta * jnp.sqrt(c), state.x
        ) * noise_like(keys, state.x)
        x = like(s.alpha, state.x) * prediction.x0 + like(s.sigma, state.x) * noise
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)


def heun() -> Sampler:
    """Solve the probability-flow ODE by Heun's rule, order 2: [K], Algorithm 1.

    In the coordinates y = x / alpha, r = sigma / alpha the ODE is dy/dr = eps, so the
    rule is a step with the slope at t, then the mean of the slopes at both ends. It
    asks the network twice a step, but once for the last, where r = 0 has no slope.
    The first level must hold some signal (alpha > 0).
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        del keys  # nothing is drawn
        prediction = denoise(state.x, t)
        y = state.x / like(t.alpha, state.x)
        dr = like(s.sigma / s.alpha - t.sigma / t.alpha, y)
        euler = y + dr * prediction.eps

        def corrected() -> jax.Array:
            again = denoise(like(s.alpha, y) * euler, s)
            return y + dr * 0.5 * (prediction.eps + again.eps)

        y = jax.lax.cond(s.sigma > 0, corrected, lambda: euler)
        x = like(s.alpha, y) * y
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)


class _Past(NamedTuple):
    """What the multistep method remembers of the step before."""

    x0: jax.Array  # [B, ...], the prediction then
    h: jax.Array  # [], that step's length in log(alpha / sigma); inf if there was none


def dpmpp_2m() -> Sampler:
    """Solve the ODE by DPM-Solver++(2M), order 2, one evaluation a step: [L], Alg. 2.

    x_s = (sigma_s / sigma_t) x_t - alpha_s (e^-h - 1) D, where h is the step's length
    in lambda = log(alpha / sigma) and D continues the line through this prediction of
    x_0 and the last. The first step, which has no last, and the step to the clean end,
    where h is infinite, are of order one: D = x_0.
    """

    def init(x: jax.Array) -> State:
        return State(x, _Past(jnp.zeros_like(x), jnp.float32(jnp.inf)))

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        del keys  # nothing is drawn
        prediction, past = denoise(state.x, t), state.memory
        h = 0.5 * (s.logsnr - t.logsnr)
        ahead = jnp.where(s.sigma > 0, 0.5 * h / past.h, 0.0)  # 1 / (2 r) of [L]
        data = prediction.x0 + like(ahead, state.x) * (prediction.x0 - past.x0)
        shrink = s.sigma / t.sigma
        step_in = s.alpha - shrink * t.alpha  # = -alpha_s (e^-h - 1), without e^-inf
        x = like(shrink, state.x) * state.x + like(step_in, state.x) * data
        new = State(x, _Past(prediction.x0, h))
        return new, Info(state.x, x, prediction, t, s)

    return Sampler(init=init, step=step)
