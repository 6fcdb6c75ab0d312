"""PatchGAN discriminator: a logit for each of overlapping patches of an image.

    conv 4x4, stride 2 -> (conv 4x4, stride 2, norm) x (n - 1) -> conv 4x4, norm
      -> conv 4x4 -> a map of logits, real above zero

Each logit sees a patch: 34 pixels wide for n = 2, 70 for n = 3.

The normalization is by groups of channels where the sources have batch normalization.
Logits of an image then do not depend on what else is in its batch, the network is a
pure function of parameters and images, and there are no running statistics to carry
from step to step or to share between devices.

Sources:
    Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial
    Networks", section 3.2.2 and appendix 6.1.2.
    Rombach et al. 2022, appendix G: it trains their autoencoders.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import GroupNorm

_MOST = 8  # multiples of the first width
_SLOPE = 0.2  # of the leaky rectifiers, below zero

_init = nn.initializers.normal(0.02)


def check_discriminator(
    height: int, width: int, *, channels: int, num_layers: int, num_groups: int
) -> None:
    """Refuse sizes and widths that the discriminator cannot be built for.

    Args:
        height: rows of the images, pixels.
        width: columns of the images, pixels.
        channels: of its first layer.
        num_layers: how often it halves.
        num_groups: of every normalization.

    Raises:
        UserError: for the first rule that does not hold.
    """
    for name, count in (
        ("channels", channels),
        ("num_layers", num_layers),
        ("num_groups", num_groups),
    ):
        if count < 1:
            raise UserError(f"{name}={count} of the discriminator; use 1 or more.")
    if channels % num_groups:
        raise UserError(
            f"num_groups={num_groups} does not divide the {channels} channels of the "
            "discriminator; choose a divisor."
        )
    if min(height, width) >> num_layers < 3:
        raise UserError(
            f"images of {height}x{width} are too small for a discriminator that halves "
            f"{num_layers} times; 3 pixels have to be left, so use fewer layers."
        )


class PatchDiscriminator(nn.Module):
    """A convolutional network from images to a map of logits, one for each patch.

    Attributes:
        channels: of the first layer; they double with each, up to 8 times.
        num_layers: n, how often the map is halved.
        num_groups: of every normalization.
        dtype: of the computation between parameters and logits.
    """

    channels: int = 64
    num_layers: int = 2
    num_groups: int = 32
    dtype: Literal["float32", "bfloat16"] = "float32"

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images (H, W, C) and widths that it cannot be built for.

        Raises:
            UserError: for the first rule that does not hold.
        """
        height, width, _ = shape
        check_discriminator(
            height,
            width,
            channels=self.channels,
            num_layers=self.num_layers,
            num_groups=self.num_groups,
        )

    @nn.compact
    def __call__(self, x):
        """Map images [B, H, W, C] in [-1, 1] to float32 logits [B, h, w, 1]."""
        h = nn.leaky_relu(self._conv("conv_0", self.channels, 2, x), _SLOPE)
        for i in range(1, self.num_layers + 1):
            width = self.channels * min(2**i, _MOST)
            h = self._conv(f"conv_{i}", width, 2 if i < self.num_layers else 1, h)
            norm = GroupNorm(self.num_groups, dtype=self.dtype, name=f"norm_{i}")
            h = nn.leaky_relu(norm(h), _SLOPE)
        return self._conv("logits", 1, 1, h).astype(jnp.float32)

    def _conv(self, name, width, stride, h):
        return nn.Conv(
            width,
            (4, 4),
            strides=stride,
            padding=1,
            kernel_init=_init,
            dtype=self.dtype,
            name=name,
        )(h)
