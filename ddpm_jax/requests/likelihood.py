"""The request of `likelihood`."""

from ddpm_jax import limits
from ddpm_jax.requests.options import (
    VARIANCES,
    Parameters,
    WithResults,
    check_tolerance,
    listed,
    option,
    request,
)

METHODS = ("bound", "ode")
NUM_SAMPLES = 64
"""Importance samples of a VAE's bound, unless others are asked for."""


@request("likelihood")
class Likelihood(Parameters, WithResults):
    """Measure bits per dimension of a split of the data: of diffusion, VAE or flow.

    python main.py likelihood runs/digits --method=bound
    """

    source: str | None = option(None, "of the items; unset: the data of the run")
    split: str = option("test", "of these data")
    method: str = option(
        "both",
        f"of diffusion: {listed((*METHODS, 'both'))}",
        choices=(*METHODS, "both"),
    )
    num_images: int | None = option(None, "the first of the split; unset: all")
    batch_size: int = option(64, "images at a time, over all devices")
    seed: int | None = option(None, "unset: that of the run")
    variance: str | None = option(
        None, f"bound: {listed(VARIANCES)}; unset: as trained", choices=VARIANCES
    )
    clip: bool = option(True, "bound: clamp the predicted x0 to [-1, 1]")
    num_steps: int | None = option(None, "bound: unset: all T")
    ode_steps: int | None = option(None, "ODE: Runge-Kutta steps; unset: adaptive")
    rtol: float = option(1e-4, "ODE: relative tolerance of the adaptive steps")
    atol: float = option(1e-4, "ODE: absolute tolerance")
    num_probes: int = option(
        1, "ODE: sign vectors of the trace; 0: exact, at D times the cost"
    )
    num_samples: int = option(
        NUM_SAMPLES, "VAE: importance samples of each item, K of its bound"
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
