r"""The exact solution of the probability-flow ODE between two levels, and its weights.

With lambda = log(alpha / sigma), which grows along the chain, and h = lambda_s -
lambda_t ([L], eq. 8),

    (1)  x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(u - h) D(u) du,

D(u) being the prediction of x_0 where lambda = lambda_t + u. A solver of order p puts
for D the polynomial through p predictions. Which of them there are decides the order
of a step: before the first step there are none; to the clean end, where h is infinite,
and away from pure noise, none is of use. Such a step takes D = x_0 and is that of
`ddim(0)`. Nothing here depends on how the levels are spaced, and nothing branches on
the number of a step. The leaves of the levels are `[]`.

Sources:
    [L] Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
        Probabilistic Models".
    [Z] Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast
        Sampling of Diffusion Models".
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules import Level


class PastPredictions(NamedTuple):
    """K earlier predictions, the latest first: the state of a multistep solver."""

    x0: tuple[jax.Array, ...]  # K times [B, ...]
    place: jax.Array  # [K], the lambda each was made at; inf where there was no step


def no_predictions(x: jax.Array, length: int) -> PastPredictions:
    """Make room for K predictions like x `[B, ...]`, none of them made yet."""
    place = jnp.full(length, jnp.inf, jnp.promote_types(x.dtype, jnp.float32))
    return PastPredictions((jnp.zeros_like(x),) * length, place)


def half_logsnr(level: Level) -> jax.Array:
    """Compute lambda: inf for the clean image, -inf for pure noise."""
    return 0.5 * level.logsnr


def with_latest(past: PastPredictions, x0: jax.Array, level: Level) -> PastPredictions:
    """Put a prediction [B, ...] before the others and drop the oldest."""
    place = jnp.roll(past.place, 1).at[0].set(half_logsnr(level))
    return PastPredictions((x0, *past.x0[:-1]), place)


# --- The integral of eq. (1) ----------------------------------------------------------

# A polynomial is a poor estimate far outside of its points. Where a grid in time meets
# t = 0 (`leading`, `linear`) the last noisy step is three to five times as long as the
# one before it, and a parabola drawn out over it made errors larger than the data; on
# the other grids, of ten steps and more, no step is 1.8 times as long as the one
# before.
_REACH = 2.0

LONG = math.log(4.0)
"""In lambda; a step that leaves less than a quarter of sigma / alpha is a long one.

On such a step x_0 may go from one value to another, so that rules which lean on little
changing err by more than one of order 1: Heun's mean of two slopes (`karras.heun` has
the numbers), and a parabola drawn out over it.
"""


def usable(place: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """Return which of the past predictions serve a step: bool [K].

    None of those that were never made or were made of pure noise, none but the latest
    on a step longer than LONG, and none at all if the step ends clean or is more than
    _REACH times as long as the one before it.

    Args:
        place: [K], lambda where they were made, the latest first.
        start: [], lambda at the start of the step.
        end: [], lambda at its end.
    """
    made = jnp.isfinite(place)
    before = jnp.where(made, start - jnp.where(made, place, 0.0), 0.0)[:1]
    serves = np.arange(len(place)) == 0
    serves = serves | (end - start <= LONG)
    return made & serves & jnp.all(end - start <= _REACH * before)


# Gauss and Legendre's rule on [0, 1], exact to rounding for every h up to 30. Its terms
# are all positive. The closed forms of int e^(u - h) u^k du subtract numbers near one,
# and in float32 have no digit left for k = 3 and h = 0.005, a step of 1000.
_RULE = np.polynomial.legendre.leggauss(16)
_POINTS, _SHARES = (_RULE[0] + 1) / 2, _RULE[1] / 2


def two_point_weight(h: jax.Array, offset: jax.Array, known: jax.Array) -> jax.Array:
    """Weigh a second prediction by the rule of [L], Algorithm 2: h / (2 offset).

    It reads the line through two predictions in the middle of the step. 0 where the
    second one is not known.
    """
    return jnp.where(known, 0.5 * h / jnp.where(known, offset, 1.0), 0.0)


def integral_weights(h: jax.Array, offsets: jax.Array, known: jax.Array) -> jax.Array:
    """Weigh predictions in the integral of eq. (1).

    The integral is (1 - e^-h) D_0 + sum_j w_j (D_j - D_0), where D_0 was made at the
    start of the step. With two or more D_j known, it is that of the polynomial through
    all; with one, the rule of `two_point_weight`: so it is in [Z], where a_1 = 1/2 does
    for either equation with one unknown, and in [L]. The choice of B(h) in [Z] matters
    there alone, and this is its B_2(h) = e^h - 1.

    Args:
        h: [], the length of the step.
        offsets: [K], from lambda at its start to that of D_1, ..., D_K.
        known: [K], false for the D_j to leave out.

    Returns:
        w, [K]; 0 where not known.
    """
    h = jnp.where(known.any(), h, 1.0)  # may be infinite if none is
    nodes = jnp.where(known, offsets, 0.0) / h
    num = len(offsets)
    # Lagrange's basis: the product over the other nodes of (u - r_i) / (r_j - r_i),
    # the node r_0 = 0 of D_0 among them, which gives the factor u / r_j.
    others = known & ~np.eye(num, dtype=bool)  # [j, i]
    gaps = jnp.where(others, nodes[:, None] - nodes, 1.0)
    u, shares = (jnp.asarray(v, offsets.dtype) for v in (_POINTS, _SHARES))
    rises = jnp.where(others[..., None], (u - nodes[:, None]) / gaps[..., None], 1.0)
    basis = u / jnp.where(known, nodes, 1.0)[:, None] * rises.prod(1)  # [j, u]
    decay = shares * jnp.exp(-h * (1.0 - u))
    exact = h * jnp.sum(basis * decay, -1)
    alone = -jnp.expm1(-h) * two_point_weight(h, offsets, known)
    return jnp.where(known, jnp.where(known.sum() > 1, exact, alone), 0.0)


def combine(weights: jax.Array, values: tuple, start: jax.Array) -> jax.Array:
    """Compute sum_j w_j (D_j - D_0): [B, ...]."""
    return sum(weights[j] * (value - start) for j, value in enumerate(values))


def advance(
    x: jax.Array, x0: jax.Array, past: PastPredictions, t: Level, s: Level
) -> jax.Array:
    """Take x [B, ...] from t to s by eq. (1), a polynomial through x0 and the past."""
    h = half_logsnr(s) - half_logsnr(t)
    known = usable(past.place, half_logsnr(t), half_logsnr(s))
    shrink = s.sigma / t.sigma
    first = shrink * x + (s.alpha - shrink * t.alpha) * x0
    weights = integral_weights(h, past.place - half_logsnr(t), known)
    return first + s.alpha * combine(weights, past.x0, x0)
