"""Rasterization against geometry: planes, areas, who hides whom, moving outlines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.scenes import cameras, raster, tetrahedra
from ddpm_jax.scenes import mesh as meshes

# From +z at distance 2 with a half angle of 45 degrees: at z = 0 the image spans
# [-2, 2], so that a pixel of H rows is 4 / H wide.
FRONT = cameras.from_degrees(0.0, 0.0, 2.0, 90.0)


ROOM = 64  # of vertices and triangles: one compiled program for most tests


def mesh_of(vertices, triangles):
    counts = jnp.int32(len(vertices)), jnp.int32(len(triangles))
    rows = [((0, max(0, ROOM - len(part))), (0, 0)) for part in (vertices, triangles)]
    return meshes.Mesh(
        jnp.asarray(np.pad(vertices, rows[0]), jnp.float32),
        jnp.asarray(np.pad(triangles, rows[1]), jnp.int32),
        *counts,
    )


@functools.partial(jax.jit, static_argnums=(3, 4))
def view(mesh, colors, camera, height, width):
    """Fragments and images over black."""
    fragments = raster.rasterize(mesh, camera, height, width)
    images = raster.render(mesh, colors, camera, height, width, background=0.0)
    return fragments, images


def render(mesh, colors, camera=FRONT):
    colors = np.pad(colors, ((0, len(mesh.vertices) - len(colors)), (0, 0)))
    return view(mesh, jnp.asarray(colors, jnp.float32), camera, 32, 32)[1]


def rasterize(mesh, camera=FRONT, width=32):
    return view(mesh, mesh.vertices, camera, 32, width)[0]


def square(half, z=0.0, center=(0.0, 0.0)):
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half + center
    vertices = np.concatenate([corners, np.full((4, 1), z)], axis=1)
    return vertices, np.array([(0, 1, 2), (0, 2, 3)])


def joined(*parts):
    """One mesh of several (vertices, triangles)."""
    vertices, triangles, first = [], [], 0
    for own_vertices, own_triangles in parts:
        vertices.append(own_vertices)
        triangles.append(np.asarray(own_triangles) + first)
        first += len(own_vertices)
    return mesh_of(np.concatenate(vertices), np.concatenate(triangles))


# --- Visibility -----------------------------------------------------------------------


def test_depth_and_positions_of_a_plane():
    """A tilted triangle that fills the image, one corner of which is behind us."""
    width = 20
    camera = cameras.from_degrees(30.0, 20.0, 3.0, 50.0)
    normal, c = np.array([0.8, 0.36, 0.48]), 0.3
    basis = np.linalg.svd(normal[None])[2][1:]
    foot = normal * c
    corners = np.array([[-9.0, -9.0], [20.0, -2.0], [-2.0, 20.0]])
    vertices = foot + corners @ basis
    mesh = mesh_of(vertices, [(0, 1, 2)])
    assert np.min(raster.in_camera(camera, mesh.vertices)[:, 2]) < 0
    fragments = rasterize(mesh, camera, width)
    assert np.all(fragments.triangle == 0)
    np.testing.assert_allclose(fragments.barycentrics.sum(-1), 1, rtol=1e-5)
    places = np.asarray(raster.at_pixels(fragments, mesh, mesh.vertices))
    rays = cameras.rays(camera, 32, width)
    origin, direction = (np.asarray(r, np.float64) for r in rays)
    reach = (c - origin @ normal) / (direction @ normal)
    expected = origin + reach[..., None] * direction
    np.testing.assert_allclose(places, expected, atol=3e-5)
    backward = np.asarray(cameras.axes(camera)[2], np.float64)
    depth = 3.0 - expected @ backward
    np.testing.assert_allclose(fragments.depth, depth, rtol=1e-5)


def test_triangles_through_each_other():
    """One rises to the right, one to the left; both windings are seen."""
    corners = np.array([[-3.0, -3.0], [3.0, -3.0], [0.0, 6.0]])
    for order in ((0, 1, 2), (2, 1, 0)):
        one = np.column_stack([corners, 0.2 * corners[:, 0]])
        other = np.column_stack([corners, -0.2 * corners[:, 0]])
        fragments = rasterize(joined((one, [order]), (other, [(0, 1, 2)])))
        columns = np.arange(32) < 16
        row = np.asarray(fragments.triangle)[20]
        np.testing.assert_array_equal(row, columns)


def test_what_is_nearer_hides_and_what_is_behind_the_camera_is_not_seen():
    scene = joined(square(1.0, 0.0), square(0.5, 0.5), square(5.0, 2.5))
    fragments = rasterize(scene)
    triangle, depth = np.asarray(fragments.triangle), np.asarray(fragments.depth)
    assert set(triangle[16, 14:18].tolist()) <= {2, 3}
    np.testing.assert_allclose(depth[16, 14:18], 1.5, rtol=1e-6)
    np.testing.assert_allclose(depth[16, 9], 2.0, rtol=1e-6)
    assert triangle[0, 0] == -1 and depth[0, 0] == np.inf
    assert np.all(np.asarray(fragments.barycentrics)[0, 0] == 0)
    assert np.sum(triangle >= 0) == 16 * 16  # the half image that [-1, 1] is


def test_no_ray_slips_between_triangles():
    """Vertices and edges that lie on the rays to the last bit, and ones near them."""
    rng = np.random.default_rng(0)
    ticks = (np.arange(-1, 33) + 0.5) / 8 - 2  # centers of pixels, and one around
    x, y = np.meshgrid(ticks, ticks)
    index = np.arange(34 * 34).reshape(34, 34)
    a, b, c, d = (
        part.reshape(-1)
        for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1])
    )
    order = rng.permutation(34 * 34)  # which vertex is the lower one is arbitrary
    triangles = order[np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])]
    for noise in (0.0, 0.0, 1e-7, 1e-3, 2e-2):
        z = noise * rng.normal(size=x.shape)
        vertices = np.zeros((34 * 34, 3))
        moved = [p + noise * rng.normal(size=x.shape) for p in (x, y)]
        vertices[order] = np.stack([*moved, z], axis=-1).reshape(-1, 3)
        fragments = rasterize(mesh_of(vertices, triangles))
        assert np.all(np.asarray(fragments.triangle)[1:-1, 1:-1] >= 0)


def test_triangles_without_size_are_not_seen():
    """Padding, and three vertices within rounding of one place."""
    near = np.array([0.3, 0.7, -0.2])
    vertices = np.concatenate([near + 1e-9 * np.eye(3), near + np.zeros((3, 3))])
    triangles = [(0, 0, 0), (0, 1, 2), (3, 4, 5), (0, 1, 1)]
    for camera in (FRONT, cameras.from_degrees(20.0, 35.0)):
        fragments = rasterize(mesh_of(vertices, triangles), camera)
        assert np.all(fragments.triangle == -1)
    tiny = mesh_of(near + 1e-5 * np.eye(3), [(0, 1, 2)])
    assert np.sum(rasterize(tiny).triangle >= 0) <= 1


def test_normals_and_several_cameras():
    camera = cameras.from_degrees([0.0, 90.0], [0.0, 20.0], 2.0, 90.0)
    scene = joined(square(1.0))
    colors = np.asarray(scene.vertices)
    images = functools.partial(raster.render, height=32, width=32, background=0.0)
    both = jax.jit(images)(scene, colors, camera)
    for i in range(2):
        one = render(scene, colors, jax.tree.map(lambda leaf, i=i: leaf[i], camera))
        for found, expected in zip(both, one, strict=True):
            np.testing.assert_allclose(found[i], expected, atol=1e-5)
    normal = np.asarray(both.normal[0])
    np.testing.assert_allclose(normal[16, 16], [0, 0, 1], atol=1e-6)
    assert np.all(normal[0, 0] == 0)


# --- Covered areas --------------------------------------------------------------------


def shoelace(places):
    x, y = places[:, 0], places[:, 1]
    return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2


def test_covered_area_converges():
    """Of right triangles with upright and level sides: order 1 of centers that are
    covered, order 2 with antialiasing; root mean square of 64 triangles."""
    rng, num = np.random.default_rng(1), 64
    places = np.repeat(rng.uniform(-0.75, -0.25, (num, 1, 2)), 3, axis=1)
    places[:, 1, 0] += rng.uniform(0.5, 0.95, num)
    places[:, 2, 1] += rng.uniform(0.5, 0.95, num)
    exact = np.array([shoelace(p) for p in places]) / 4  # share of the image
    # Anywhere along the rays through these places.
    camera = cameras.from_degrees(25.0, 10.0, 3.0, 70.0)
    depths = rng.uniform(2.0, 4.0, (num, 3, 1))
    right, up, backward = (np.asarray(a) for a in cameras.axes(camera))
    x, y = np.moveaxis(places * np.tan(np.deg2rad(35.0)) * depths, -1, 0)
    vertices = x[..., None] * right + y[..., None] * up + (3.0 - depths) * backward

    sizes, plain, smooth = np.array([16, 32, 64]), [], []
    for size in sizes:

        @jax.jit
        @jax.vmap
        def shares(vertices, size=int(size)):
            mesh = meshes.Mesh(vertices, jnp.asarray([(0, 1, 2)] * 2), 3, 1)
            image = raster.render(mesh, vertices, camera, size, size)
            return jnp.mean(jnp.isfinite(image.depth)), jnp.mean(image.opacity)

        batches = jnp.asarray(vertices.reshape(-1, 16, 3, 3), jnp.float32)
        found = zip(*(shares(batch) for batch in batches), strict=True)
        for errors, share in zip((plain, smooth), found, strict=True):
            wrong = np.concatenate(share) - exact
            errors.append(np.sqrt(np.mean(wrong**2)))
    orders = [-np.polyfit(np.log(sizes), np.log(e), 1)[0] for e in (plain, smooth)]
    assert orders[0] == pytest.approx(1.0, abs=0.35)
    assert orders[1] == pytest.approx(2.0, abs=0.35)
    assert smooth[-1] < plain[-1] / 15


def test_colors_cover_their_areas():
    """A small square in front of a large one, the corners off the grid of pixels."""
    small = square(0.31, 0.5, (0.13, -0.07))  # at depth 1.5
    large = square(1.03, 0.0, (0.05, 0.02))  # at depth 2
    scene = joined(small, large)
    colors = np.array([[1.0, 0.0, 0.0]] * 4 + [[0.0, 1.0, 0.0]] * 4)
    image = render(scene, colors)
    areas = np.array([(0.62 * 2 / 1.5) ** 2, 2.06**2 - (0.62 * 2 / 1.5) ** 2])
    pixel = (4 / 32) ** 2
    found = np.asarray(image.color).sum((0, 1))[:2] * pixel
    np.testing.assert_allclose(found, areas, atol=0.5 * pixel)
    assert np.asarray(image.opacity).sum() * pixel == pytest.approx(
        2.06**2, abs=0.5 * pixel
    )
    plain = rasterize(scene)
    count = np.array([np.sum(np.asarray(plain.triangle) // 2 == i) for i in range(2)])
    assert np.all(np.abs(count * pixel - areas) > 0.5 * pixel)


def test_hidden_outlines_leave_no_trace():
    front = square(1.03, 0.5)
    hidden = square(0.4, -0.5, (0.1, 0.2))
    colors = np.random.default_rng(2).uniform(size=(8, 3))
    with_it = render(joined(front, hidden), colors)
    without = render(joined(front, (hidden[0] + 100, hidden[1])), colors)
    np.testing.assert_array_equal(with_it.color, without.color)


def test_smooth_surfaces_are_not_blended():
    """Within a sphere no outline passes, and only pixels at its rim change."""
    mesh = small_sphere(0.6)
    camera = cameras.from_degrees(10.0, 15.0)
    colors = 0.5 + 0.5 * mesh.vertices
    fragments, images = view(mesh, colors, camera, 32, 32)
    plain, image = raster.at_pixels(fragments, mesh, colors), np.asarray(images.color)
    is_hit = np.pad(np.asarray(fragments.triangle) >= 0, 1)
    within = is_hit[1:-1, 1:-1].copy()
    for axis in range(2):
        for step in (-1, 1):
            within &= np.roll(is_hit, step, axis)[1:-1, 1:-1]
    assert within.sum() > 150
    np.testing.assert_array_equal(image[within], np.asarray(plain)[within])
    assert np.mean(image[~within] != np.asarray(plain)[~within]) > 0.05


# --- Gradients ------------------------------------------------------------------------


def disc(radius, center=(0.0, 0.0), corners=40, z=0.0):
    """A regular polygon around its middle, and its area."""
    angles = 2 * np.pi * (np.arange(corners) + 0.3) / corners
    rim = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1) * radius
    places = jnp.concatenate([jnp.zeros((1, 2)), rim]) + jnp.asarray(center)
    vertices = jnp.concatenate([places, jnp.full((corners + 1, 1), z)], axis=1)
    numbers = np.arange(corners)
    triangles = np.stack([0 * numbers, 1 + numbers, 1 + (numbers + 1) % corners], 1)
    mesh = meshes.Mesh(vertices, jnp.asarray(triangles, jnp.int32), *[jnp.int32(0)] * 2)
    return mesh, corners / 2 * np.sin(2 * np.pi / corners) * radius**2


@jax.jit
def covered(radius, center):
    """Areas that a disc covers of the image and of its right half, with derivatives."""

    def halves(radius, center):
        mesh, _ = disc(radius, center)
        opacity = raster.render(mesh, mesh.vertices, FRONT, 32, 32).opacity
        pixel = (4 / 32) ** 2
        return jnp.stack([jnp.sum(opacity), jnp.sum(opacity[:, 16:])]) * pixel

    return halves(radius, center), jax.jacrev(halves, argnums=(0, 1))(radius, center)


@pytest.mark.parametrize("radius", [0.4, 0.73, 1.1])
def test_a_growing_disc_covers_its_circumference(radius):
    """Within 5% of the derivative of its area, in the mean of three places on the grid:
    where a small one stands changes what the few rows across it see."""
    _, area = disc(radius)
    slopes = []
    for center in ((0.0, 0.0), (0.031, 0.017), (-0.05, 0.09)):
        (found, _), ((slope, _), _) = covered(radius, jnp.asarray(center))
        assert float(found) == pytest.approx(float(area), rel=0.01)
        slopes.append(slope)
    assert np.mean(slopes) == pytest.approx(2 * float(area) / radius, rel=0.05)


def test_a_moving_disc_covers_the_same_and_changes_the_half_planes():
    """The share to the right of the middle grows by the height there."""
    _, (_, slopes) = covered(0.8, jnp.asarray([0.02, 0.0]))
    assert np.all(np.abs(slopes[0]) < 0.05 * 1.6)
    assert float(slopes[1, 0]) == pytest.approx(1.6, rel=0.05)


@jax.jit
def small_sphere(radius):
    """Of triangles about as large as a pixel."""
    points = tetrahedra.grid_points(12)
    distance = jnp.linalg.norm(points, axis=-1) - radius
    return tetrahedra.extract(distance, max_triangles=2048)[0]


def test_a_growing_sphere_covers_its_outline():
    """Within 5%, of triangles smaller than a pixel; an outline at tan(asin(r / d))."""
    camera = cameras.from_degrees(25.0, 35.0)

    @jax.jit
    @jax.value_and_grad
    def share(radius):
        mesh = small_sphere(radius)
        return jnp.mean(raster.render(mesh, mesh.vertices, camera, 24, 24).opacity)

    def exact(radius):
        across = np.tan(np.arcsin(radius / 3)) / np.tan(np.deg2rad(20))
        return np.pi * across**2 / 4

    found = np.array([share(radius) for radius in (0.57, 0.6, 0.63, 0.66)])
    radii = np.array([0.57, 0.6, 0.63, 0.66])
    np.testing.assert_allclose(found[:, 0], exact(radii), rtol=0.03)
    slopes = (exact(radii + 1e-4) - exact(radii - 1e-4)) / 2e-4
    np.testing.assert_allclose(found[:, 1].mean(), slopes.mean(), rtol=0.05)


def test_gradients_are_finite_differences():
    """Of a loss of color, opacity and depth, in float64: vertices, colors, camera."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        parts = [square(0.41, 0.5, (0.13, -0.07)), square(1.03, 0.0)]
        scene = joined(*parts)
        scene = scene._replace(
            vertices=scene.vertices[:8], triangles=scene.triangles[:4]
        )
        vertices = np.asarray(scene.vertices, np.float64)
        vertices = vertices + 0.02 * rng.normal(size=vertices.shape)
        colors = rng.uniform(size=(8, 3))
        target = rng.normal(size=(16, 16, 3))
        angles = np.array([0.1, 0.2, 2.1, 1.3])

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
        def loss(vertices, colors, angles):
            camera = cameras.Camera(*angles)
            mesh = scene._replace(vertices=vertices)
            image = raster.render(mesh, colors, camera, 16, 16)
            depth = jnp.where(jnp.isfinite(image.depth), image.depth, 0.0)
            opacity = jnp.sum(image.opacity * target[..., 0])
            return jnp.sum(image.color * target) + opacity + jnp.sum(depth**2)

        given = (vertices, colors, angles)
        _, gradients = loss(*given)
        h = 1e-7
        for i in range(3):
            way = rng.normal(size=given[i].shape)
            up, down = (
                loss(*(g + s * h * way if i == j else g for j, g in enumerate(given)))[
                    0
                ]
                for s in (1, -1)
            )
            expected = np.sum(way * np.asarray(gradients[i]))
            assert abs(expected) > 0.1
            assert float(up - down) / (2 * h) == pytest.approx(expected, rel=1e-5)
