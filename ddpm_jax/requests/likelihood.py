"""The request of `likelihood`."""

import dataclasses

from ddpm_jax import limits
from ddpm_jax.requests.options import (
    VARIANCES,
    Parameters,
    WithResults,
    check_tolerance,
    listed,
    option,
)

METHODS = ("bound", "ode")
NUM_SAMPLES = 64
"""Importance samples of a VAE's bound, unless others are asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Parameters, WithResults):
    """Measure bits per dimension of a split of the data: of diffusion, VAE or flow.

    python main.py likelihood runs/digits --method=bound
    """

    source: str | None = option(
        None, "of the items; unset: the data of the run", of="likelihood.source"
    )
    split: str = option("test", "of these data", of="likelihood.split")
    method: str = option(
        "both",
        f"of diffusion: {listed((*METHODS, 'both'))}",
        of="likelihood.method",
        choices=(*METHODS, "both"),
    )
    num_images: int | None = option(
        None, "the first of the split; unset: all", of="likelihood.num_images"
    )
    batch_size: int = option(
        64, "images at a time, over all devices", of="likelihood.batch_size"
    )
    seed: int | None = option(None, "unset: that of the run", of="likelihood.seed")
    variance: str | None = option(
        None,
        f"bound: {listed(VARIANCES)}; unset: as trained",
        of="likelihood.variance",
        choices=VARIANCES,
    )
    clip: bool = option(
        True, "bound: clamp the predicted x0 to [-1, 1]", of="likelihood.clip"
    )
    num_steps: int | None = option(
        None, "bound: unset: all T", of="likelihood.num_steps"
    )
    ode_steps: int | None = option(
        None, "ODE: Runge-Kutta steps; unset: adaptive", of="likelihood.ode_steps"
    )
    rtol: float = option(
        1e-4, "ODE: relative tolerance of the adaptive steps", of="likelihood.rtol"
    )
    atol: float = option(1e-4, "ODE: absolute tolerance", of="likelihood.atol")
    num_probes: int = option(
        1,
        "ODE: sign vectors of the trace; 0: exact, at D times the cost",
        of="likelihood.num_probes",
    )
    num_samples: int = option(
        NUM_SAMPLES,
        "VAE: importance samples of each item, K of its bound",
        of="likelihood.num_samples",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "num_images", "batch_size", "ode_steps", "num_samples")
        self.check_at_least(0, "num_probes")
        if self.seed is not None:
            limits.check_seed("config.likelihood.seed", self.seed)
        for name in ("rtol", "atol"):
            check_tolerance(f"config.likelihood.{name}", getattr(self, name))

    @property
    def methods(self) -> tuple[str, ...]:
        """What the method names: one, or both."""
        return METHODS if self.method == "both" else (self.method,)
