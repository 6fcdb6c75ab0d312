"""Image preprocessing for feature extractors: resizing and scaling.

    network(params, prepare(images, tensorflow))

A score depends on how its images were resized (Parmar et al. 2022), so each of the
three ways here computes what the program does that it is named after:

- `tensorflow`, the graph of 2015-12-05 itself, and so the FID of Heusel et al. 2017:
  bilinear between the two nearest pixels, pixel i of n_out lying at i * n_in / n_out,
  so that the image moves by up to half a pixel. Nothing is averaged when
  downsampling.
- `pytorch`, pytorch-fid: the same, with the centers of the pixels where they should be,
  at (i + 1/2) * n_in / n_out - 1/2.
- `clean`, clean-fid: Pillow's bicubic filter (a = -1/2) on floating point channels, as
  wide when downsampling as averaging needs. It overshoots at edges, and what lies
  outside 0..255 is neither clipped nor rounded.

All are linear and act on rows and columns apart: two matrices. They also differ in
scale. The graph and clean-fid give the network x / 128 - 1, which ends at 1 - 1/128;
pytorch-fid gives it x / 127.5 - 1, which is all of [-1, 1]. From one to the other every
image is brighter by up to 1/128, one grey level, and has 0.4 percent more contrast.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MatrixOf = Callable[[int, int], np.ndarray]
"""(pixels that there are, pixels wanted) -> weights, float64 [wanted, there]."""


class Preprocessing(NamedTuple):
    """Preprocessing of the images for a feature extractor.

    Attributes:
        matrix_of: how one side is resized.
        scale: 0..255 to what the network takes.
    """

    matrix_of: MatrixOf
    scale: Callable[[jax.Array], jax.Array]


def resize(images: jax.Array, size: tuple[int, int], matrix_of: MatrixOf) -> jax.Array:
    """Resize images of any size, up or down, grey ones as three equal channels.

    Args:
        images: uint8 or floating point, 0..255, [B, H, W, C], C = 1 or 3.
        size: (height, width) wanted.
        matrix_of: weights for each side.

    Returns:
        float32 [B, height, width, 3], on the same scale and not rounded.
    """
    _, height, width, channels = images.shape
    rows = jnp.asarray(matrix_of(height, size[0]), jnp.float32)
    columns = jnp.asarray(matrix_of(width, size[1]), jnp.float32)
    exact = jax.lax.Precision.HIGHEST  # a TPU's default would round to 8 bits
    x = images.astype(jnp.float32)
    x = jnp.einsum("wv,bhvc->bhwc", columns, x, precision=exact)
    x = jnp.einsum("hu,buwc->bhwc", rows, x, precision=exact)
    return jnp.repeat(x, 3 // channels, axis=-1)


def prepare(
    images: jax.Array, preprocessing: Preprocessing, size: tuple[int, int] = (299, 299)
) -> jax.Array:
    """Preprocess images for a feature extractor.

    Args:
        images: uint8 [B, H, W, C], C = 1 or 3.
        preprocessing: `tensorflow`, `pytorch` or `clean`.
        size: (height, width) of the network's images.

    Returns:
        float32 [B, height, width, 3].
    """
    return preprocessing.scale(resize(images, size, preprocessing.matrix_of))


# --- The matrices ---------------------------------------------------------------------


def _between(positions: np.ndarray, num_in: int) -> np.ndarray:
    """Weigh the pixels left and right of positions on 0..num_in - 1."""
    low = np.minimum(positions.astype(np.int64), num_in - 1)
    high = np.minimum(low + 1, num_in - 1)
    share = np.float64(positions) - low
    weights = np.zeros((len(positions), num_in))
    row = np.arange(len(positions))
    np.add.at(weights, (row, low), 1 - share)
    np.add.at(weights, (row, high), share)
    return weights


def bilinear_from_the_corner(num_in: int, num_out: int) -> np.ndarray:
    """Weigh pixels as TensorFlow's ResizeBilinear does, corners not aligned.

    Source: tensorflow/core/kernels/image_resizer_state.h, with neither of the options
        that came later (align_corners, half_pixel_centers).
    """
    # The positions are float32 there; with 1000 pixels that moves them by 1e-4.
    scale = np.float32(num_in / num_out)
    return _between(np.arange(num_out, dtype=np.float32) * scale, num_in)


def bilinear_from_centres(num_in: int, num_out: int) -> np.ndarray:
    """Weigh pixels as torch.nn.functional.interpolate does, without antialiasing."""
    # The step is float32 there, and the position is rounded once (multiply-add).
    scale = np.float64(np.float32(num_in / num_out))
    positions = np.float32((np.arange(num_out) + 0.5) * scale - 0.5)
    return _between(np.maximum(positions, 0), num_in)


def bicubic_of_pillow(num_in: int, num_out: int) -> np.ndarray:
    """Weigh pixels as Pillow's BICUBIC does: when downsampling, by a wider filter.

    Source: Keys 1981, eq. (4) with a = -1/2, for the filter; Pillow's Resample.c for
        where it is cut off: weights are of whole pixels and sum to one at the border.
    """
    scale = num_in / num_out
    wide = max(scale, 1.0)
    centres = (np.arange(num_out) + 0.5) * scale
    first = np.maximum(np.floor(centres - 2 * wide + 0.5), 0)
    last = np.minimum(np.floor(centres + 2 * wide + 0.5), num_in)  # excluded
    pixels = np.arange(num_in)
    away = np.abs(pixels + 0.5 - centres[:, None]) / wide
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0.0))
    weights *= (pixels >= first[:, None]) & (pixels < last[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


# --- The ways -------------------------------------------------------------------------


def to_graph(x: jax.Array) -> jax.Array:
    """Map [...] of 0..255 to -1..(1 - 1/128) as the graph does: (x - 128) / 128."""
    return (x - 128.0) / 128.0


def to_unit(x: jax.Array) -> jax.Array:
    """Map [...] of 0..255 to -1..1, as pytorch-fid does: 2 (x / 255) - 1."""
    return (x - 127.5) / 127.5


tensorflow = Preprocessing(bilinear_from_the_corner, to_graph)
pytorch = Preprocessing(bilinear_from_centres, to_unit)
clean = Preprocessing(bicubic_of_pillow, to_graph)
