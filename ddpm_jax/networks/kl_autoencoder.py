"""The KL autoencoder of latent diffusion: two halves of a U-Net with nothing across.

    x -> conv_in -> down_0 .. down_{L-1} -> mid -> norm, swish, conv_out -> quant
      -> mean, log-variance of a Gaussian over the latents z
    z -> post_quant -> conv_in -> mid -> up_{L-1} .. up_0 -> norm, swish, conv_out -> x

Level i works on maps of 1/2^i the height and width, so that L levels make latents
smaller by a factor of 2^(L-1) each way. With 32 groups and the widths of a published
model this is its network, parameter for parameter. Parameters, the posterior and
images are float32 whatever the compute `dtype`.

Sources:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
    section 3.1 and appendix G; the wiring is that of their code.
    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", for the posterior.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.errors import UserError
from ddpm_jax.networks.geometry import check_groups, check_halves
from ddpm_jax.networks.layers import (
    Attention,
    Conv3x3,
    GroupNorm,
    ResBlock,
    default_init,
)
from ddpm_jax.networks.ports import from_data

# Beyond these a variance, or its inverse, is near the ends of float32.
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0


def check_autoencoder(
    height: int,
    width: int,
    *,
    channels: int,
    channel_multipliers: Sequence[int],
    num_res_blocks: int,
    latent_channels: int,
    num_groups: int,
) -> None:
    """Refuse image sizes and channel counts that no autoencoder can be built for.

    Args:
        height: rows of the images, pixels.
        width: columns of the images, pixels.
        channels: channels of the first level.
        channel_multipliers: channels of each level, in units of `channels`.
        num_res_blocks: blocks per level.
        latent_channels: of the latents.
        num_groups: groups of every normalization.

    Raises:
        UserError: for the first rule that does not hold.
    """
    whole = all(isinstance(m, int) and m > 0 for m in channel_multipliers)
    if len(channel_multipliers) < 2 or not whole:
        raise UserError(
            f"channel_multipliers={tuple(channel_multipliers)}; give one whole number "
            "of 1 or more per level, and two levels or more: each but the last halves "
            "the map, such as (1, 2, 4) for latents of a quarter of the side."
        )
    for name, count in (
        ("channels", channels),
        ("num_res_blocks", num_res_blocks),
        ("latent_channels", latent_channels),
        ("num_groups", num_groups),
    ):
        if count < 1:
            raise UserError(f"{name}={count} is too small; use 1 or more.")
    check_groups(channels, channel_multipliers, num_groups)
    check_halves(height, width, len(channel_multipliers))


def check_image(shape: Sequence[int], what: str) -> None:
    """Refuse items that are no images (H, W, C).

    Args:
        shape: of an item.
        what: takes images, with its article, such as "a kl_autoencoder".

    Raises:
        UserError: they have another number of axes.
    """
    if len(shape) != 3:
        raise UserError(
            f"{what} takes images (height, width, channels), and these items are "
            f"{'x'.join(map(str, shape))}; use a network for vectors."
        )


def sample_posterior(
    key: jax.Array, mean: jax.Array, log_variance: jax.Array
) -> jax.Array:
    """Draw latents from N(mean, exp(log_variance)), both [B, h, w, c], elementwise."""
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.exp(0.5 * log_variance) * noise


class _Half(nn.Module):
    """What encoder and decoder have in common.

    Attributes:
        out_channels: of what comes out.
        widths: channels of each level, finest first.
        num_res_blocks: per level of the encoder; the decoder has one more.
        num_groups: of every normalization.
        epsilon: of every normalization.
        attention: whether the middle has attention.
        dtype: of the computation.
    """

    out_channels: int
    widths: tuple[int, ...]
    num_res_blocks: int
    num_groups: int
    epsilon: float
    attention: bool
    dtype: Any

    def _block(self, name, width, h):
        block = ResBlock(
            width,
            self.num_groups,
            dtype=self.dtype,
            epsilon=self.epsilon,
            name=name,
        )
        return block(h, None, False)  # no time, and no dropout

    def _middle(self, h):
        width = self.widths[-1]
        h = self._block("mid_block_0", width, h)
        if self.attention:
            h = Attention(
                1, self.num_groups, self.dtype, self.epsilon, name="mid_attention"
            )(h)
        return self._block("mid_block_1", width, h)

    def _out(self, h):
        norm = GroupNorm(self.num_groups, self.epsilon, self.dtype, name="norm_out")
        h = nn.swish(norm(h))
        h = Conv3x3(self.out_channels, dtype=self.dtype, name="conv_out")(h)
        return h.astype(jnp.float32)


class Encoder(_Half):
    """The first half: images to maps."""

    @nn.compact
    def __call__(self, x):
        """Map images [B, H, W, C] to [B, H / f, W / f, out_channels]."""
        h = Conv3x3(self.widths[0], dtype=self.dtype, name="conv_in")(x)
        for level, width in enumerate(self.widths):
            for i in range(self.num_res_blocks):
                h = self._block(f"down_{level}_block_{i}", width, h)
            if level < len(self.widths) - 1:
                h = Conv3x3(
                    width, stride=2, dtype=self.dtype, name=f"down_{level}_downsample"
                )(h)
        return self._out(self._middle(h))


class Decoder(_Half):
    """The second half: maps to images."""

    @nn.compact
    def __call__(self, z):
        """Map latents [B, h, w, c] to [B, f h, f w, out_channels]."""
        h = Conv3x3(self.widths[-1], dtype=self.dtype, name="conv_in")(z)
        h = self._middle(h)
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.num_res_blocks + 1):
                h = self._block(f"up_{level}_block_{i}", width, h)
            if level:
                h = Conv3x3(
                    width, upsample=True, dtype=self.dtype, name=f"up_{level}_upsample"
                )(h)
        return self._out(h)


class KLAutoencoder(nn.Module):
    """Images to a Gaussian over latents, and latents to images.

    Attributes:
        image_channels: C.
        latent_channels: c.
        channels: of the first level.
        channel_multipliers: one per level, finest first; L of them halve L - 1 times.
        num_res_blocks: per level of the encoder; the decoder has one more.
        num_groups: of every normalization.
        norm_epsilon: of every normalization.
        attention: whether the middle has attention, of one head.
        quant_convs: end the encoder, and begin the decoder, with a 1x1 convolution.
        dtype: of the computation between parameters and output.
    """

    image_channels: int = from_data(3)
    latent_channels: int = 4
    channels: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    attention: bool = True
    quant_convs: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images (H, W, C) and channel counts that it cannot be built for.

        Raises:
            UserError: for the first rule that does not hold.
        """
        height, width, _ = shape
        check_autoencoder(
            height,
            width,
            channels=self.channels,
            channel_multipliers=self.channel_multipliers,
            num_res_blocks=self.num_res_blocks,
            latent_channels=self.latent_channels,
            num_groups=self.num_groups,
        )

    def for_items(self, shape: tuple[int, ...]) -> "KLAutoencoder":
        """Return it for images (H, W, C).

        Raises:
            UserError: it cannot be built for items of this shape.
        """
        check_image(shape, "a kl_autoencoder")
        self.check(shape)
        return self.clone(image_channels=shape[-1])

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (h, w, c) of the latents of images (H, W, C)."""
        height, width, _ = shape
        return height // self.factor, width // self.factor, self.latent_channels

    @property
    def factor(self) -> int:
        """By how much latents are smaller than images, each way."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def setup(self):
        """Make the parts; Flax calls it."""
        options = {
            "widths": tuple(self.channels * m for m in self.channel_multipliers),
            "num_res_blocks": self.num_res_blocks,
            "num_groups": self.num_groups,
            "epsilon": self.norm_epsilon,
            "attention": self.attention,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(2 * self.latent_channels, **options)
        self.decoder = Decoder(self.image_channels, **options)
        if self.quant_convs:
            self.quant_conv = nn.Dense(
                2 * self.latent_channels, kernel_init=default_init
            )
            self.post_quant_conv = nn.Dense(
                self.latent_channels, kernel_init=default_init
            )

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map images to the posterior of their latents.

        Args:
            x: [B, H, W, C] in [-1, 1].

        Returns:
            Mean and log-variance, each float32 [B, H / f, W / f, c]; the log-variance
            is clipped to [-30, 20].
        """
        moments = self.encoder(x)
        if self.quant_convs:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def decode(self, z: jax.Array) -> jax.Array:
        """Map latents [B, h, w, c] to images, float32 [B, f h, f w, C], not clipped."""
        if self.quant_convs:
            z = self.post_quant_conv(z)
        return self.decoder(z)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Reconstruct images [B, H, W, C] from the means of their latents."""
        return self.decode(self.encode(x)[0])
