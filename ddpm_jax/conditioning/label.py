"""The class of an item as a condition: a learned vector for each.

Source: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance": one row more stands
    for no class, and is the null condition.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.conditioning.conditioner import Conditioner, Embedder
from ddpm_jax.errors import UserError
from ddpm_jax.networks.ports import Ports, from_data


@dataclasses.dataclass(frozen=True)
class Label(Conditioner):
    """Condition on a class; rows are int32 [B] in 0..num_classes, the last for none.

    Attributes:
        num_classes: of the data.
    """

    num_classes: int = from_data(0)

    named: ClassVar[str] = "label"

    def for_data(self, data: Any) -> "Label":
        """Take the classes of the data.

        Raises:
            UserError: they have none.
        """
        if data.label_names is None:
            raise UserError(
                f"{data.name} has no labels; sort the images into one folder per "
                "class, or leave this condition out."
            )
        return Label(data.num_classes)

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> jax.Array:
        """Take the labels of a batch: int32 [B]."""
        del key, x0
        return batch["label"]

    def null(self, rows: jax.Array) -> jax.Array:
        """Put no class in the place of each, int32 [B]."""
        return jnp.full_like(rows, self.num_classes)

    def example(self, num_rows: int, shape: tuple[int, ...]) -> jax.Array:
        """Make labels: the first class."""
        del shape
        return jnp.zeros((num_rows,), jnp.int32)

    def embedder(self, features: int) -> Embedder:
        """Make the table of vectors."""
        return LabelEmbedder(self.num_classes, features)


class LabelEmbedder(Embedder):
    """A vector for each class, and one for none, of unit variance at first.

    As in the code of Nichol & Dhariwal 2021.

    Attributes:
        num_classes: besides none.
        features: E.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, rows: jax.Array, *, train: bool = False) -> Ports:
        """Map labels [B] to a vector [B, E]."""
        del train
        shape = (self.num_classes + 1, self.features)
        table = self.param("embedding", nn.initializers.normal(1.0), shape, jnp.float32)
        return Ports(vector=jnp.take(table, rows, axis=0))
