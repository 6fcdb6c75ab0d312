"""Euler's and Heun's rule for the probability-flow ODE, with or without churn.

In the coordinates y = x / alpha, r = sigma / alpha the ODE is dy/dr = eps. r is the
sigma of [K], where alpha = 1 throughout, so that every formula of the paper holds here
with r in its place.

Source:
    [K] Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
        Models".
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import like, noise_like
from ddpm_jax.diffusion.samplers import BoundDenoiser, Info, Sampler, State
from ddpm_jax.diffusion.schedules import Level


class Churn(NamedTuple):
    """How much noise to add before each step: [K], Algorithm 2.

    A step first walks from r up to (1 + gamma) r with fresh noise, and then solves the
    ODE from there; gamma = min(S_churn / N, sqrt(2) - 1) while r is in
    [S_tmin, S_tmax], else 0. All but `level_at` may be traced values.

    Attributes:
        level_at: log-SNR -> Level, of the levels walked up to;
            `partial(level_at_logsnr, schedule)`.
        amount: S_churn; 0 is the deterministic sampler.
        num_steps: N of the grid.
        low: S_tmin, as sigma / alpha.
        high: S_tmax, as sigma / alpha.
        noise: S_noise, the standard deviation of the fresh noise. A little above 1
            makes up for detail that an imperfect network removes.
    """

    level_at: Callable[[jax.Array], Level]
    amount: jax.Array | float
    num_steps: jax.Array | int
    low: jax.Array | float = 0.0
    high: jax.Array | float = jnp.inf
    noise: jax.Array | float = 1.0


def euler(churn: Churn | None = None) -> Sampler:
    """Follow the slope at t: order 1, one evaluation a step.

    Without churn it is `ddim(0)`, written in y and r.

    Args:
        churn: noise added before each step; None for the deterministic sampler.
    """
    return _solver(churn, lambda denoise, y, dr, slope, s: y + dr * slope)


def heun(churn: Churn | None = None) -> Sampler:
    """Follow the mean of the slopes at both ends: [K], Algorithms 1 and 2, order 2.

    It asks the network twice a step, but once for the last, where r = 0 has no slope.
    The first level must hold some signal (alpha > 0).

    Args:
        churn: noise added before each step; None for the deterministic sampler.
    """

    def rule(
        denoise: BoundDenoiser,
        y: jax.Array,
        dr: jax.Array,
        slope: jax.Array,
        s: Level,
    ) -> jax.Array:
        ahead = y + dr * slope

        def corrected() -> jax.Array:
            again = denoise(like(s.alpha, y) * ahead, s)
            return y + dr * 0.5 * (slope + again.eps)

        return jax.lax.cond(s.sigma > 0, corrected, lambda: ahead)

    return _solver(churn, rule)


def _solver(churn: Churn | None, rule: Callable[..., jax.Array]) -> Sampler:
    """Make the sampler of a rule (denoise, y, dr, slope, s) -> y at s."""

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        x, level = state.x, t
        if churn is not None:
            x, level = _walk_up(churn, keys, x, level)
        prediction = denoise(x, level)
        y = x / like(level.alpha, x)
        dr = like(s.sigma / s.alpha - level.sigma / level.alpha, y)
        x = like(s.alpha, y) * rule(denoise, y, dr, prediction.eps, s)
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)


def _walk_up(
    churn: Churn, keys: jax.Array, x: jax.Array, t: Level
) -> tuple[jax.Array, Level]:
    """Add the noise that leads from t to (1 + gamma) r: lines 4 to 6 of Algorithm 2."""
    r = t.sigma / t.alpha
    gamma = jnp.minimum(churn.amount / churn.num_steps, jnp.sqrt(2.0) - 1.0)
    gamma = jnp.where((churn.low <= r) & (r <= churn.high), gamma, 0.0)
    above = churn.level_at(-2.0 * jnp.log((1.0 + gamma) * r))
    # r_hat^2 - r^2 = r^2 gamma (2 + gamma), without the difference of two squares.
    added = churn.noise * r * jnp.sqrt(gamma * (2.0 + gamma))
    walked = like(above.alpha, x) * (
        x / like(t.alpha, x) + like(added, x) * noise_like(keys, x)
    )
    # Chosen whole, so that gamma = 0 leaves both to the last bit as they were.
    return jax.tree.map(
        lambda new, old: jnp.where(gamma > 0, new, old), (walked, above), (x, t)
    )
