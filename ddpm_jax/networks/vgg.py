"""The convolutions of VGG-16, whose maps LPIPS compares.

Thirteen convolutions of 3x3 in five levels; the map of a level is what its last
convolution gives, after the ReLU, and the next level begins with the largest of 2x2.

Sources:
    Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", table 1, D.
    Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric", appendix A, for the maps; and their code for how images are brought to the
    range that the network was trained with.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of each convolution, by level."""

LEAST_SIDE = 2 ** (len(WIDTHS) - 1)  # pixels, of which the last map has one

# Of red, green and blue in [-1, 1]: mean and deviation of the images of ImageNet.
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)


class Vgg16(nn.Module):
    """From images to the maps of five levels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Look at images [B, H, W, 1 or 3] in [-1, 1], of 16 pixels a side or more.

        Returns:
            Maps [B, h, w, c] of 64, 128, 256, 512 and 512 channels, finest first, each
            of half the side of the one before, rounded down.
        """
        colours = jnp.broadcast_to(x, (*x.shape[:-1], 3))  # grey: three alike
        h = (colours - jnp.array(_MEAN)) / jnp.array(_DEVIATION)
        maps = []
        for level, widths in enumerate(WIDTHS):
            if level:
                h = nn.max_pool(h, (2, 2), (2, 2))
            for i, width in enumerate(widths):
                h = nn.relu(nn.Conv(width, (3, 3), name=f"level_{level}_conv_{i}")(h))
            maps.append(h)
        return maps
