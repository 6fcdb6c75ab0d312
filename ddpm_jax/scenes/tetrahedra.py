"""Marching tetrahedra: the surface of a signed distance on a grid, under `jit`.

A signed distance is negative inside and positive outside, as is usual (the code of
DMTet and of what was made from it has the opposite sign). Values lie at the corners of
N x N x N cubes that fill [-radius, radius]^3, as an array [N+1, N+1, N+1] whose axes
are x, y and z.

Each cube is cut along its main diagonal into 6 tetrahedra, one for each order of the
three axes: the path from corner (0, 0, 0) to (1, 1, 1) that takes a step along each
axis in that order has the four corners of one (Kuhn's triangulation). Neighbouring
cubes cut their common face alike, so that the pieces fit. Each edge goes from a grid
point p to p + d, where d is one of the 7 corners of the unit cube other than 0; so
7 (N+1)^3 slots hold all vertices that there can be, and a vertex stands where the
linear interpolation along its edge is 0:

    v = (p_a s_b - p_b s_a) / (s_b - s_a)

Which edges are crossed, and how they are joined, depends on signs alone and has no
gradient (`find_surface`). Where a vertex stands, and whatever else is interpolated
there, has one (`interpolate`), and is computed for the vertices in use and no others.

Sources:
    Doi, Koide 1991, "An Efficient Method of Triangulating Equi-Valued Surfaces by Using
        Tetrahedral Cells".
    Shen et al. 2021, "Deep Marching Tetrahedra: a Hybrid Representation for
        High-Resolution 3D Shape Synthesis" (DMTet), section 3.1.2.
    Lin et al. 2023, "Magic3D: High-Resolution Text-to-3D Content Creation".
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.scenes.mesh import Mesh

# Directions of edges, [7, 3]; the offset (x, y, z) has the number x + 2 y + 4 z - 1.
DIRECTIONS = np.array([[d & 1, d >> 1 & 1, d >> 2 & 1] for d in range(1, 8)])


class Topology(NamedTuple):
    """Which edges of the grid a surface crosses, and how the crossings are joined.

    Attributes:
        ends: int32 [V, 2], flat indices of the two grid points of each vertex's edge;
            those of padding are equal.
        triangles: int32 [K, 3], rows of `ends`; the padding is (0, 0, 0).
        num_vertices: int32 [], how many there are: more than V if there is no room.
        num_triangles: int32 [], likewise.
    """

    ends: jax.Array
    triangles: jax.Array
    num_vertices: jax.Array
    num_triangles: jax.Array


# --- The cases ------------------------------------------------------------------------


def _corner_paths() -> np.ndarray:
    """Return the corners of the 6 tetrahedra of the unit cube, [6, 4, 3]."""
    steps = np.eye(3, dtype=int)
    return np.array(
        [
            np.concatenate([np.zeros((1, 3), int), np.cumsum(steps[list(order)], 0)])
            for order in itertools.permutations(range(3))
        ]
    )


def _polygon(inside: list[int], outside: list[int]) -> list[tuple[int, int]]:
    """Return crossed edges as corners (inside, outside), in their order around.

    Two edges are neighbours if they share a corner, as then they share a face.
    """
    if len(inside) == 2:
        (i, j), (k, m) = inside, outside
        return [(i, k), (i, m), (j, m), (j, k)]
    return [(i, k) for i in inside for k in outside]


def _derive_cases() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Derive the triangles of the 6 x 16 cases from the geometry of the unit cube.

    Bit i of a case says that corner i is inside.

    Returns:
        counts: [16], triangles of a case: 0, 1 or 2.
        bases: [6, 16, 2, 3, 3], the offset from the cube's first corner to the grid
            point where a vertex's edge begins.
        directions: [6, 16, 2, 3], of that edge, as a row of `DIRECTIONS`.
    """
    counts = np.zeros(16, np.int32)
    bases = np.zeros((6, 16, 2, 3, 3), np.int32)
    directions = np.zeros((6, 16, 2, 3), np.int32)
    for t, corners in enumerate(_corner_paths()):
        for case in range(1, 15):
            inside = [i for i in range(4) if case >> i & 1]
            outside = [i for i in range(4) if not case >> i & 1]
            ring = _polygon(inside, outside)
            middles = np.array([(corners[i] + corners[k]) / 2 for i, k in ring])
            outward = corners[outside].mean(0) - corners[inside].mean(0)
            normal = np.cross(middles[1] - middles[0], middles[2] - middles[0])
            if normal @ outward < 0:
                ring.reverse()
            counts[case] = len(ring) - 2
            for n in range(len(ring) - 2):
                for c, edge in enumerate((ring[0], ring[n + 1], ring[n + 2])):
                    begin, end = corners[min(edge)], corners[max(edge)]
                    bases[t, case, n, c] = begin
                    directions[t, case, n, c] = (end - begin) @ [1, 2, 4] - 1
    return counts, bases, directions


_COUNTS, _BASES, _DIRECTIONS_OF = _derive_cases()
_PATHS = _corner_paths()


