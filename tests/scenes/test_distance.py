"""From densities to signed distances: the level of a volume, and the way to a mesh."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras, distance, raster, tetrahedra, volume
from ddpm_jax.scenes import mesh as meshes

NUM_CELLS = 16
ROOM = 6000
VIEWS = cameras.from_degrees(
    np.array([0.0, 80.0, 160.0, 250.0]), np.array([10.0, -20.0, 50.0, 5.0])
)


@functools.lru_cache
def points():
    return np.asarray(tetrahedra.grid_points(NUM_CELLS))


# --- Interpolation --------------------------------------------------------------------


def in_tetrahedra(values, place):
    """Walk from the cell's first corner along the axes, by descending share."""
    cell = np.minimum(np.floor(place).astype(int), np.array(values.shape) - 2)
    share, corner = place - cell, cell.copy()
    total = values[tuple(corner)]
    for axis in np.argsort(-share):
        before = values[tuple(corner)]
        corner[axis] += 1
        total += share[axis] * (values[tuple(corner)] - before)
    return total


def test_values_between_grid_points():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 4, 4)).astype(np.float32)
    ties = np.array(list(itertools.product([-1.0, -0.5, 0.0, 0.2, 1.0], repeat=3)))
    places = np.concatenate([rng.uniform(-1, 1, (200, 3)), ties])
    found = tetrahedra.values_at(jnp.asarray(values), jnp.asarray(places, jnp.float32))
    expected = [in_tetrahedra(values, 1.5 * (place + 1)) for place in places]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    outside = tetrahedra.values_at(jnp.asarray(values), jnp.asarray([[1.5, -3.0, 0.2]]))
    edge = in_tetrahedra(values, 1.5 * (np.array([1.0, -1.0, 0.2]) + 1))
    np.testing.assert_allclose(outside, [edge], atol=1e-5)


# --- The level ------------------------------------------------------------------------


def test_the_level_is_the_best_of_all():
    """Against the sum itself at a level between any two of the numbers, with ties."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        maxima = np.round(rng.uniform(0, 2, 60) ** 2, 1).astype(np.float32)
        opacity = np.clip(maxima / 3 + 0.3 * rng.normal(size=60), 0, 1)
        opacity = opacity.astype(np.float32)
        found, agreement = distance.silhouette_level(maxima, opacity)
        middles = np.unique(np.concatenate([[0.0], maxima]))
        middles = (middles[1:] + middles[:-1]) / 2
        costs = [np.sum(((maxima > m) - opacity) ** 2) for m in middles]
        is_in = maxima > float(found)
        assert np.sum((is_in - opacity) ** 2) == pytest.approx(min(costs))
        assert float(found) == pytest.approx(middles[np.argmin(costs)])
        expected = np.minimum(is_in, opacity).sum() / np.maximum(is_in, opacity).sum()
        assert float(agreement) == pytest.approx(expected)


def ball(strength, radius=0.6):
    """tau = k (r0 - |p|), and the images' opacities by the renderer of volumes."""

    def density_at(at):
        reach = jnp.linalg.norm(at, axis=-1)
        return strength * jnp.maximum(radius - reach, 0.0)

    rays = cameras.rays(VIEWS, 32, 32)
    near, far = volume.ball_bounds(rays)
    along = volume.sample_distances(near, far, 128)
    at = rays.origin[..., None, :] + along[..., None] * rays.direction[..., None, :]
    length = ((far - near) / 128)[..., None]
    _, through = volume.ray_weights(density_at(at), length)
    return density_at(jnp.asarray(points())), rays, 1.0 - through


@pytest.mark.parametrize("strength", [300.0, 3000.0])
def test_the_radius_of_a_ball_is_recovered(strength):
    """Within half a cell; from the mesh's images, and from its distances."""
    density, rays, opacity = ball(strength)
    sdf, level = distance.signed_distance(density, rays, opacity, ROOM)
    half_cell = 1 / NUM_CELLS
    assert float(level.agreement) > 0.9
    assert abs(float(level.level) / strength) < half_cell
    mesh, _ = tetrahedra.extract(sdf, max_triangles=ROOM)
    inside = np.asarray(mesh.vertices)[: int(mesh.num_vertices)]
    reach = np.linalg.norm(inside, axis=1)
    assert np.all(np.abs(reach - 0.6) < half_cell)
    assert np.all((np.asarray(sdf) < 0) == (np.asarray(density) > level.level))
    images = jax.jit(functools.partial(raster.render, height=32, width=32))(
        mesh, mesh.vertices, VIEWS
    )
    both = np.minimum(images.opacity, opacity).sum()
    assert both / np.maximum(images.opacity, opacity).sum() > 0.93


