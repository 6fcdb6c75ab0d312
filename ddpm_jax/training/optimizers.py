"""Optimizers, by what makes them, and the learning rate they follow.

Another one is a frozen dataclass with `build`, a file anywhere: see
`benchmarks/optimizers.py`, which compares some of optax.contrib's.

Source: Ho et al. 2020, appendix B, for Adam with a linear warm-up.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ddpm_jax import limits


def warmup_schedule(
    peak: float,
    warmup_steps: int,
    decay_steps: int | None = None,
    restarts: tuple[int, ...] = (),
) -> optax.Schedule:
    """Rise linearly to the peak, then hold it, or fall to 0 on a cosine.

    Args:
        peak: learning rate after the warm-up.
        warmup_steps: length of the rise; step k (from 0) uses (k + 1) / warmup_steps.
        decay_steps: step at which the cosine reaches 0; None to hold the peak.
        restarts: rising steps before that at which it reaches 0 as well, and rises to
            the peak again, within `warmup_steps` or a tenth of what lies before the
            next, whichever is less.

    Source: Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm
        Restarts", for the restarts, which have no rise there.
    """
    if decay_steps is not None and restarts:
        starts, ends = (0, *restarts), (*restarts, decay_steps)
        pieces = [
            warmup_schedule(
                peak,
                min(warmup_steps, (end - start) // 10) if start else warmup_steps,
                end - start,
            )
            for start, end in zip(starts, ends, strict=True)
        ]
        return optax.join_schedules(pieces, list(restarts))

    def rate(count: jax.Array) -> jax.Array:
        rise = jnp.minimum((count + 1.0) / max(warmup_steps, 1), 1.0)
        if decay_steps is None:
            return peak * rise
        progress = (count - warmup_steps) / max(decay_steps - warmup_steps, 1)
        fall = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return peak * rise * fall

    return rate


def clipped(
    optimizer: optax.GradientTransformation, max_grad_norm: float
) -> optax.GradientTransformation:
    """Clip gradients to a global norm before an optimizer sees them.

    Args:
        optimizer: optax's.
        max_grad_norm: the largest norm; 0 for no clipping.
    """
    if not max_grad_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer, by what makes it; `build` makes it."""

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer.

        Args:
            rate: step, counted from 0 -> learning rate.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Adam(OptimizerSpec):
    """Adam: Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization".

    Attributes:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        limits.share(self, "b1", "b2")
        limits.positive(self, "eps", such_as="the paper's is 1e-8")

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer; see `OptimizerSpec`."""
        return optax.adam(rate, b1=self.b1, b2=self.b2, eps=self.eps)


@dataclasses.dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay apart from the gradient.

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".

    Attributes:
        weight_decay: share of a parameter taken off at a step of learning rate 1.
    """

    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.at_least(self, 0, "weight_decay")

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer; see `OptimizerSpec`."""
        return optax.adamw(
            rate,
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
