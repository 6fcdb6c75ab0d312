"""CLIP-style dual encoder: images and texts embedded in one space.

    image -> Classifier's features -------> length 1 --+
                                                       +-> scale * inner product
    text -> a vector for it -> a matrix --> length 1 --+

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision", section 2.3 and figure 3: the two towers, both vectors of length 1,
    and a scale that is learned, at first 1 / 0.07 and never above 100.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.networks.layers import default_init
from ddpm_jax.networks.residual_classifier import Classifier
from ddpm_jax.networks.text import TextTransformer

_FIRST_SCALE, _MOST_SCALE = 1 / 0.07, 100.0


class DualEncoder(nn.Module):
    """A CLIP-style dual encoder: an image encoder and a text encoder.

    Attributes:
        tower: the image encoder; its features are the embeddings, D long.
        encoder: the text encoder, for tokens; None where texts come encoded.
    """

    tower: Classifier
    encoder: TextTransformer | None

    def setup(self) -> None:
        """Set up the text projection and the logit scale."""
        self.text = nn.Dense(
            self.tower.num_features, use_bias=False, kernel_init=default_init
        )
        first = nn.initializers.constant(math.log(_FIRST_SCALE))
        self.log_scale = self.param("log_scale", first, (), jnp.float32)

    def __call__(
        self, images: jax.Array, text: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Embed both; return the embeddings and the logit scale (inverse temperature).

        Args:
            images: [B, H, W, C] in [-1, 1].
            text: `conditioning.Tokens` or `Encoded`, with leaves [B, ...].

        Returns:
            Vectors of the images and of the texts, float32 [B, D] each, of length 1;
            and the scale [].
        """
        scale = jnp.minimum(jnp.exp(self.log_scale), _MOST_SCALE)
        return self.encode_images(images), self.encode_texts(text), scale

    def encode_images(self, images: jax.Array) -> jax.Array:
        """Map images [B, H, W, C] in [-1, 1] to vectors of length 1, [B, D]."""
        features, _ = self.tower(images)
        return _unit_length(features)

    def encode_texts(self, text: Any) -> jax.Array:
        """Map `Tokens` or `Encoded`, leaves [B, ...], to vectors [B, D] of length 1."""
        return self.read_texts(text)[1]

    def read_texts(self, text: Any) -> tuple[jax.Array, jax.Array]:
        """Map texts to a vector for each token as well, which the embedding is made of.

        Args:
            text: `Tokens` or `Encoded`, leaves [B, ...].

        Returns:
            The sequence [B, L, W], and the embeddings float32 [B, D] of length 1.
        """
        if self.encoder is None:
            sequence, _, pooled = text
        else:
            sequence, pooled = self.encoder(*text)
        return sequence, _unit_length(self.text(pooled.astype(jnp.float32)))


def _unit_length(vectors):
    """Bring vectors [B, D] to length 1; one that is all zeros stays so."""
    squares = (vectors**2).sum(axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
