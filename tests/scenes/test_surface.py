"""Surfaces that are optimized: the gradient of images, and from volume to mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.scenes import cameras, surface, tetrahedra, volume
from ddpm_jax.scenes.shading import Light

NUM_CELLS = 8
ROOM = 800


def blob(rng, dtype):
    points = np.asarray(tetrahedra.grid_points(NUM_CELLS), dtype)
    sdf = np.linalg.norm(points * [1.0, 0.8, 1.2], axis=-1) - 0.55
    sdf = sdf + 0.02 * rng.normal(size=sdf.shape)
    offsets, colors = 0.3 * rng.normal(size=(2, *sdf.shape, 3))
    return surface.Surface(*(jnp.asarray(x, dtype) for x in (sdf, offsets, colors)))


def test_gradients_are_finite_differences():
    """Of all that is optimized, in float64, through shaded images and the bending."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        given = blob(rng, np.float64)
        camera = cameras.Camera(*(np.array(x) for x in (0.4, 0.3, 3.0, 0.7)))
        light = Light(jnp.asarray([0.6, 0.64, 0.48]), 0.3)
        target = rng.normal(size=(12, 12, 3))

        @jax.jit
        @jax.value_and_grad
        def loss(given):
            images, bending, _ = surface.render(
                given, camera, 12, 12, ROOM, background=0.3, light=light
            )
            return jnp.sum(images.color * target) + bending

        _, gradient = loss(given)
        h = 1e-7
        for i in range(3):
            way = [np.zeros(leaf.shape) for leaf in given]
            way[i] = rng.normal(size=way[i].shape)
            up, down = (
                loss(
                    jax.tree.map(
                        lambda x, w, s=s: x + s * h * w, given, type(given)(*way)
                    )
                )[0]
                for s in (1, -1)
            )
            expected = float(np.sum(way[i] * np.asarray(gradient[i])))
            assert abs(expected) > 0.05
            assert float(up - down) / (2 * h) == pytest.approx(expected, rel=1e-5)


def test_a_sphere_of_light_is_lambertian():
    """Facing the light, n . l of the sphere's own normals; ambient behind."""
    points = tetrahedra.grid_points(NUM_CELLS)
    sdf = jnp.linalg.norm(points, axis=-1) - 0.7
    white = surface.Surface(sdf, jnp.zeros_like(points), jnp.full_like(points, 20.0))
    camera = cameras.from_degrees([0.0, 180.0])
    light = Light(jnp.asarray([0.0, 0.0, 1.0]), 0.25)
    render = functools.partial(
        surface.render, height=16, width=16, max_triangles=ROOM, background=0.0
    )
    images, bending, mesh = jax.jit(render)(white, camera, light=light)
    tetrahedra.check_fits(mesh)
    assert 0 < float(bending) < 0.1
    color = np.asarray(images.color)[..., 0]
    rays = cameras.rays(jax.tree.map(lambda leaf: leaf[0], camera), 16, 16)
    origin, direction = (np.asarray(r, np.float64) for r in rays)
    middle = -np.sum(origin * direction, axis=-1)
    under = 0.7**2 - np.sum((origin + middle[..., None] * direction) ** 2, axis=-1)
    is_in = under > 0.15  # away from the rim
    reach = middle - np.sqrt(np.where(is_in, under, 1.0))
    z = (origin + reach[..., None] * direction)[..., 2] / 0.7
    np.testing.assert_allclose(color[0][is_in], 0.25 + 0.75 * z[is_in], atol=0.04)
    np.testing.assert_allclose(color[1][is_in], 0.25, atol=1e-6)


def test_a_volume_is_taken_over():
    """Images of the mesh are those of the volume: 24 dB at least."""
    points = tetrahedra.grid_points(16)

    def field(params, at):
        reach = jnp.linalg.norm(at * jnp.asarray([1.0, 0.7, 1.3]), axis=-1)
        density = 200.0 * jnp.maximum(0.6 - reach, 0.0) + jnp.exp(-reach / 0.1)
        return density, 0.5 + 0.45 * jnp.sin(4.0 * at)

    camera = cameras.from_degrees([20.0, 130.0, 260.0], [10.0, 40.0, -15.0])
    rays = cameras.rays(camera, 32, 32)
    seen = jax.jit(lambda rays: volume.render(field, None, rays, num_samples=64))(rays)
    density, colors = field(None, points)
    taken, level = surface.from_volume(density, colors, rays, seen.opacity, 4096)
    assert float(level.agreement) > 0.9
    render = functools.partial(surface.render, height=32, width=32, max_triangles=4096)
    images, _, mesh = jax.jit(render)(taken, camera)
    tetrahedra.check_fits(mesh)
    error = np.mean((np.asarray(images.color) - np.asarray(seen.color)) ** 2)
    assert -10 * np.log10(error) > 24.0
