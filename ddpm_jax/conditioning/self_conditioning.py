"""The self-conditioning estimate as a condition: the network's own last x_0, as a map.

`diffusion.self_conditioning` makes the estimate, in training (`self_condition_half`)
and in sampling (`self_conditioned`), and puts it into the condition under the name
`ESTIMATE`, which is also that of the conditioner.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ddpm_jax.conditioning.conditioner import Conditioner, Embedder
from ddpm_jax.diffusion.self_conditioning import ESTIMATE
from ddpm_jax.networks.ports import Ports

NAME = ESTIMATE


@dataclasses.dataclass(frozen=True)
class SelfConditioning(Conditioner):
    """Condition on the last estimate of x_0: rows [B, ...] like x_t, zeros for none.

    It is the same in both branches of guidance.
    """

    named: ClassVar[str] = NAME
    droppable: ClassVar[bool] = False

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> None:
        """Return nothing: the loss adds the estimate [B, ...] of the network."""
        del key, batch, x0

    def null(self, rows: jax.Array) -> jax.Array:
        """Leave the estimate [B, ...]: it is never dropped."""
        return rows

    def example(self, num_rows: int, shape: tuple[int, ...]) -> jax.Array:
        """Make no estimate: zeros."""
        return jnp.zeros((num_rows, *shape), jnp.float32)

    def embedder(self, features: int) -> Embedder:
        """Make the module that hands on the estimate."""
        del features
        return EstimateEmbedder()


class EstimateEmbedder(Embedder):
    """The estimate as it is, to be joined to x_t."""

    def __call__(self, rows: jax.Array, *, train: bool = False) -> Ports:
        """Map an estimate [B, ..., C] to the port of maps."""
        del train
        return Ports(maps=rows)
