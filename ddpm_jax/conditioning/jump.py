"""How far a step goes as a condition, for networks that learn average velocities.

A row is t of the start of the step minus t of its end, in the units in which the
network is given t. 0 is a step of no length, at which the network is a diffusion model:
whatever leaves the condition out, such as samplers of other kinds, editing and
likelihood, sees that. `diffusion.few_steps` makes the rows, in training (`MeanFlow`)
and in sampling (`jumping`), under the name `JUMP`, that of the conditioner as well.

Source: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", section 4,
where t and t - r are embedded.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.conditioning.conditioner import Conditioner, Embedder
from ddpm_jax.diffusion.few_steps import JUMP
from ddpm_jax.networks.layers import default_init, time_embedding, zero_init
from ddpm_jax.networks.ports import Ports

NAME = JUMP


@dataclasses.dataclass(frozen=True)
class Jump(Conditioner):
    """Condition on how far a step goes: rows [B], 0 for no step.

    It is the same in both branches of guidance, and a run that begins with one without
    it computes at first what that one does.
    """

    named: ClassVar[str] = NAME
    droppable: ClassVar[bool] = False
    starts_silent: ClassVar[bool] = True

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> None:
        """Return nothing: the loss says how far each example [B] goes."""
        del key, batch, x0

    def null(self, rows: jax.Array) -> jax.Array:
        """Leave the rows [B]: they are never dropped."""
        return rows

    def example(self, num_rows: int, shape: tuple[int, ...]) -> jax.Array:
        """Make steps of no length: zeros [num_rows]."""
        del shape
        return jnp.zeros((num_rows,), jnp.float32)

    def embedder(self, features: int) -> Embedder:
        """Make the module that embeds the lengths."""
        return JumpEmbedder(features)


class JumpEmbedder(Embedder):
    """A perceptron of the timestep embedding, whose last layer starts at zero.

    Attributes:
        features: E, the width of the vector.
    """

    features: int

    @nn.compact
    def __call__(self, rows: jax.Array, *, train: bool = False) -> Ports:
        """Map lengths [B] to vectors [B, E]."""
        del train
        hidden = nn.Dense(self.features, kernel_init=default_init, name="dense_0")
        out = nn.Dense(self.features, kernel_init=zero_init, name="dense_1")
        return Ports(vector=out(nn.swish(hidden(time_embedding(rows, self.features)))))
