"""A small classifier whose last hidden layer serves as features of images.

    conv_in -> level_0 .. level_{L-1} -> mean over space -> features -> swish -> logits

Each level is residual blocks at one size; the next has half the height and width. The
features are taken before the nonlinearity: a swish would fold what is negative against
zero, and a Frechet distance takes features for Gaussian. Group normalization, as in the
U-Net, so that an image's features do not depend on what else is in its batch.

Asked with `mutable="intermediates"`, it also gives the map of each level, by which a
perceptual distance compares images.

Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", the order of
    normalization, nonlinearity and convolution.
"""

import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import Conv3x3, GroupNorm, default_init, zero_init
from ddpm_jax.networks.ports import from_data


class Classifier(nn.Module):
    """A residual network from images to features and class logits.

    Attributes:
        num_classes: K; 0 for features alone.
        num_features: D.
        channels: of the first level.
        channel_multipliers: one per level, finest first.
        num_res_blocks: per level.
        num_groups: groups of every normalization; divides the channels of each level.
    """

    num_classes: int = from_data(0)
    num_features: int = 128
    channels: int = 16
    channel_multipliers: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 1
    num_groups: int = 8

    def check(self) -> None:
        """Refuse widths that it cannot be built for.

        Raises:
            UserError: for the first rule that does not hold.
        """
        for name in ("num_features", "channels", "num_res_blocks", "num_groups"):
            limits.at_least(self, 1, name)
        for multiplier in self.channel_multipliers or (0,):
            width = self.channels * multiplier
            if width < 1 or width % self.num_groups:
                raise UserError(
                    f"num_groups={self.num_groups} does not divide the {width} "
                    "channels of a level; change channels or num_groups."
                )

    @nn.compact
    def __call__(self, x):
        """Map images [B, H, W, C] in [-1, 1] to ([B, D], [B, K] or None), float32."""
        h = Conv3x3(self.channels, name="conv_in")(x)
        for level, multiplier in enumerate(self.channel_multipliers):
            width = self.channels * multiplier
            if level:
                h = Conv3x3(width, stride=2, name=f"level_{level}_downsample")(_even(h))
            for i in range(self.num_res_blocks):
                h = self._block(f"level_{level}_block_{i}", width, h)
            self.sow("intermediates", f"level_{level}", h)
        h = nn.swish(GroupNorm(self.num_groups, name="norm_out")(h)).mean((1, 2))
        features = nn.Dense(
            self.num_features, kernel_init=default_init, name="features"
        )(h)
        if not self.num_classes:
            return features, None
        logits = nn.Dense(self.num_classes, kernel_init=zero_init, name="logits")(
            nn.swish(features)
        )
        return features, logits

    def _block(self, name, width, x):
        h = nn.swish(GroupNorm(self.num_groups, name=f"{name}_norm_0")(x))
        h = Conv3x3(width, name=f"{name}_conv_0")(h)
        h = nn.swish(GroupNorm(self.num_groups, name=f"{name}_norm_1")(h))
        return x + Conv3x3(width, kernel_init=zero_init, name=f"{name}_conv_1")(h)


def _even(h):
    """Pad an odd height or width with a row or column of zeros, to be halved."""
    _, height, width, _ = h.shape
    return jnp.pad(h, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