# --- From signs to triangles ----------------------------------------------------------


def grid_points(num_cells: int, radius: float = 1.0) -> jax.Array:
    """Return the corners of the cubes, [N+1, N+1, N+1, 3]; the axes are x, y and z.

    Args:
        num_cells: N, cubes along each axis.
        radius: half the side of the whole.
    """
    ticks = jnp.linspace(-radius, radius, num_cells + 1)
    return jnp.stack(jnp.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1)


def _num_points(sdf: jax.Array) -> int:
    n = sdf.shape[0]
    if sdf.shape != (n, n, n) or n < 2:
        raise UserError(
            f"a grid of shape {list(sdf.shape)} is no cube; give [N+1, N+1, N+1] values"
            " of a signed distance, with N of at least 1."
        )
    return n


def _shifted(values: jax.Array, offset: np.ndarray, size: int) -> jax.Array:
    """Return the values at p + offset of the `size`^3 first points p."""
    x, y, z = (int(o) for o in offset)
    return values[x : x + size, y : y + size, z : z + size]


def find_surface(sdf: jax.Array, max_triangles: int) -> Topology:
    """Find the triangles between inside (negative) and outside, without gradient.

    A value of 0 is outside. Where all values at the boundary of the grid are outside,
    the surface is closed; see `sealed`.

    Args:
        sdf: [N+1, N+1, N+1].
        max_triangles: K, the room for triangles; that for vertices is 5/8 of it. The
            smallest closed surface, around one grid point, has 24 triangles and 14
            vertices, larger ones have fewer vertices for each triangle, and 1/2 in the
            limit (Euler). `check_fits` refuses what has no room.
    """
    n = _num_points(sdf)
    cells = n - 1
    is_inside = jax.lax.stop_gradient(sdf) < 0

    crossed = jnp.stack(
        [
            jnp.pad(
                is_inside[: n - x, : n - y, : n - z] != is_inside[x:, y:, z:],
                ((0, x), (0, y), (0, z)),
            )
            for x, y, z in DIRECTIONS
        ]
    ).reshape(-1)
    vertex_of_slot = jnp.cumsum(crossed, dtype=jnp.int32) - 1
    num_vertices = vertex_of_slot[-1] + 1
    room = max(1, 5 * max_triangles // 8)
    (slots,) = jnp.nonzero(crossed, size=room, fill_value=0)
    slots = slots.astype(jnp.int32)
    strides = np.array([n * n, n, 1])
    direction, begin = slots // n**3, slots % n**3
    is_used = jnp.arange(room) < num_vertices
    end = begin + jnp.where(is_used, jnp.asarray(DIRECTIONS @ strides)[direction], 0)

    cases = jnp.stack(
        [
            sum(
                _shifted(is_inside, corner, cells).astype(jnp.int32) << i
                for i, corner in enumerate(path)
            )
            for path in _PATHS
        ]
    ).reshape(-1)  # [6 N^3]
    per_tetrahedron = jnp.asarray(_COUNTS)[cases]
    has_triangle = jnp.concatenate([per_tetrahedron > 0, per_tetrahedron > 1])
    num_triangles = jnp.sum(per_tetrahedron)
    (rows,) = jnp.nonzero(has_triangle, size=max_triangles, fill_value=0)
    rows = rows.astype(jnp.int32)
    which, tetrahedron = rows // (6 * cells**3), rows % (6 * cells**3)
    kind, cube = tetrahedron // cells**3, tetrahedron % cells**3
    x, y, z = cube // cells**2, cube // cells % cells, cube % cells
    entry = kind, cases[tetrahedron], which
    # Constants of small integers: where a vertex's edge begins, from the cube on.
    steps = jnp.asarray(_DIRECTIONS_OF * n**3 + _BASES @ strides, jnp.int32)[entry]
    triangles = vertex_of_slot[(x * n * n + y * n + z)[:, None] + steps]
    is_triangle = (jnp.arange(max_triangles) < num_triangles)[:, None]
    return Topology(
        ends=jnp.stack([begin, end], axis=-1),
        triangles=jnp.where(is_triangle, triangles, 0),
        num_vertices=num_vertices,
        num_triangles=num_triangles,
    )


def check_fits(surface: Topology | Mesh) -> None:
    """Refuse a surface that has more triangles than there was room for.

    Args:
        surface: computed, not traced; leaves [V, ...] and [K, 3].

    Raises:
        UserError: it has.
    """
    room, found = surface.triangles.shape[0], int(surface.num_triangles)
    if found > room:
        raise UserError(
            f"the surface has {found:,} triangles and there is room for {room:,};"
            " give a larger max_triangles, or a coarser grid."
        )
    places = surface[0].shape[0]
    if (vertices := int(surface.num_vertices)) > places:
        raise UserError(
            f"the surface has {vertices:,} vertices and there is room for {places:,};"
            " give a larger max_triangles, or close it at the sides of the grid."
        )


# --- From triangles to vertices, with gradient ----------------------------------------


def interpolate(topology: Topology, sdf: jax.Array, values: jax.Array) -> jax.Array:
    """Interpolate values at grid points to the vertices of a surface.

    Linear along each vertex's edge, at the place where the signed distance is 0: with
    positions as values it gives the vertices, with colors their colors.

    Args:
        topology: of `sdf`.
        sdf: [N+1, N+1, N+1].
        values: [N+1, N+1, N+1, D].

    Returns:
        [V, D], with the gradient of `sdf` and `values`; padding has the value at a
        grid point.
    """
    s = sdf.reshape(-1)[topology.ends]
    at_ends = values.reshape(-1, values.shape[-1])[topology.ends]
    difference = s[:, 1] - s[:, 0]
    # Padding has a difference of 0; below the other ones, gradients would overflow.
    is_crossed = jnp.abs(difference) > jnp.sqrt(jnp.finfo(s.dtype).tiny)
    share = jnp.where(is_crossed, -s[:, 0] / jnp.where(is_crossed, difference, 1.0), 0)
    return at_ends[:, 0] + share[:, None] * (at_ends[:, 1] - at_ends[:, 0])


def moved_points(offsets: jax.Array, radius: float = 1.0) -> jax.Array:
    """Return grid points, each moved along each axis by at most half a cell.

    tanh(offset) half cells: DMTet's limit. The tetrahedra keep their neighbours
    whatever the offsets are, so that a closed surface stays closed; those of large
    opposite offsets can turn inside out, and the surface then cuts itself.

    Args:
        offsets: [N+1, N+1, N+1, 3], of any size.
        radius: half the side of the grid.
    """
    num_cells = offsets.shape[0] - 1
    half_cell = radius / num_cells
    points = grid_points(num_cells, radius).astype(offsets.dtype)
    return points + half_cell * jnp.tanh(offsets)


def values_at(values: jax.Array, points: jax.Array, radius: float = 1.0) -> jax.Array:
    """Interpolate values of the grid linearly in its tetrahedra.

    Of a signed distance on a regular grid, the surface that is extracted is where this
    is 0. Not as smooth as trilinear interpolation, and half as many values.

    Args:
        values: [N+1, N+1, N+1].
        points: [..., 3]; one outside of the grid has the value at its nearest side.
        radius: half the side of the grid.

    Returns:
        [...].
    """
    n = _num_points(values)
    place = (jnp.clip(points / radius, -1.0, 1.0) + 1.0) * (0.5 * (n - 1))
    cell = jnp.clip(jnp.floor(place), 0, n - 2)
    share = place - cell
    x, y, z = share[..., 0], share[..., 1], share[..., 2]
    # The path to the opposite corner takes the axes by descending share.
    first = jnp.stack([(x >= y) & (x >= z), (y > x) & (y >= z), (z > x) & (z > y)], -1)
    last = jnp.stack([(y > x) & (z > x), (x >= y) & (z > y), (x >= z) & (y >= z)], -1)
    most, least = jnp.max(share, axis=-1), jnp.min(share, axis=-1)
    between = x + y + z - most - least
    strides = jnp.asarray([n * n, n, 1], jnp.int32)
    start = jnp.sum(cell.astype(jnp.int32) * strides, axis=-1)
    whole = strides.sum()
    places = [start, start + first @ strides, start + whole - last @ strides]
    corners = [values.reshape(-1)[place] for place in (*places, start + whole)]
    rises = [corners[i + 1] - corners[i] for i in range(3)]
    return corners[0] + most * rises[0] + between * rises[1] + least * rises[2]


def sealed(sdf: jax.Array, radius: float = 1.0) -> jax.Array:
    """Return a signed distance that is outside at all sides of the grid.

    Its surface is closed. Values at the sides are raised to half a cell at least, and
    have no gradient where they were.

    Args:
        sdf: [N+1, N+1, N+1].
        radius: half the side of the grid.
    """
    n = _num_points(sdf)
    is_within = np.pad(np.ones((n - 2,) * 3, bool), 1)
    return jnp.where(is_within, sdf, jnp.maximum(sdf, radius / (n - 1)))


def extract(
    sdf: jax.Array,
    offsets: jax.Array | None = None,
    *,
    radius: float = 1.0,
    max_triangles: int,
) -> tuple[Mesh, Topology]:
    """Extract the surface of a signed distance as a mesh, with gradient.

    Args:
        sdf: [N+1, N+1, N+1], negative inside.
        offsets: [N+1, N+1, N+1, 3] of `moved_points`; None for a regular grid.
        radius: half the side of the grid.
        max_triangles: K, the room for triangles; see `find_surface`.

    Returns:
        The mesh, and the topology by which other values are interpolated to its
        vertices.

    Raises:
        UserError: the grid is not a cube.
    """
    num_cells = _num_points(sdf) - 1
    if offsets is None:
        points = grid_points(num_cells, radius).astype(sdf.dtype)
    else:
        points = moved_points(offsets, radius)
    topology = find_surface(sdf, max_triangles)
    vertices = interpolate(topology, sdf, points)
    counts = topology.num_vertices, topology.num_triangles
    return Mesh(vertices, topology.triangles, *counts), topology
