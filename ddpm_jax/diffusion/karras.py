"""Euler's and Heun's rule for the probability-flow ODE, with or without churn.

In the coordinates y = x / alpha, r = sigma / alpha the ODE is dy/dr = eps. r is the
sigma of [K], where alpha = 1 throughout, so that every formula of the paper holds here
with r in its place.

Source:
    [K] Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
        Models".
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.exponential_integrator import LONG
from ddpm_jax.diffusion.picklable import picklable
from ddpm_jax.diffusion.process import Prediction, like, noise_like
from ddpm_jax.diffusion.samplers import BoundDenoiser, Info, Sampler, State
from ddpm_jax.diffusion.schedules import Level, Schedule


class Churn(NamedTuple):
    """How much noise to add before each step: [K], Algorithm 2.

    A step first goes from r up to (1 + gamma) r with fresh noise, and then solves the
    ODE from there; gamma = min(S_churn / N, sqrt(2) - 1) while r is in
    [S_tmin, S_tmax], else 0. All but `schedule` may be traced values.

    Attributes:
        schedule: of the levels walked up to.
        amount: S_churn; 0 is the deterministic sampler.
        num_steps: N of the grid.
        low: S_tmin, as sigma / alpha.
        high: S_tmax, as sigma / alpha.
        noise: S_noise, the standard deviation of the fresh noise. A little above 1
            makes up for detail that an imperfect network removes.
    """

    schedule: Schedule
    amount: jax.Array | float
    num_steps: jax.Array | int
    low: jax.Array | float = 0.0
    high: jax.Array | float = jnp.inf
    noise: jax.Array | float = 1.0


@picklable
def euler(churn: Churn | None = None) -> Sampler:
    """Follow the slope at t: order 1, one evaluation a step.

    Without churn it is `ddim(0)`, written in y and r.

    Args:
        churn: noise added before each step; None for the deterministic sampler.
    """
    return _solver(
        churn, lambda denoise, x, t, prediction, s: _ahead(x, t, prediction, s)
    )


@picklable
def heun(churn: Churn | None = None) -> Sampler:
    """Follow the mean of the slopes at both ends: [K], Algorithms 1 and 2, order 2.

    It evaluates the network twice a step, but once for the last, where r = 0 has no
    slope.

    The mean of two slopes stands for those between them only while r changes little.
    For N(0, v) the slope is y r / (v + r^2): it bends where r is sqrt(v), and on a step
    from r_t to a much smaller r_s that bend lies at the very end, where half the weight
    is: for the worst v the result is about 0.19 r_t / r_s times too large. The first of
    20 even steps of time from the end of a cosine table has r_t / r_s = 1,600. So a
    step that leaves less than a quarter of r, which is where this error passes the
    largest one of `euler`, takes the same two predictions another way: as x_0, on a
    line in the log-SNR under the exact integral of `exponential_integrator`, eq. (1).
    That is of order 2 as well, overshoots by 9 % at most, and has a limit for r_t =
    infinity, so that pure noise is a start like others.

    Args:
        churn: noise added before each step; None for the deterministic sampler.
    """

    def rule(
        denoise: BoundDenoiser, x: jax.Array, t: Level, prediction: Prediction, s: Level
    ) -> jax.Array:
        ahead = _ahead(x, t, prediction, s)

        def corrected() -> jax.Array:
            again = denoise(ahead, s)
            y, dr = _place(x, t, s)
            mean = like(s.alpha, x) * (y + dr * 0.5 * (prediction.eps + again.eps))
            on_line = ahead + like(_late(t, s), x) * (again.x0 - prediction.x0)
            return jnp.where(like(_short(t, s), x), mean, on_line)

        return jax.lax.cond(s.sigma > 0, corrected, lambda: ahead)

    return _solver(churn, rule)


def _short(t: Level, s: Level) -> jax.Array:
    """Return whether r_t <= 4 r_s: never to the clean end or from pure noise.

    Over all v, the largest error of a step in log std is 0.219 for Heun's rule and
    0.223 for Euler's at a ratio of 4, and 0.330 against 0.294 at 5.
    """
    return t.sigma * s.alpha <= math.exp(LONG) * s.sigma * t.alpha


def _place(x: jax.Array, t: Level, s: Level) -> tuple[jax.Array, jax.Array]:
    """Compute y at t and the change of r to s; finite, if of no use, at alpha_t = 0."""
    alpha = jnp.where(t.alpha > 0, t.alpha, 1.0)
    return x / like(alpha, x), like(s.sigma / s.alpha - t.sigma / alpha, x)


def _ahead(x: jax.Array, t: Level, prediction: Prediction, s: Level) -> jax.Array:
    """Follow the slope at t to s.

    On a long step y and the change of y nearly cancel, and in pure noise y has no
    value; the same step is then written as `ddim(0)` has it.
    """
    y, dr = _place(x, t, s)
    along = like(s.alpha, x) * (y + dr * prediction.eps)
    straight = like(s.alpha, x) * prediction.x0 + like(s.sigma, x) * prediction.eps
    return jnp.where(like(_short(t, s), x), along, straight)


def _late(t: Level, s: Level) -> jax.Array:
    """Weigh the second prediction: alpha_s int_0^h e^(u - h) u / h du, [].

    With h = log(r_t / r_s), infinite from pure noise.
    """
    left = t.alpha * s.sigma / (s.alpha * t.sigma)  # e^-h
    return s.alpha * (1.0 + (1.0 - left) / jnp.log(left))


def _solver(churn: Churn | None, rule: Callable[..., jax.Array]) -> Sampler:
    """Make the sampler of a rule (denoise, x, t, prediction at t, s) -> x at s."""

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        x, level = state.x, t
        if churn is not None:
            x, level = _walk_up(churn, keys, x, level)
        prediction = denoise(x, level)
        x = rule(denoise, x, level, prediction, s)
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)


def _walk_up(
    churn: Churn, keys: jax.Array, x: jax.Array, t: Level
) -> tuple[jax.Array, Level]:
    """Add the noise that leads from t to (1 + gamma) r: lines 4 to 6 of Algorithm 2."""
    r = t.sigma / t.alpha
    gamma = jnp.minimum(churn.amount / churn.num_steps, jnp.sqrt(2.0) - 1.0)
    churns = (churn.low <= r) & (r <= churn.high) & (t.alpha > 0)  # nothing is above
    gamma = jnp.where(churns, gamma, 0.0)
    above = churn.schedule.at_logsnr(-2.0 * jnp.log((1.0 + gamma) * r))
    # r_hat^2 - r^2 = r^2 gamma (2 + gamma), without the difference of two squares.
    added = churn.noise * r * jnp.sqrt(gamma * (2.0 + gamma))
    walked = like(above.alpha, x) * (
        x / like(t.alpha, x) + like(added, x) * noise_like(keys, x)
    )
    # Chosen whole, so that gamma = 0 leaves both to the last bit as they were.
    return jax.tree.map(
        lambda new, old: jnp.where(gamma > 0, new, old), (walked, above), (x, t)
    )
