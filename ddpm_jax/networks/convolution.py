"""3x3 convolutions, by the algorithm that is fastest on the current device.

On GPUs and TPUs XLA's own convolution is used. On a CPU it reaches about half of what
the cores can do, and a third in the gradient by the kernel (docs/performance.md has the
figures). There a convolution of a large enough map is computed by Winograd's minimal
algorithm F(2x2, 3x3): every 2x2 tile y of the output comes from a 4x4 tile d of the
input as

    y = A^T [ (G g G^T) * (B^T d B) ] A                                            (1)

with g the 3x3 kernel and * the product element by element. Summed over channels, each
of the 16 elements is one large matrix product, and 16 multiplications do the work of
36. In one dimension, for input d_0..d_3 and taps g_0, g_1, g_2:

    B^T d = (d_0 - d_2, d_1 + d_2, d_2 - d_1, d_1 - d_3)                           (2)
    G g   = (g_0, (g_0 + g_1 + g_2) / 2, (g_0 - g_1 + g_2) / 2, g_2)               (3)
    A^T m = (m_0 + m_1 + m_2, m_1 - m_2 - m_3)                                     (4)

Where the input was enlarged by repeating pixels, d = (x_{a-1}, x_a, x_a, x_{a+1}): the
third element of (2) is zero and the second 2 x_a. Then 9 products do:

    B^T d = (x_{a-1} - x_a, x_a, x_a - x_{a+1})                                    (5)
    G g   = (g_0, g_0 + g_1 + g_2, g_2)                                            (6)
    A^T m = (m_0 + m_1, m_1 - m_2)                                                 (7)

All of it is sums and products of arrays, so every derivative is JAX's own. In float32
the result differs from a sum of nine terms by about one part in a million, as two
orders of that sum do.

Sources:
    Winograd 1980, "Arithmetic Complexity of Computations".
    Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Below these, moving tiles costs more than multiplying less saves.
_MIN_SIDE = 8  # pixels of the output map
_MIN_CHANNELS = 64  # of input and output

Grid = list[list[jax.Array]]
"""Rows of arrays, one for each element of a tile or of a kernel."""


def conv3x3(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve with a 3x3 kernel; keep the size, or halve an even size with stride 2.

    Stride 1 pads one zero on every side. Stride 2 pads none before and one after, as
    TensorFlow's "SAME" does, which is what the published checkpoints were trained with.

    Args:
        x: maps, [B, H, W, C].
        kernel: [3, 3, C, D], of the same dtype.
        stride: 1 or 2.

    Returns:
        [B, H / stride, W / stride, D].
    """
    if stride == 1 and _pays(x.shape[1:3], kernel):
        return jax.lax.platform_dependent(x, kernel, cpu=_by_tiles, default=_direct)
    return _direct(x, kernel, stride)


