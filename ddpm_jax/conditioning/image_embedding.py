"""An image embedding of a frozen dual encoder as a condition: the decoder of unCLIP.

The condition is the embedding z of an image, of length 1: sqrt(D) z is projected to
four further tokens of cross-attention, and to a vector that is added to the time
embedding. In training the embedding is that of the image itself; in sampling a prior
makes it of a text, or another image gives it.

Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP
    Latents", section 2.1.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.conditioning.conditioner import Conditioner, Embedder
from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import default_init
from ddpm_jax.networks.ports import Ports, TokenSequence, from_data

NAME = "image_embedding"
"""Of the conditioner, and of its rows in a batch and in a request."""

NUM_TOKENS = 4
"""Tokens that an embedding becomes."""


@dataclasses.dataclass(frozen=True)
class ImageEmbedding(Conditioner):
    """Condition on the image embedding of a trained dual encoder (CLIP).

    Rows are vectors of length 1, float32 [B, D]; zeros are none.

    Attributes:
        run: the folder of the dual encoder.
        width: D, of its embeddings.
        token_width: W, of the tokens that an embedding becomes, as wide as those of the
            dual encoder's texts.
    """

    run: str = ""
    width: int = from_data(0)
    token_width: int = from_data(0)

    named: ClassVar[str] = NAME
    opens: ClassVar[str] = "contrastive"

    def __post_init__(self) -> None:
        limits.names_run(self, "dual encoder", "runs/shapes_clip")

    def for_data(self, data: Any) -> "ImageEmbedding":
        """Take the sizes of the dual encoder."""
        sizes = data.runs[self.opens].sizes
        return dataclasses.replace(
            self, width=sizes["width"], token_width=sizes["token_width"]
        )

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> jax.Array:
        """Take the embeddings of a batch, which were made of its images: [B, D]."""
        del key, x0
        return batch[NAME]

    def null(self, rows: jax.Array) -> jax.Array:
        """Put no embedding in the place of each: zeros [B, D]."""
        return jnp.zeros_like(rows)

    def example(self, num_rows: int, shape: tuple[int, ...]) -> jax.Array:
        """Make no embeddings."""
        del shape
        return jnp.zeros((num_rows, self.width), jnp.float32)

    def embedder(self, features: int) -> Embedder:
        """Make the projections into the network."""
        return ImageEmbedder(features, self.width, self.token_width)


class ImageEmbedder(Embedder):
    """Embeddings to four tokens for cross-attention, and to a vector.

    Attributes:
        features: E.
        width: D.
        token_width: W.
    """

    features: int
    width: int
    token_width: int

    @nn.compact
    def __call__(self, rows: jax.Array, *, train: bool = False) -> Ports:
        """Map embeddings [B, D] to tokens [B, 4, W] and a vector [B, E].

        Raises:
            UserError: they are of another length.
        """
        del train
        if jnp.shape(rows)[1:] != (self.width,):
            raise UserError(
                f"got image embeddings of shape {list(jnp.shape(rows))}, this network "
                f"wants [B, {self.width}]; use the dual encoder that it was trained "
                "with."
            )

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, kernel_init=default_init, name=name)

        # None is a vector of its own, which is learned, as of texts.
        none = self.param("none", nn.initializers.normal(1.0), (self.width,))
        is_none = (rows == 0).all(axis=-1, keepdims=True)
        h = jnp.where(is_none, none, math.sqrt(self.width) * rows)
        tokens = dense(NUM_TOKENS * self.token_width, "tokens")(h)
        tokens = tokens.reshape(-1, NUM_TOKENS, self.token_width)
        vector = dense(self.features, "dense_1")(
            nn.swish(dense(self.features, "dense_0")(h))
        )
        return Ports(vector, TokenSequence(tokens, jnp.ones(tokens.shape[:2], bool)))
