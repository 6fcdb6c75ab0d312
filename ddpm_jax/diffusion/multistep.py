"""Multistep samplers (DPM-Solver++, UniPC, PNDM): one network evaluation a step.

DPM-Solver++ and UniPC solve the exact integral of `exponential_integrator`, eq. (1),
and PNDM combines slopes. None counts on a grid: where the past is of no use, as before
the first step and to the clean end, a step is of order one.

Sources:
    [L] Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
        Probabilistic Models".
    [Z] Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast
        Sampling of Diffusion Models".
    [P] Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.exponential_integrator import (
    LONG,
    PastPredictions,
    advance,
    combine,
    half_logsnr,
    integral_weights,
    no_predictions,
    two_point_weight,
    usable,
    with_latest,
)
from ddpm_jax.diffusion.picklable import picklable
from ddpm_jax.diffusion.process import noise_like, posterior, small_variance
from ddpm_jax.diffusion.samplers import BoundDenoiser, Info, Sampler, State
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError

# --- DPM-Solver++ ---------------------------------------------------------------------


def _dpmpp(order: int) -> Sampler:
    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        del keys  # nothing is drawn
        prediction = denoise(state.x, t)
        x = advance(state.x, prediction.x0, state.carry, t, s)
        new = State(x, with_latest(state.carry, prediction.x0, t))
        return new, Info(state.x, x, prediction, t, s)

    return Sampler(init=lambda x: State(x, no_predictions(x, order - 1)), step=step)


@picklable
def dpmpp_2m() -> Sampler:
    """Solve the ODE by DPM-Solver++(2M), order 2, one evaluation a step: [L], Alg. 2.

    x_s = (sigma_s / sigma_t) x_t - alpha_s (e^-h - 1) D, where D continues the line
    through this prediction of x_0 and the last.
    """
    return _dpmpp(2)


@picklable
def dpmpp_3m() -> Sampler:
    """Solve the ODE by the third-order multistep DPM-Solver++, one evaluation a step.

    Eq. (1) with the parabola through this prediction of x_0 and the last two; the
    second step is one of `dpmpp_2m`. It is UniP-3 of [Z]. The code that goes with [L]
    gives the parabola's second difference half the weight that the integral needs,
    and so do the programs made after it; with half the weight the order is 2.
    """
    return _dpmpp(3)


@picklable
def dpmpp_2m_sde() -> Sampler:
    """Solve the reverse SDE by SDE-DPM-Solver++(2M), one evaluation a step.

    It is a step of `ancestral(small_variance)`, which is the SDE's solution if the
    prediction stays what it is, with D of `dpmpp_2m` for the prediction.

    Source: [L], appendix on SDE-DPM-Solver++; there 1 - e^-2h is c of `process`.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        prediction, past = denoise(state.x, t), state.carry
        h = half_logsnr(s) - half_logsnr(t)
        known = usable(past.place, half_logsnr(t), half_logsnr(s))
        lean = two_point_weight(h, past.place - half_logsnr(t), known)
        data = prediction.x0 + combine(lean, past.x0, prediction.x0)
        mean, _ = posterior(state.x, data, t, s)
        std = jnp.sqrt(small_variance(t, s))
        x = mean + std * noise_like(keys, mean)
        new = State(x, with_latest(past, prediction.x0, t))
        return new, Info(state.x, x, prediction, t, s)

    return Sampler(init=lambda x: State(x, no_predictions(x, 1)), step=step)


# --- UniPC ----------------------------------------------------------------------------


@picklable
def unipc(order: int = 2) -> Sampler:
    """Solve the ODE by UniPC with B_2(h), one evaluation a step: [Z], Algorithms 1, 2.

    The prediction at x_t, needed for the step to s, first serves to repeat the step
    that led to x_t: the polynomial now passes through it too (UniC). From the corrected
    x_t it goes on as a multistep solver of order p (UniP), without another evaluation.

    Args:
        order: p, 1, 2 or 3. The corrected steps are of order p + 1, [Z], Corollary 3.2.

    Raises:
        UserError: if the order is another.
    """
    if order not in (1, 2, 3):
        raise UserError(f"unipc of order {order!r}; use 1, 2 or 3.")

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        del keys  # nothing is drawn
        prediction, past = denoise(state.x, t), state.carry
        corrected = state.x + _correction(prediction.x0, past, t)
        reach = PastPredictions(past.x0[: order - 1], past.place[: order - 1])
        x = advance(corrected, prediction.x0, reach, t, s)
        new = State(x, with_latest(past, prediction.x0, t))
        return new, Info(state.x, x, prediction, t, s)

    return Sampler(init=lambda x: State(x, no_predictions(x, order)), step=step)