def conv3x3_of_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Double height and width by repeating pixels, then convolve with a 3x3 kernel.

    Args:
        x: maps, [B, H, W, C].
        kernel: [3, 3, C, D], of the same dtype.

    Returns:
        [B, 2H, 2W, D].
    """
    if _pays([2 * side for side in x.shape[1:3]], kernel):
        return jax.lax.platform_dependent(
            x, kernel, cpu=_by_tiles_of_upsampled, default=_upsampled_direct
        )
    return _upsampled_direct(x, kernel)


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Double height and width by repeating pixels: [B, H, W, C] -> [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(
        x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
    )
    return x.reshape(batch, 2 * height, 2 * width, channels)


def _pays(size, kernel: jax.Array) -> bool:
    """Say whether tiles are faster on a CPU, for an output map of this size."""
    return (
        kernel.dtype == jnp.float32
        and min(size) >= _MIN_SIDE
        and all(side % 2 == 0 for side in size)
        and min(kernel.shape[2:]) >= _MIN_CHANNELS
    )


# --- XLA's convolution ----------------------------------------------------------------


def _direct(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((2 - stride, 1), (2 - stride, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _upsampled_direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _direct(upsample_nearest(x), kernel)


# --- Winograd's algorithm -------------------------------------------------------------


@jax.checkpoint
def _by_tiles(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [B, H, W, C], H and W even, by equations (1) to (4)."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2  # of tiles
    # Pixel 2a + i of the padded map is element i of tile a.
    planes = _split_pixels(_pad(x))
    d = [
        [
            planes[i % 2][j % 2][:, i // 2 : i // 2 + rows, j // 2 : j // 2 + columns]
            for j in range(4)
        ]
        for i in range(4)
    ]
    m = _multiply(_both_ways(_input, d), _both_ways(_taps, _elements(kernel)))
    return _join_pixels(_both_ways(_output, m))


@jax.checkpoint
def _by_tiles_of_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Repeat the pixels of [B, H, W, C] and convolve: equations (1), (5) to (7)."""
    rows, columns = x.shape[1:3]
    padded = jax.lax.optimization_barrier(_pad(x))
    d = [[padded[:, i : i + rows, j : j + columns] for j in range(3)] for i in range(3)]
    v = _both_ways(lambda d: (d[0] - d[1], d[1], d[1] - d[2]), d)
    u = _both_ways(lambda g: (g[0], g[0] + g[1] + g[2], g[2]), _elements(kernel))
    m = _multiply(v, u)
    return _join_pixels(_both_ways(lambda m: (m[0] + m[1], m[1] - m[2]), m))


def _input(d):
    """Apply B^T, equation (2)."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _taps(g):
    """Apply G, equation (3)."""
    ends, middle = 0.5 * (g[0] + g[2]), 0.5 * g[1]
    return g[0], ends + middle, ends - middle, g[2]


def _output(m):
    """Apply A^T, equation (4)."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _both_ways(transform: Callable, grid: Grid) -> Grid:
    """Apply a transform to every column, then to every row: T grid T^T."""
    columns = [transform(column) for column in zip(*grid, strict=True)]
    return [list(transform(row)) for row in zip(*columns, strict=True)]


def _multiply(v: Grid, u: Grid) -> Grid:
    """Multiply element by element, each a product over channels: [..., C] @ [C, D].

    Separate products, not one with a batch of 16: each then reads what it needs from
    the map itself, and no array of all tiles is written first. Plain matrices: XLA
    transposes those well, and maps element by element (30 times slower).
    """
    shape = v[0][0].shape
    v = [[a.reshape(-1, shape[-1]) for a in row] for row in v]
    v, u = jax.lax.optimization_barrier((v, u))
    return [
        [(a @ b).reshape(*shape[:-1], -1) for a, b in zip(row_v, row_u, strict=True)]
        for row_v, row_u in zip(v, u, strict=True)
    ]


# --- Taking maps apart and putting them together --------------------------------------
#
# The barriers keep XLA from computing what stands before a tile once for every element
# of the tile, and what stands after a map once for each of its users.


def _pad(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _elements(kernel: jax.Array) -> Grid:
    """Split [3, 3, C, D] into nine [C, D]."""
    elements = [jnp.unstack(row) for row in jnp.unstack(kernel)]
    return jax.lax.optimization_barrier(elements)


def _split_pixels(x: jax.Array) -> Grid:
    """Split [B, 2H, 2W, C] by even and odd rows and columns: four [B, H, W, C]."""
    batch, height, width, channels = x.shape
    pairs = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    planes = [jnp.unstack(row, axis=3) for row in jnp.unstack(pairs, axis=2)]
    return jax.lax.optimization_barrier(planes)


def _join_pixels(planes: Grid) -> jax.Array:
    """Undo `_split_pixels`."""
    batch, rows, columns, features = planes[0][0].shape
    joined = jnp.stack([jnp.stack(row, axis=3) for row in planes], axis=2)
    return jax.lax.optimization_barrier(
        joined.reshape(batch, 2 * rows, 2 * columns, features)
    )
