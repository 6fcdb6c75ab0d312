"""Generators and discriminators of GANs, for vectors and for images.

    z -> generator -> x            a sample of the data, if all is well
    x -> discriminator -> logit    of each item one, real above zero

For images they are the halves of the autoencoder: a generator is its decoder, from maps
of noise, and a discriminator its encoder with one channel of logits, averaged over
places. Normalization is by groups of channels of one item, so that the gradient of a
logit by its image, which R1 and R2 penalize, is of that image alone.

Source: Goodfellow et al. 2014, "Generative Adversarial Nets".
"""

from typing import Any

import jax
from flax import linen as nn

from ddpm_jax.networks.feed_forward import (
    FeedForward,
    LatentOfVectors,
    check_layers,
    check_vector,
)
from ddpm_jax.networks.kl_autoencoder import (
    Decoder,
    Encoder,
    check_autoencoder,
    check_image,
)
from ddpm_jax.networks.ports import from_data


class VectorGenerator(LatentOfVectors):
    """Noise to vectors.

    Attributes:
        item_features: D.
        latent_features: d, of the noise.
        width: of the hidden layers.
        depth: hidden layers.
        num_frequencies: of the Fourier features of the noise; 0 for none.
    """

    article_and_name = "a vector_generator"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Map noise [B, d] to items [B, D]."""
        return FeedForward(
            self.item_features,
            self.width,
            self.depth,
            self.num_frequencies,
            name="layers",
        )(z)


class VectorDiscriminator(nn.Module):
    """Vectors to logits.

    Attributes:
        width: of the hidden layers.
        depth: hidden layers.
        num_frequencies: of the Fourier features of the items; 0 for none.
    """

    width: int = 128
    depth: int = 3
    num_frequencies: int = 0

    def for_items(self, shape: tuple[int, ...]) -> "VectorDiscriminator":
        """Return it for items of a shape (D,).

        Raises:
            UserError: it cannot be built for them.
        """
        check_vector(shape, "a vector_discriminator")
        check_layers(self)
        return self

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map items [B, D] to logits [B]."""
        layers = FeedForward(
            1, self.width, self.depth, self.num_frequencies, name="layers"
        )
        return layers(x)[:, 0]


def _check_half(spec: Any, shape: tuple[int, ...], what: str, latents: int) -> None:
    check_image(shape, what)
    check_autoencoder(
        *shape[:2],
        channels=spec.channels,
        channel_multipliers=spec.channel_multipliers,
        num_res_blocks=spec.num_res_blocks,
        latent_channels=latents,
        num_groups=spec.num_groups,
    )


def _half(spec: Any) -> dict[str, Any]:
    """Return the options of a half of an autoencoder."""
    return {
        "widths": tuple(spec.channels * m for m in spec.channel_multipliers),
        "num_res_blocks": spec.num_res_blocks,
        "num_groups": spec.num_groups,
        "epsilon": 1e-6,
        "attention": False,
        "dtype": "float32",
    }


class ImageGenerator(nn.Module):
    """Maps of noise to images.

    Attributes:
        image_channels: C.
        latent_channels: c, of the maps of noise.
        channels: of the finest level.
        channel_multipliers: one per level, finest first; L of them double L - 1 times.
        num_res_blocks: of each level, and one more.
        num_groups: of every normalization.
    """

    image_channels: int = from_data(3)
    latent_channels: int = 4
    channels: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2)
    num_res_blocks: int = 1
    num_groups: int = 8

    def for_items(self, shape: tuple[int, ...]) -> "ImageGenerator":
        """Return it for images (H, W, C).

        Raises:
            UserError: it cannot be built for items of this shape.
        """
        _check_half(self, shape, "an image_generator", self.latent_channels)
        return self.clone(image_channels=shape[-1])

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (h, w, c) of the noise of an image (H, W, C)."""
        factor = 2 ** (len(self.channel_multipliers) - 1)
        return shape[0] // factor, shape[1] // factor, self.latent_channels

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Map noise [B, h, w, c] to images [B, H, W, C], not clipped."""
        return Decoder(self.image_channels, **_half(self), name="layers")(z)


class ImageDiscriminator(nn.Module):
    """Images to logits, the mean of those of all places.

    Attributes:
        channels: of the finest level.
        channel_multipliers: one per level, finest first; L of them halve L - 1 times.
        num_res_blocks: of each level.
        num_groups: of every normalization.
    """

    channels: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2)
    num_res_blocks: int = 1
    num_groups: int = 8

    def for_items(self, shape: tuple[int, ...]) -> "ImageDiscriminator":
        """Return it for images (H, W, C).

        Raises:
            UserError: it cannot be built for items of this shape.
        """
        _check_half(self, shape, "an image_discriminator", 1)
        return self

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images [B, H, W, C] to logits [B]."""
        return Encoder(1, **_half(self), name="layers")(x).mean((1, 2, 3))