def _correction(x0: jax.Array, past: PastPredictions, t: Level) -> jax.Array:
    """Compute what UniC adds to the x_t that UniP made, given the prediction there.

    Both are eq. (1) from the level before t, with different weights, so that x there is
    not needed: a wrapper may have changed x_t since, and its change stays.
    """
    start, values = past.x0[0], past.x0[1:]
    offsets = past.place[1:] - past.place[0]
    h = half_logsnr(t) - past.place[0]
    is_started = jnp.isfinite(past.place[0])
    known = usable(past.place[1:], past.place[0], half_logsnr(t))
    before = integral_weights(h, offsets, known)
    after = integral_weights(h, jnp.append(offsets, h), jnp.append(known, is_started))
    change = combine(after, (*values, x0), start) - combine(before, values, start)
    return t.alpha * change


# --- PNDM -----------------------------------------------------------------------------


class _Slopes(NamedTuple):
    """State of PNDM."""

    eps: tuple[jax.Array, ...]  # three earlier ones [B, ...], the latest first
    num: jax.Array  # [], int32: steps taken


# Adams and Bashforth's weights of this slope and those before it, by their number.
_ADAMS = (
    np.array(
        [[24, 0, 0, 0], [36, -12, 0, 0], [46, -32, 10, 0], [55, -59, 37, -9]],
        np.float32,
    )
    / 24
)


@picklable
def pndm() -> Sampler:
    """Solve the ODE by pseudo linear multistep, or PLMS: order 2, [P], Algorithm 2.

    Adams and Bashforth's rule of four combines the predicted noise of four steps, and
    the result takes the step of `ddim(0)`: [P], eq. (9) and (12). The rule is that of
    even steps, of time or of whatever the grid is even in. The first step is one of
    Heun's rule, which evaluates the network a second time, and the next two use the
    rules of two and three. From near to pure noise, as on cosine schedules, the first
    step is as long in sigma / alpha as all others together, so that the mean of its
    slopes is useless; if it is longer than `exponential_integrator.LONG` it is plain.
    In [P] the first three steps are of Runge and Kutta, with four evaluations each; as
    the method has order 2, they are not needed to keep it.
    """

    def init(x: jax.Array) -> State:
        return State(x, _Slopes((jnp.zeros_like(x),) * 3, jnp.int32(0)))

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        del keys  # nothing is drawn
        prediction, past = denoise(state.x, t), state.carry
        eps = prediction.eps

        def go(slope: jax.Array) -> jax.Array:
            # ddim(0) with another slope, arranged so that alpha_t may be 0: nothing is
            # then known but eps.
            safe = jnp.where(t.alpha > 0, t.alpha, 1.0)
            dx = jnp.where(t.alpha > 0, s.sigma - t.sigma * s.alpha / safe, 0.0)
            straight = s.alpha * prediction.x0 + s.sigma * eps
            return straight + dx * (slope - eps)

        def multistep() -> jax.Array:
            weights = jnp.asarray(_ADAMS)[jnp.minimum(past.num, 3)]
            slopes = (eps, *past.eps)
            return go(sum(weights[i] * slope for i, slope in enumerate(slopes)))

        def heun() -> jax.Array:
            return go(0.5 * (eps + denoise(go(eps), s).eps))

        length = half_logsnr(s) - half_logsnr(t)  # infinite if s is clean
        starts = (past.num == 0) & (length <= LONG)
        x = jax.lax.cond(starts, heun, multistep)
        new = State(x, _Slopes((eps, *past.eps[:2]), past.num + 1))
        return new, Info(state.x, x, prediction, t, s)

    return Sampler(init=init, step=step)
