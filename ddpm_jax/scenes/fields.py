"""Fields: a density and a color at every point of the ball of radius 1.

| kind    | what it is                                  | parameters at the defaults |
| ------- | ------------------------------------------- | -------------------------- |
| voxels  | values at the nodes of a grid, trilinear    | 55,296                     |
| fourier | a perceptron on Fourier features            | 6,596                      |
| hash    | a multiresolution hash grid, a perceptron   | 93,754                     |

A field is a frozen spec with two pure functions: `init(key)` makes parameters, nested
dictionaries of float32 as checkpoints give them back, and `apply(params, points)` gives
density [...] and color [..., 3] in [0, 1]. All end alike, with s = softplus and |p| the
distance from the origin:

    density = s(raw_0 + blob_density (1 - |p| / blob_radius)),  color = sigmoid(raw_1:4)

so that a new field is a blob around the origin. Without that there is nothing that an
image could make more or less of, and optimization starts from an empty scene or a fog.

Sources:
    Lin et al. 2023, "Magic3D: High-Resolution Text-to-3D Content Creation", and its
        density in threestudio ("blob_magic3d"), for the blob.
    Sun et al. 2022, "Direct Voxel Grid Optimization", section 4, for interpolating
        before the activation: a surface can then lie between nodes.
    Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in
        Low Dimensional Domains"; Mildenhall et al. 2020, eq. (4), for their scales.
    Mueller et al. 2022, "Instant Neural Graphics Primitives with a Multiresolution Hash
        Encoding".
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import limits
from ddpm_jax.errors import UserError

_CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))  # [8, 3]
_CHANNELS = 4  # one of density, three of color


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """A density and a color in space.

    Attributes:
        blob_density: raw density that is added at the origin of the start; 0 for none.
        blob_radius: where that is 0; beyond, it is negative.
    """

    blob_density: float = 10.0
    blob_radius: float = 0.5

    def __post_init__(self) -> None:
        limits.between(self, "blob_density", 0, 10_000)
        limits.positive(self, "blob_radius", such_as="0.5 is half of the scene's")

    def init(self, key: jax.Array) -> Any:
        """Make parameters, nested dictionaries of float32.

        Args:
            key: [], of what is random in them.
        """
        raise NotImplementedError

    def raw(self, params: Any, points: jax.Array) -> jax.Array:
        """Return density and color before their activations, [..., 4].

        Args:
            params: from `init`.
            points: [..., 3], in [-1, 1].
        """
        raise NotImplementedError

    def apply(self, params: Any, points: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return density, per unit of length, [...] and color [..., 3] in [0, 1].

        Args:
            params: from `init`.
            points: [..., 3], in [-1, 1].
        """
        raw = self.raw(params, points)
        square = jnp.sum(points**2, axis=-1)
        # The distance has no slope at the origin, where 0 / 0 would make a NaN of it.
        here = square > 0
        distance = jnp.where(here, jnp.sqrt(jnp.where(here, square, 1.0)), 0.0)
        blob = self.blob_density * (1.0 - distance / self.blob_radius)
        return jax.nn.softplus(raw[..., 0] + blob), jax.nn.sigmoid(raw[..., 1:])


# --- Grids ----------------------------------------------------------------------------


def trilinear(points: jax.Array, num_nodes: int) -> tuple[jax.Array, jax.Array]:
    """Find the nodes around points, and their weights, in a grid over [-1, 1]^3.

    The first node of each axis is at -1 and the last at 1. A point outside has the
    value of the nearest one of the cube.

    Args:
        points: [..., 3].
        num_nodes: along each axis, at least 2.

    Returns:
        Nodes int32 [..., 8, 3], and weights [..., 8], which sum to 1.
    """
    place = 0.5 * (jnp.clip(points, -1.0, 1.0) + 1.0) * (num_nodes - 1)
    # The last node belongs to the cell before it.
    cell = jnp.clip(jnp.floor(jax.lax.stop_gradient(place)), 0, num_nodes - 2)
    share = (place - cell)[..., None, :]
    weights = jnp.prod(jnp.where(_CORNERS == 1, share, 1.0 - share), axis=-1)
    return cell.astype(jnp.int32)[..., None, :] + _CORNERS, weights