def test_silhouettes_are_those_of_the_mesh():
    """[M > l] is what the raster of the mesh at level l covers."""
    rng = np.random.default_rng(2)
    density = sum(
        np.exp(-np.sum((points() - place) ** 2, axis=-1) / 0.05)
        for place in rng.uniform(-0.5, 0.5, (6, 3))
    ).astype(np.float32)
    camera = jax.tree.map(lambda leaf: leaf[1], VIEWS)
    maxima = distance.ray_maxima(jnp.asarray(density), cameras.rays(camera, 32, 32))
    mesh, _ = tetrahedra.extract(0.5 - density, max_triangles=ROOM)
    seen = jax.jit(functools.partial(raster.rasterize, height=32, width=32))
    is_hit = np.asarray(seen(mesh, camera).triangle) >= 0
    assert 100 < is_hit.sum() < 900
    # A ray may graze the surface between two samples.
    assert np.sum(is_hit != (np.asarray(maxima) > 0.5)) <= 1
    away = jax.tree.map(lambda leaf: leaf[None], cameras.rays(camera, 1, 1))
    away = away._replace(origin=away.origin + 5.0 * np.eye(3, dtype=np.float32)[1])
    assert float(distance.ray_maxima(jnp.asarray(density) + 1, away).max()) == 0.0


def test_volumes_without_a_surface_are_refused():
    density, rays, opacity = ball(1.0)
    with pytest.raises(UserError, match=r"are 0\.\d* opaque at most, and no surface"):
        distance.signed_distance(density, rays, opacity, ROOM)
    with pytest.raises(UserError, match="room for 100; give a larger max_triangles"):
        distance.signed_distance(*ball(300.0), 100)


# --- The distance ---------------------------------------------------------------------


def test_distances_to_a_box():
    """Outside |max(q, 0)|, inside the nearest side: q = |p| - half the sides."""
    half = np.array([0.3, 0.5, 0.4])
    quads = [(0, 4, 6, 2), (1, 3, 7, 5), (0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1)]
    quads += [(4, 5, 7, 6)]
    corners = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) * 2 - 1.0
    triangles = [(q[0], q[i], q[i + 1]) for q in quads for i in (1, 2)]
    triangles = [*triangles, (0, 0, 0), (3, 3, 5)]  # padding, and one without area
    counts = jnp.int32(8), jnp.int32(14)
    mesh = meshes.Mesh(
        jnp.asarray(corners * half, jnp.float32), jnp.asarray(triangles), *counts
    )
    rng = np.random.default_rng(3)
    places = rng.uniform(-1, 1, (300, 3))
    q = np.abs(places) - half
    outside = np.linalg.norm(np.maximum(q, 0), axis=1)
    expected = np.where(q.max(1) > 0, outside, -q.max(1))
    found = distance.distance_to(mesh, jnp.asarray(places, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_distances_to_a_triangle():
    """Against the nearest of many of its places, for points all around it."""
    rng = np.random.default_rng(4)
    corners = rng.normal(size=(3, 3)) * [1.0, 1.0, 0.3]
    ticks = np.linspace(0, 1, 201)
    u, v = (w[ticks[:, None] + ticks <= 1 + 1e-9] for w in np.meshgrid(ticks, ticks))
    dense = np.stack([1 - u - v, u, v], axis=1) @ corners
    places = rng.normal(size=(100, 3)) * 1.5
    expected = np.linalg.norm(places[:, None] - dense, axis=-1).min(1)
    counts = jnp.int32(3), jnp.int32(1)
    mesh = meshes.Mesh(
        jnp.asarray(corners, jnp.float32), jnp.asarray([[0, 1, 2]]), *counts
    )
    found = np.asarray(distance.distance_to(mesh, jnp.asarray(places, jnp.float32)))
    assert np.all(found <= expected + 1e-5)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_redistance_of_a_sphere():
    """Of values that are no distance: the cube of one, and a third of it."""
    true = np.linalg.norm(points(), axis=-1) - 0.6
    values = jnp.asarray(true**3 + true / 3, jnp.float32)
    mesh, _ = tetrahedra.extract(values, max_triangles=ROOM)
    sdf = np.asarray(jax.jit(distance.redistance)(values, mesh))
    np.testing.assert_array_equal(sdf < 0, values < 0)
    assert np.max(np.abs(sdf - true)) < 0.1 * 2 / NUM_CELLS
