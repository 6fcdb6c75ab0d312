"""The one seam between networks and everything else: `denoise(x_t, level, cond)`.

A denoiser predicts the clean data and the noise from noisy data. Samplers, bounds and
guidance use nothing else of a network. What changes a denoiser, such as `clip_x0`, is a
function Denoiser -> Denoiser.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import (
    Parameterization,
    Prediction,
    eps_from_x0,
    like,
)
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError

Cond = Any
"""A pytree of arrays `[B, ...]` that the network is conditioned on, or None."""

Network = Callable[[Any, jax.Array, jax.Array, Cond], jax.Array]
"""(params, x_t [B, ...], t [B], cond) -> output [B, ...]."""

Denoiser = Callable[[jax.Array, Level, Cond], Prediction]
"""(x_t [B, ...], level with leaves [] or [B], cond) -> Prediction."""


def predict(denoise: Denoiser, x_t: jax.Array, level: Level, cond: Cond) -> Prediction:
    """Evaluate a denoiser, and refuse an output that is not a prediction of x_t.

    Args:
        denoise: any.
        x_t: [B, ...].
        level: leaves [] or [B].
        cond: what it is conditioned on.

    Raises:
        UserError: it returns something else, or of another shape.
    """
    prediction = denoise(x_t, level, cond)
    if not isinstance(prediction, Prediction):
        raise UserError(
            f"the denoiser returned {type(prediction).__name__}, not a Prediction of "
            "x0 and eps; make a denoiser of a network with denoisers.from_network."
        )
    for name in ("x0", "eps"):
        shape = jnp.shape(getattr(prediction, name))
        if shape != x_t.shape:
            raise UserError(
                f"the denoiser predicts {name} of shape {list(shape)} for x_t of "
                f"{list(x_t.shape)}; they must be the same (from_network splits twice "
                "the channels with learns_variance=True)."
            )
    return prediction


def from_network(
    network: Network,
    params: Any,
    kind: Parameterization,
    *,
    learns_variance: bool = False,
) -> Denoiser:
    """Make a denoiser of a network and its parameters.

    Args:
        network: called with t spread to `[B]`.
        params: its parameters.
        kind: what its output means, such as EPS or FLOW, and what it is given.
        learns_variance: the last axis holds twice the channels, the second half being
            the interpolation weight of the reverse variance in [-1, 1].
    """

    def denoise(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        x, t = kind.network_input(x_t, level)
        output = network(params, x, jnp.broadcast_to(t, x_t.shape[:1]), cond)
        output, fraction = split_output(output, learns_variance=learns_variance)
        return kind.predict(output, x_t, level)._replace(fraction=fraction)

    return denoise


def split_output(
    output: jax.Array, *, learns_variance: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Part a network's output into prediction and variance fraction.

    The network's second half w in about [-1, 1] is read as fraction = (w + 1) / 2, so
    that a network whose last layer starts at zero starts halfway.

    Source: Nichol and Dhariwal 2021, eq. (15), and their code for the offset.
    """
    if not learns_variance:
        return output, None
    prediction, w = jnp.split(output, 2, axis=-1)
    return prediction, (w + 1.0) / 2.0


def rescaled(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """Use a model of one schedule at the levels of any other.

    At equal log-SNR two schedules differ in scale alone: x' = (alpha' / alpha) x has
    the same x_0 and the same eps. So a model that preserves the variance is exactly a
    model of the straight path, and the other way round; neither is trained again.

    The chain still starts from N(0, I), which two schedules mean alike where both have
    sigma near 1 at their noisiest level. A level beyond the noisiest one of `schedule`
    is one that its model was not trained at.

    Args:
        denoise: the model, at levels of `schedule`.
        schedule: the one that it was trained on.

    Returns:
        A denoiser that takes levels of any schedule.

    Source: the change of variables of Karras et al. 2022, "Elucidating the Design Space
        of Diffusion-Based Generative Models", appendix B.
    """

    def moved(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        own = schedule.at_logsnr(level.logsnr)
        # alpha' / alpha and sigma' / sigma, without a quotient of zeros.
        scale = jnp.sqrt(own.square_norm / level.square_norm)
        return predict(denoise, like(scale, x_t) * x_t, own, cond)

    return moved


def clip_x0(denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Clamp the predicted x_0 to the range of the data, and make eps agree with it.

    Early in the reverse chain x_0 is a small difference of large numbers; Ho et al.'s
    code clamps it before it enters the posterior mean.
    """

    def clipped(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        prediction = predict(denoise, x_t, level, cond)
        x0 = jnp.clip(prediction.x0, low, high)
        return prediction._replace(x0=x0, eps=eps_from_x0(x0, x_t, level))

    return clipped