@dataclasses.dataclass(frozen=True)
class VoxelGrid(FieldSpec):
    """Density and color at the nodes of a grid, and trilinear in between.

    Attributes:
        resolution: nodes along each axis.
    """

    resolution: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "resolution", 2, 512)

    def init(self, key: jax.Array) -> Any:
        """Make the values at the nodes, small and random: {"grid": [R, R, R, 4]}.

        Args:
            key: of the values.
        """
        shape = (self.resolution,) * 3 + (_CHANNELS,)
        return {"grid": 0.01 * jax.random.normal(key, shape, jnp.float32)}

    def raw(self, params: Any, points: jax.Array) -> jax.Array:
        """Return density and color before their activations, [..., 4].

        Args:
            params: from `init`.
            points: [..., 3].
        """
        nodes, weights = trilinear(points, self.resolution)
        x, y, z = jnp.moveaxis(nodes, -1, 0)
        return jnp.sum(weights[..., None] * params["grid"][x, y, z], axis=-2)


# --- Perceptrons ----------------------------------------------------------------------

_Layers = dict[str, dict[str, jax.Array]]


def _init_layers(key: jax.Array, widths: Sequence[int]) -> _Layers:
    """Make dense layers as He et al. 2015 do, with biases of 0."""
    keys, sizes = jax.random.split(key, len(widths) - 1), itertools.pairwise(widths)
    return {
        f"layer_{index}": {
            "kernel": jax.random.normal(k, (i, o), jnp.float32) * math.sqrt(2.0 / i),
            "bias": jnp.zeros((o,), jnp.float32),
        }
        for index, (k, (i, o)) in enumerate(zip(keys, sizes, strict=True))
    }


def _apply_layers(layers: _Layers, x: jax.Array) -> jax.Array:
    """Apply dense layers; what is between them is smooth, since normals have slopes."""
    *hidden, last = (layers[f"layer_{index}"] for index in range(len(layers)))
    for layer in hidden:
        x = jax.nn.silu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


@dataclasses.dataclass(frozen=True)
class FourierField(FieldSpec):
    """A perceptron on Fourier features of the point.

    Attributes:
        num_frequencies: K; the features are sines and cosines of pi 2^k p, k < K.
        width: of the hidden layers.
        depth: hidden layers.
    """

    num_frequencies: int = 5
    width: int = 64
    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "num_frequencies", 0, 16)
        limits.between(self, "width", 1, 4096)
        limits.between(self, "depth", 1, 64)

    def init(self, key: jax.Array) -> Any:
        """Make the layers, {"layer_0": {"kernel": [I, O], "bias": [O]}, ...}.

        Args:
            key: of the kernels.
        """
        features = 3 + 6 * self.num_frequencies
        return _init_layers(key, (features, *[self.width] * self.depth, _CHANNELS))

    def raw(self, params: Any, points: jax.Array) -> jax.Array:
        """Return density and color before their activations, [..., 4].

        Args:
            params: from `init`.
            points: [..., 3].
        """
        scales = math.pi * 2.0 ** np.arange(self.num_frequencies)
        angles = points[..., None] * scales.astype(points.dtype)
        angles = angles.reshape(*points.shape[:-1], -1)
        features = [points, jnp.sin(angles), jnp.cos(angles)]
        return _apply_layers(params, jnp.concatenate(features, axis=-1))


# --- The hash grid --------------------------------------------------------------------

_PRIMES = np.array([1, 2_654_435_761, 805_459_861], np.uint32)


