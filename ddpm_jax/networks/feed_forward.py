"""Feed-forward networks on vectors: the perceptron that VAEs, GANs and flows share.

    x, its Fourier features -> (dense, swish) x depth -> dense

There is no normalization, whose statistics would tie an output to its scale, and no
time: these networks are no denoisers. With depth 0 the map is affine.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.kl_autoencoder import MAX_LOG_VARIANCE, MIN_LOG_VARIANCE
from ddpm_jax.networks.layers import default_init
from ddpm_jax.networks.mlp import fourier_features
from ddpm_jax.networks.ports import from_data


class FeedForward(nn.Module):
    """Dense layers with a nonlinearity between them.

    Attributes:
        out_features: of the output.
        width: of each hidden layer.
        depth: hidden layers; 0: the map is affine.
        num_frequencies: of the Fourier features of the input; 0 for none.
        out_init: of the kernel of the last layer.
    """

    out_features: int
    width: int
    depth: int
    num_frequencies: int = 0
    out_init: Any = default_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, D] to [B, out_features]."""
        h = x
        if self.num_frequencies:
            h = jnp.concatenate([x, fourier_features(x, self.num_frequencies)], -1)
        for layer in range(self.depth):
            dense = nn.Dense(
                self.width, kernel_init=default_init, name=f"dense_{layer}"
            )
            h = nn.swish(dense(h))
        return nn.Dense(self.out_features, kernel_init=self.out_init, name="out")(h)


def check_vector(shape: Sequence[int], what: str) -> None:
    """Refuse items that are no vectors (D,).

    Args:
        shape: of an item.
        what: takes vectors, with its article, such as "a vector_autoencoder".

    Raises:
        UserError: they have another number of axes.
    """
    if len(shape) != 1:
        raise UserError(
            f"{what} takes items that are vectors, and these are "
            f"{'x'.join(map(str, shape))}; use points, or a network for images."
        )


def check_layers(spec: Any) -> None:
    """Refuse widths, depths and numbers of frequencies out of range.

    Args:
        spec: a network with these fields.

    Raises:
        UserError: naming the first.
    """
    limits.between(spec, "width", 1, 65_536)
    limits.between(spec, "depth", 0, 1000)
    limits.between(spec, "num_frequencies", 0, 32)


class LatentOfVectors(nn.Module):
    """What networks between vectors and their latents have in common.

    Attributes:
        item_features: D.
        latent_features: d.
        width: of the hidden layers.
        depth: hidden layers.
        num_frequencies: of the Fourier features of the input; 0 for none.
    """

    article_and_name: ClassVar[str]
    item_features: int = from_data(2)
    latent_features: int = 2
    width: int = 128
    depth: int = 3
    num_frequencies: int = 0

    def for_items(self, shape: tuple[int, ...]) -> Self:
        """Return it for items of a shape (D,).

        Raises:
            UserError: it cannot be built for them.
        """
        check_vector(shape, self.article_and_name)
        check_layers(self)
        limits.between(self, "latent_features", 1, 65_536)
        return self.clone(item_features=shape[0])

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one latent of items of a shape (D,)."""
        del shape
        return (self.latent_features,)


class VectorAutoencoder(LatentOfVectors):
    """Vectors to a Gaussian over latents, and latents to vectors, a perceptron each.

    Attributes:
        item_features: D.
        latent_features: d.
        width: of the hidden layers.
        depth: hidden layers of each half; 0: both are affine, as in probabilistic PCA.
        num_frequencies: of the Fourier features of items and latents; 0 for none.
    """

    article_and_name = "a vector_autoencoder"

    def setup(self):
        """Make the halves; Flax calls it."""
        self.encoder = FeedForward(
            2 * self.latent_features, self.width, self.depth, self.num_frequencies
        )
        self.decoder = FeedForward(
            self.item_features, self.width, self.depth, self.num_frequencies
        )

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map items [B, D] to mean and log-variance of their latents, each [B, d].

        The log-variance is clipped as that of `KLAutoencoder`.
        """
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        return mean, jnp.clip(log_variance, MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def decode(self, z: jax.Array) -> jax.Array:
        """Map latents [B, d] to items [B, D]."""
        return self.decoder(z)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Reconstruct items [B, D] from the means of their latents."""
        return self.decode(self.encode(x)[0])
