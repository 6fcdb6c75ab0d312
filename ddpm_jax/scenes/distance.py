"""From a density to a signed distance: where is the surface of a volume?

A volume has no surface, and a mesh that is made of it at a level of density that is set
by hand has floaters, or holes. Here the level is the one whose silhouettes agree best
with the opacity that the volume's own images have:

    level = argmin_l  sum over pixels ([M > l] - A)^2

where A is the opacity of a pixel and M the largest density on its ray, interpolated as
marching tetrahedra do: [M > l] is then the silhouette of the mesh that is extracted at
level l, and no mesh has to be made. The sum changes at the values of M alone, so that
the best of all levels is found by sorting them.

The distance of each grid point to that mesh, by the nearest of all triangles, negative
where the density is above the level, is what refinement starts from.

Source: Lin et al. 2023, "Magic3D: High-Resolution Text-to-3D Content Creation", section
    3.2, which subtracts a constant that is not given from the density.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.errors import UserError
from ddpm_jax.scenes.cameras import Rays
from ddpm_jax.scenes.mesh import Mesh
from ddpm_jax.scenes.tetrahedra import (
    check_fits,
    extract,
    grid_points,
    values_at,
)
from ddpm_jax.scenes.volume import ball_bounds, sample_distances

_AT_ONCE = 4  # triangles in one pass over the points
_RADIUS = 1.0  # of the ball that volumes are rendered in


class Level(NamedTuple):
    """A level of density.

    Attributes:
        level: [].
        agreement: [], the intersection of silhouettes and opacities over their union,
            0 to 1; 0 if no level agrees better than no surface at all.
    """

    level: jax.Array
    agreement: jax.Array


# --- The level ------------------------------------------------------------------------


def ray_maxima(density: jax.Array, rays: Rays) -> jax.Array:
    """Find the largest density on each ray, within the ball of radius 1.

    Args:
        density: [N+1, N+1, N+1] on [-1, 1]^3.
        rays: leaves [..., 3].

    Returns:
        [...], of 8 N samples of each ray, four in each cell's width; 0 of a ray that
        misses the ball.
    """
    near, far = ball_bounds(rays, _RADIUS)
    num_samples = 8 * (density.shape[0] - 1)

    def of_rays(ray: tuple[jax.Array, ...]) -> jax.Array:
        origin, direction, near, far = ray
        along = sample_distances(near, far, num_samples)
        points = origin[..., None, :] + along[..., None] * direction[..., None, :]
        values = values_at(density, points, _RADIUS)
        return jnp.where(far > near, jnp.max(values, axis=-1), 0.0)

    flat = [leaf.reshape(-1, *leaf.shape[near.ndim :]) for leaf in (*rays, near, far)]
    maxima = jax.lax.map(of_rays, tuple(flat), batch_size=1024)
    return maxima.reshape(near.shape)


def silhouette_level(maxima: jax.Array, opacity: jax.Array) -> Level:
    """Choose the level whose silhouettes are nearest to opacities, of all levels.

    Args:
        maxima: [...], the largest density on each ray.
        opacity: [...], 0 to 1, of the same rays.

    Returns:
        The middle between the two neighbouring densities among which the best levels
        are, or between the lowest and 0.
    """
    m, a = maxima.reshape(-1), opacity.reshape(-1)
    order = jnp.argsort(-m)
    m, a = m[order], a[order]
    following = jnp.concatenate([m[1:], jnp.zeros(1, m.dtype)])
    # With the i first pixels in the silhouette the sum is that of A^2, and this.
    costs = jnp.where(m > following, jnp.cumsum(1.0 - 2.0 * a), jnp.inf)
    best = jnp.argmin(costs)
    level = 0.5 * (m[best] + following[best])
    is_in = jnp.arange(m.shape[0]) <= best
    shared = jnp.sum(jnp.where(is_in, a, 0.0))
    either = jnp.sum(jnp.where(is_in, 1.0, a))
    return Level(level, jnp.where(costs[best] < 0, shared / either, 0.0))


# --- The distance ---------------------------------------------------------------------


def distance_to(mesh: Mesh, points: jax.Array) -> jax.Array:
    """Return the distance of points to the nearest place of a mesh, trying all.

    Args:
        mesh: vertices [V, 3], of at least one triangle; K of them.
        points: [P, 3].

    Returns:
        [P]; without a gradient where two triangles are equally near.
    """
    corners = mesh.vertices[mesh.triangles]  # [K, 3, 3]
    sides = jnp.roll(corners, -1, axis=1) - corners
    normal = jnp.cross(sides[:, :1], -sides[:, 2:])
    inward = jnp.cross(normal, sides)

    def over_square(vectors: jax.Array) -> jax.Array:
        """Vectors divided by their squared lengths; those of no length stay 0."""
        square = jnp.sum(vectors**2, axis=-1, keepdims=True)
        is_long = square > jnp.finfo(square.dtype).tiny
        return jnp.where(is_long, vectors / jnp.where(is_long, square, 1.0), 0.0)

    # A triangle of no area has no inside; its sides are near enough.
    has_area = jnp.any(over_square(normal) != 0, axis=-1)  # [K, 1]
    length = jnp.sqrt(jnp.sum(normal**2, axis=-1, keepdims=True))
    unit = normal / jnp.where(has_area[..., None], length, 1.0)
    rows = {
        "corners": corners,
        "sides": sides,
        "shares": over_square(sides),
        "inward": inward,
        "unit": unit[:, 0],
        "has_area": has_area[:, 0],
    }
    missing = -mesh.triangles.shape[0] % _AT_ONCE
    chunks = jax.tree.map(
        lambda leaf: jnp.pad(
            leaf, ((0, missing), *((0, 0),) * (leaf.ndim - 1)), mode="edge"
        ).reshape(-1, _AT_ONCE, *leaf.shape[1:]),
        rows,
    )
    place = tuple(points.T)

    def product(vector: jax.Array, at: tuple[jax.Array, ...]) -> jax.Array:
        return vector[0] * at[0] + vector[1] * at[1] + vector[2] * at[2]

    def nearer(best: jax.Array, chunk: dict[str, jax.Array]) -> tuple:
        """Go through some triangles, all points at once: a loop that vectorizes."""
        for i in range(_AT_ONCE):
            row = {name: leaf[i] for name, leaf in chunk.items()}
            is_over = row["has_area"]
            for j in range(3):
                at = tuple(place[c] - row["corners"][j, c] for c in range(3))
                share = jnp.clip(product(row["shares"][j], at), 0.0, 1.0)
                off = [at[c] - share * row["sides"][j, c] for c in range(3)]
                best = jnp.minimum(best, off[0] ** 2 + off[1] ** 2 + off[2] ** 2)
                is_over &= product(row["inward"][j], at) >= 0
            height = product(row["unit"], at)
            best = jnp.where(is_over, jnp.minimum(best, height**2), best)
        return best, None

    start = jnp.full(points.shape[:1], jnp.inf, points.dtype)
    return jnp.sqrt(jax.lax.scan(nearer, start, chunks)[0])


def redistance(values: jax.Array, mesh: Mesh, radius: float = 1.0) -> jax.Array:
    """Replace values by the signed distance to their surface.

    Args:
        values: [N+1, N+1, N+1], negative inside.
        mesh: what `extract` makes of them.
        radius: half the side of the grid.

    Returns:
        [N+1, N+1, N+1], of the same signs.
    """
    num_cells = values.shape[0] - 1
    points = grid_points(num_cells, radius).astype(values.dtype)
    distance = distance_to(mesh, points.reshape(-1, 3)).reshape(values.shape)
    return jnp.where(values < 0, -distance, distance)


_level_of = jax.jit(
    lambda density, rays, opacity: silhouette_level(ray_maxima(density, rays), opacity)
)
_extract = jax.jit(
    lambda values, room: extract(values, max_triangles=room)[0], static_argnums=1
)
_redistance = jax.jit(redistance)


def mesh_of(
    density: jax.Array, rays: Rays, opacity: jax.Array, max_triangles: int
) -> tuple[Mesh, jax.Array, Level]:
    """Extract the surface of a volume, not under `jit`.

    Args:
        density: [N+1, N+1, N+1] on [-1, 1]^3; beyond the ball of radius 1, which is all
            that is rendered, it counts as 0, so that the surface is closed.
        rays: of images of the volume, leaves [..., 3].
        opacity: [...], of those images.
        max_triangles: the room for the surface's triangles.

    Returns:
        The mesh, of regular tetrahedra; level - density [N+1, N+1, N+1], negative
        inside; and the level of density that the mesh is at.

    Raises:
        UserError: the volume has no surface, or one of more triangles.
    """
    points = grid_points(density.shape[0] - 1, _RADIUS)
    in_ball = jnp.sum(points**2, axis=-1) < _RADIUS**2
    density = jnp.where(in_ball, density, 0.0)
    level = _level_of(density, rays, opacity)
    if not level.agreement > 0:
        raise UserError(
            f"the volume's images are {float(jnp.max(opacity)):.3f} opaque at most, and"
            " no surface looks like that; train the volume longer, or with a weight on"
            " opacity."
        )
    values = level.level - density
    mesh = _extract(values, max_triangles)
    check_fits(mesh)
    return mesh, values, level


def signed_distance(
    density: jax.Array, rays: Rays, opacity: jax.Array, max_triangles: int
) -> tuple[jax.Array, Level]:
    """Make the signed distance to the surface of a volume, not under `jit`.

    Args:
        density: [N+1, N+1, N+1], as of `mesh_of`.
        rays: of images of the volume, leaves [..., 3].
        opacity: [...], of those images.
        max_triangles: the room for the surface's triangles.

    Returns:
        Signed distance [N+1, N+1, N+1], negative inside and positive at all sides of
        the grid; and the level of density where it is 0.

    Raises:
        UserError: the volume has no surface, or one of more triangles.
    """
    mesh, values, level = mesh_of(density, rays, opacity, max_triangles)
    return _redistance(values, mesh), level