def hash_index(nodes: jax.Array, num_nodes: int, table_size: int) -> jax.Array:
    """Find the rows of nodes of a grid in a table.

    A grid that fits into the table has a row for each node. Of a finer one it is the
    hash (x ^ 2654435761 y ^ 805459861 z) mod table_size, in unsigned 32 bits, by which
    nodes share rows: [Mueller et al. 2022], section 3, eq. (4).

    Args:
        nodes: integers [..., 3], 0 to num_nodes - 1.
        num_nodes: along each axis.
        table_size: rows.

    Returns:
        int32 [...].
    """
    if num_nodes**3 <= table_size:
        x, y, z = jnp.moveaxis(nodes, -1, 0)
        return (x * num_nodes + y) * num_nodes + z
    x, y, z = jnp.moveaxis(nodes.astype(jnp.uint32) * _PRIMES, -1, 0)
    return ((x ^ y ^ z) % np.uint32(table_size)).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class HashGrid(FieldSpec):
    """A multiresolution hash grid and a perceptron with one hidden layer.

    Each level is a grid over [-1, 1]^3 with features at its nodes, trilinear in
    between; the resolutions grow by the same factor from coarse to fine.

    Attributes:
        num_levels: grids.
        coarsest: cells along an axis of the first.
        finest: cells along an axis of the last.
        table_size: rows of features of each level, at most; 2^13 is small.
        num_features: of a row.
        width: of the hidden layer.
    """

    num_levels: int = 8
    coarsest: int = 8
    finest: int = 64
    table_size: int = 8192
    num_features: int = 2
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "num_levels", 1, 32)
        limits.between(self, "coarsest", 1, 512)
        limits.between(self, "finest", 1, 8192)
        limits.between(self, "table_size", 8, 2**24)
        limits.between(self, "num_features", 1, 64)
        limits.between(self, "width", 1, 4096)
        if self.finest < self.coarsest:
            raise UserError(
                f"finest={self.finest} is coarser than coarsest={self.coarsest}; swap "
                "them."
            )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Cells along an axis of each level.

        Source: Mueller et al. 2022, eq. (2) and (3).
        """
        if self.num_levels == 1:
            return (self.coarsest,)
        growth = math.log(self.finest / self.coarsest) / (self.num_levels - 1)
        # What is a whole number but for rounding is not to fall below it.
        return tuple(
            math.floor(self.coarsest * math.exp(growth * level) + 1e-9)
            for level in range(self.num_levels)
        )

    def init(self, key: jax.Array) -> Any:
        """Make the tables, even in +-1e-4, and the layers.

        Args:
            key: of both.

        Returns:
            {"tables": {"level_0": [rows, features], ...}, "layers": {"layer_0", ...}}.

        Source: Mueller et al. 2022, section 4.
        """
        of_layers, *keys = jax.random.split(key, self.num_levels + 1)
        tables = {
            f"level_{level}": jax.random.uniform(
                key,
                (min((cells + 1) ** 3, self.table_size), self.num_features),
                jnp.float32,
                -1e-4,
                1e-4,
            )
            for level, (key, cells) in enumerate(
                zip(keys, self.resolutions, strict=True)
            )
        }
        widths = (self.num_levels * self.num_features, self.width, _CHANNELS)
        return {"tables": tables, "layers": _init_layers(of_layers, widths)}

    def encode(self, params: Any, points: jax.Array) -> jax.Array:
        """Return the features of all levels, [..., levels * features].

        Args:
            params: from `init`.
            points: [..., 3].
        """
        found = []
        for level, cells in enumerate(self.resolutions):
            nodes, weights = trilinear(points, cells + 1)
            table = params["tables"][f"level_{level}"]
            rows = table[hash_index(nodes, cells + 1, self.table_size)]
            found.append(jnp.sum(weights[..., None] * rows, axis=-2))
        return jnp.concatenate(found, axis=-1)

    def raw(self, params: Any, points: jax.Array) -> jax.Array:
        """Return density and color before their activations, [..., 4].

        Args:
            params: from `init`.
            points: [..., 3].
        """
        return _apply_layers(params["layers"], self.encode(params, points))
