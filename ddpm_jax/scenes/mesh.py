"""Triangle meshes of fixed array sizes: area, volume, normals, edges, smoothness.

A mesh that is extracted under `jit` has as many rows as there is room for. Rows past
the counts are padding: their triangles join vertex 0 to itself, have no area and no
edges, and so add nothing to any sum here.

Triangles wind so that their corners run counterclockwise as seen from outside, and
(v1 - v0) x (v2 - v0) points outward.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.scenes.shading import unit

_TINY = 1e-20  # of squared lengths: the normal of a triangle without area is 0, not NaN


class Mesh(NamedTuple):
    """Vertices joined by triangles, with padding.

    Attributes:
        vertices: [V, 3].
        triangles: int32 [K, 3], rows of `vertices`; the padding is (0, 0, 0).
        num_vertices: int32 [], how many vertices the surface has: more than V if there
            was no room for them.
        num_triangles: int32 [], likewise.
    """

    vertices: jax.Array
    triangles: jax.Array
    num_vertices: jax.Array
    num_triangles: jax.Array


class Edges(NamedTuple):
    """The undirected edges of a mesh and the triangles beside them, [E] with E = 3 K.

    Attributes:
        ends: int32 [E, 2], vertices, the lower one first.
        faces: int32 [E, 2], the triangles beside the edge; the second is -1 where there
            is one only.
        opposite: int32 [E, 2], of each of these triangles the vertex that is not on the
            edge; the second is the first where there is one triangle only.
        is_edge: bool [E]; the other rows are padding.
    """

    ends: jax.Array
    faces: jax.Array
    opposite: jax.Array
    is_edge: jax.Array


def _corners(mesh: Mesh) -> tuple[jax.Array, jax.Array, jax.Array]:
    corners = mesh.vertices[mesh.triangles]
    return corners[:, 0], corners[:, 1], corners[:, 2]


def _lengths(vectors: jax.Array) -> jax.Array:
    """Return lengths [...] of [..., 3]; the gradient at 0 is 0."""
    square = jnp.sum(vectors**2, axis=-1)
    is_long = square > _TINY
    return jnp.where(is_long, jnp.sqrt(jnp.where(is_long, square, 1.0)), 0.0)


def normalized(vectors: jax.Array) -> jax.Array:
    """Scale vectors [..., 3] as small as areas are to length 1; see `shading.unit`."""
    return unit(vectors, _TINY)


def area_vectors(mesh: Mesh) -> jax.Array:
    """Return the outward normals of triangles, [K, 3], each as long as the area is."""
    a, b, c = _corners(mesh)
    return 0.5 * jnp.cross(b - a, c - a)


def area(mesh: Mesh) -> jax.Array:
    """Return the area of a mesh, []; of vertices [V, 3]."""
    return jnp.sum(_lengths(area_vectors(mesh)))


def volume(mesh: Mesh) -> jax.Array:
    """Return the volume that a closed mesh encloses, [].

    The divergence theorem: the sum of the signed tetrahedra between the triangles and
    the origin. It is negative for a mesh that is inside out, and nothing that has a
    meaning for one with a boundary.

    Args:
        mesh: vertices [V, 3].
    """
    a, b, c = _corners(mesh)
    return jnp.sum(a * jnp.cross(b, c)) / 6.0


def vertex_normals(mesh: Mesh) -> jax.Array:
    """Return unit normals of vertices, [V, 3]: means of their triangles' by area."""
    weighted = jnp.broadcast_to(
        area_vectors(mesh)[:, None], (*mesh.triangles.shape, 3)
    ).reshape(-1, 3)
    sums = jnp.zeros_like(mesh.vertices).at[mesh.triangles.reshape(-1)].add(weighted)
    return normalized(sums)


def edges_of(triangles: jax.Array) -> Edges:
    """Find the edges of triangles, and which triangles meet at each.

    Args:
        triangles: int32 [K, 3], no edge in more than two of them.
    """
    following = jnp.roll(triangles, -1, axis=1)
    opposite = jnp.roll(triangles, -2, axis=1).reshape(-1)
    low = jnp.minimum(triangles, following).reshape(-1)
    high = jnp.maximum(triangles, following).reshape(-1)
    face = jnp.repeat(jnp.arange(triangles.shape[0], dtype=jnp.int32), 3)
    # Equal edges become neighbours.
    low, high, face, opposite = jax.lax.sort((low, high, face, opposite), num_keys=2)
    repeats = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
    is_second = jnp.concatenate([jnp.zeros(1, bool), repeats])
    has_second = jnp.concatenate([repeats, jnp.zeros(1, bool)])
    return Edges(
        ends=jnp.stack([low, high], axis=-1),
        faces=jnp.stack([face, jnp.where(has_second, jnp.roll(face, -1), -1)], axis=-1),
        opposite=jnp.stack(
            [opposite, jnp.where(has_second, jnp.roll(opposite, -1), opposite)], axis=-1
        ),
        is_edge=(low != high) & ~is_second,
    )


def normal_consistency(mesh: Mesh, edges: Edges) -> jax.Array:
    """Return the mean of 1 - n . n' over edges: 0 of a plane, 1 of right angles.

    n and n' are the unit normals of the two triangles at an edge, and the mean is by
    the edge's length, so that slivers, whose normals are noise, have little weight.
    Edges of one triangle only do not count.

    Args:
        mesh: vertices [V, 3].
        edges: those of its triangles.

    Returns:
        [], 0 to 2.

    Source: the loss `normal_consistency` of Magic3D's fine stage (Lin et al. 2023,
        section 3.2) and of its reimplementations, which weight edges alike.
    """
    normals = normalized(area_vectors(mesh))
    one, other = edges.faces[:, 0], edges.faces[:, 1]
    counts = edges.is_edge & (other >= 0)
    ends = mesh.vertices[edges.ends]
    lengths = jnp.where(counts, _lengths(ends[:, 1] - ends[:, 0]), 0.0)
    bends = 1.0 - jnp.sum(normals[one] * normals[other], axis=-1)
    return jnp.sum(lengths * bends) / jnp.maximum(jnp.sum(lengths), _TINY)
