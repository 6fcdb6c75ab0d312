"""Marching tetrahedra against solids whose area and volume are known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.scenes import mesh as meshes
from ddpm_jax.scenes import tetrahedra

ROOM = {1: 24, 4: 768, 6: 1000, 12: 4096, 24: 12288, 48: 36864}


@functools.partial(jax.jit, static_argnums=1)
def extracted(sdf, max_triangles, offsets=None):
    mesh, topology = tetrahedra.extract(sdf, offsets, max_triangles=max_triangles)
    return mesh, topology, meshes.area(mesh), meshes.volume(mesh)


def extract(sdf, offsets=None):
    found = extracted(sdf, ROOM[sdf.shape[0] - 1], offsets)
    tetrahedra.check_fits(found[0])
    return found


def grid(num_cells):
    return np.asarray(tetrahedra.grid_points(num_cells))


def sphere(points, radius=0.6):
    return np.linalg.norm(points, axis=-1) - radius


def torus(points, large=0.55, small=0.3):
    x, y, z = np.moveaxis(points, -1, 0)
    return np.hypot(np.hypot(x, z) - large, y) - small


def parts(mesh):
    """Return the triangles and vertices that are no padding."""
    triangles = np.asarray(mesh.triangles)[: int(mesh.num_triangles)]
    return triangles, np.asarray(mesh.vertices)[: int(mesh.num_vertices)]


def check_watertight(mesh):
    """Every edge has two triangles, which run along it in opposite directions."""
    triangles, vertices = parts(mesh)
    directed = np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    found = set(map(tuple, directed.tolist()))
    assert len(found) == len(directed)
    assert found == {(b, a) for a, b in found}
    assert set(triangles.reshape(-1)) == set(range(len(vertices)))
    return len(vertices) - len(found) // 2 + len(triangles)


# --- Solids ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solid", "area", "volume", "euler"),
    [
        (sphere, 4 * np.pi * 0.6**2, 4 / 3 * np.pi * 0.6**3, 2),
        (torus, 4 * np.pi**2 * 0.55 * 0.3, 2 * np.pi**2 * 0.55 * 0.3**2, 0),
    ],
)
def test_area_and_volume_converge_with_the_square_of_the_cell(
    solid, area, volume, euler
):
    counts, errors = np.array([12, 24, 48]), []
    for num_cells in counts:
        mesh, _, found_area, found_volume = extract(solid(grid(num_cells)))
        assert check_watertight(mesh) == euler
        errors.append([found_area / area - 1, found_volume / volume - 1])
    orders = -np.polyfit(np.log(counts), np.log(np.abs(errors)), 1)[0]
    np.testing.assert_allclose(orders, 2.0, atol=0.15)
    # A chord lies within the arc: N=48 has .13% less area, and .25% less volume.
    assert np.all(np.array(errors) < 0)
    assert np.all(np.abs(errors[-1]) < 0.01)


def test_nothing_and_everything_have_no_surface():
    for value in (1.0, -1.0, np.eye(5)):  # 0 is outside
        mesh, *_ = extract(np.full((5, 5, 5), value, np.float32))
        assert int(mesh.num_triangles) == int(mesh.num_vertices) == 0
        assert not np.any(mesh.triangles)


def test_any_signs_give_a_closed_surface():
    """Of random values within the grid, and of an inside that touches all sides."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        sdf = np.pad(rng.normal(size=(3, 3, 3)), 1, constant_values=1.0)
        check_watertight(extract(sdf.astype(np.float32))[0])
    full = jnp.full((5, 5, 5), -1.0).at[2, 2, 2].set(1.0)
    mesh, _, _, volume = extract(tetrahedra.sealed(full))
    assert check_watertight(mesh) == 4  # two spheres
    # Crossed at 2/3 of a cell of .5 from the inner points at +-.5, towards +.25 there:
    # the box, its corners cut, less the hole; only the side is known exactly.
    assert np.abs(parts(mesh)[1]).max() == pytest.approx(0.5 + 0.5 * 1 / 1.25)
    assert 0.5**3 * 8 < volume < 1.8**3


def test_smallest_surface_has_the_vertices_that_there_is_room_for():
    """Around one point; the room for vertices is 5/8 of that for triangles."""
    sdf = np.ones((5, 5, 5), np.float32)
    sdf[2, 2, 2] = -1
    mesh, *_ = extract(sdf)
    assert (int(mesh.num_triangles), int(mesh.num_vertices)) == (24, 14)
    assert 5 * 24 // 8 >= 14


# --- Cases ----------------------------------------------------------------------------


def in_tetrahedra(values, place):
    """Interpolate linearly in the tetrahedron of a place of the unit cube: descending
    coordinates say in which order the axes are walked (Kuhn)."""
    total, corner = values[0, 0, 0], np.zeros(3, int)
    for axis in np.argsort(-place):
        before = values[tuple(corner)]
        corner[axis] = 1
        total += place[axis] * (values[tuple(corner)] - before)
    return total


def test_every_triangle_of_every_case_faces_outside():
    """All signs of one cube, so all 16 cases of each of its 6 tetrahedra."""
    rng = np.random.default_rng(1)
    seen = np.zeros((6, 16), bool)
    paths = list(itertools.permutations(range(3)))
    for signs in itertools.product([-1.0, 1.0], repeat=8):
        sdf = np.reshape(signs, (2, 2, 2)) * rng.uniform(0.5, 1.5, (2, 2, 2))
        for t, path in enumerate(paths):
            corners = [np.isin(range(3), path[:i]).astype(int) for i in range(4)]
            inside = [sdf[tuple(c)] < 0 for c in corners]
            seen[t, sum(b << i for i, b in enumerate(inside))] = True
        mesh, *_ = extract(sdf.astype(np.float32))
        triangles, vertices = parts(mesh)
        for corners in vertices[triangles].astype(np.float64):
            normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
            step = 1e-3 * normal / np.linalg.norm(normal)
            middle = (corners.mean(0) + 1) / 2
            assert in_tetrahedra(sdf, middle + step) > 0
            assert in_tetrahedra(sdf, middle - step) < 0
            assert abs(in_tetrahedra(sdf, middle)) < 1e-5
    assert seen.all()


def section_area(normal, c):
    """Area of the plane normal . x = c in the cube [-1, 1]^3: the derivative of the
    volume below it, sum over corners of (-1)^(ones) (c - normal . corner)_+^3 / (6
    n_1 n_2 n_3)."""
    corners = np.array(list(itertools.product([-1, 1], repeat=3)))
    sign = np.prod(-corners, axis=1)
    return np.sum(sign * np.maximum(c - corners @ normal, 0) ** 2) / (2 * normal.prod())


@pytest.mark.parametrize("c", [0.0, 0.1, 0.5, 0.71])
def test_planes_are_exact(c):
    normal = np.array([0.36, 0.48, 0.8])
    points = grid(4).astype(np.float32)
    mesh, _, area, _ = extract((points @ normal - c).astype(np.float32))
    triangles, vertices = parts(mesh)
    np.testing.assert_allclose(vertices @ normal, c, atol=1e-6)
    assert area == pytest.approx(section_area(normal, c), rel=1e-5)
    vectors = np.asarray(meshes.area_vectors(mesh))[: len(triangles)]
    # All face along the normal: the area is that of the sum of the vectors.
    assert vectors.sum(0) @ normal == pytest.approx(float(area), rel=1e-5)


def test_planes_through_grid_points_are_exact():
    """Values of 0 are outside; triangles without area are no harm."""
    for axis in range(3):
        mesh, _, area, _ = extract(grid(4)[..., axis])
        assert area == pytest.approx(4.0, rel=1e-6)
        assert np.all(np.asarray(parts(mesh)[1])[:, axis] == 0)


def test_planes_are_exact_on_moved_points():
    normal, c = np.array([0.36, 0.48, 0.8]), 0.1
    offsets = np.random.default_rng(2).normal(size=(5, 5, 5, 3)).astype(np.float32)
    points = np.asarray(tetrahedra.moved_points(offsets))
    assert 0.2 < np.abs(points - grid(4)).max() < 0.25  # half a cell
    sdf = (points.astype(np.float64) @ normal - c).astype(np.float32)
    mesh, _, _, _ = extract(sdf, offsets)
    np.testing.assert_allclose(parts(mesh)[1] @ normal, c, atol=1e-6)


# --- Gradients ------------------------------------------------------------------------


def test_gradients_are_finite_differences():
    """Of the volume, with respect to distances and offsets, in float64."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        points = np.asarray(tetrahedra.grid_points(6))
        sdf = sphere(points, 0.7) + 0.05 * rng.normal(size=(7, 7, 7))
        offsets = 0.3 * rng.normal(size=(7, 7, 7, 3))

        @jax.jit
        def volume(sdf, offsets):
            mesh, _ = tetrahedra.extract(sdf, offsets, max_triangles=1000)
            return meshes.volume(mesh)

        gradients = jax.grad(volume, argnums=(0, 1))(sdf, offsets)
        for _ in range(3):
            ways = rng.normal(size=sdf.shape), rng.normal(size=offsets.shape)
            h = 1e-6
            for i in range(2):
                steps = [h * way * (i == j) for j, way in enumerate(ways)]
                up = volume(sdf + steps[0], offsets + steps[1])
                down = volume(sdf - steps[0], offsets - steps[1])
                expected = np.sum(ways[i] * np.asarray(gradients[i]))
                assert (up - down) / (2 * h) == pytest.approx(expected, rel=1e-6)


def test_growing_adds_volume_at_the_rate_of_the_area():
    sdf = sphere(grid(24))

    def volume(level):
        return extracted(sdf - level, ROOM[24])[3]

    slope, area = jax.grad(volume)(0.0), 4 * np.pi * 0.6**2
    assert slope == pytest.approx(area, rel=0.01)


def test_values_of_zero_and_next_to_it_have_finite_vertices_and_gradients():
    sdf = np.ones((5, 5, 5), np.float32)
    sdf[1:4, 1:4, 1:4] = -1e-40  # no normal number: processors may take it for 0
    sdf[2, 2, 1:3] = 0
    sdf[2, 1, 2] = -1e-30

    @jax.jit
    def total(sdf):
        mesh, *_ = extracted(sdf, ROOM[4])
        normals = meshes.vertex_normals(mesh)
        return meshes.volume(mesh) + meshes.area(mesh) + jnp.sum(normals[:, 0])

    value, gradient = jax.value_and_grad(total)(sdf)
    assert np.isfinite(value)
    mesh, *_ = extract(sdf)
    assert np.all(np.isfinite(mesh.vertices)) and np.abs(mesh.vertices).max() <= 1
    assert np.all(np.isfinite(gradient))


def test_affine_values_are_interpolated_exactly():
    points = grid(12)
    sdf = torus(points)
    matrix = np.random.default_rng(4).normal(size=(3, 2))
    mesh, topology, *_ = extract(sdf)
    found = tetrahedra.interpolate(topology, sdf, jnp.asarray(points @ matrix + 1))
    np.testing.assert_allclose(found, mesh.vertices @ matrix + 1, atol=1e-5)


# --- Refusals -------------------------------------------------------------------------


def test_too_many_triangles_are_counted_and_refused():
    sdf = sphere(grid(12))
    mesh, *_ = extract(sdf)
    few, *_ = extracted(sdf, 100)
    assert few.triangles.shape == (100, 3) and few.vertices.shape == (62, 3)
    assert int(few.num_triangles) == int(mesh.num_triangles) > 1000
    with pytest.raises(UserError, match=r"has 1,344 triangles .* room for 100; give"):
        tetrahedra.check_fits(few)
    crowded = mesh._replace(num_vertices=jnp.int32(10_000))
    with pytest.raises(UserError, match=r"has 10,000 vertices .* for 2,560; give"):
        tetrahedra.check_fits(crowded)


def test_grids_that_are_no_cubes_are_refused():
    for shape in [(3, 3, 4), (3, 3), (1, 1, 1)]:
        with pytest.raises(UserError, match=r"a grid of shape \[.*\] is no cube; give"):
            tetrahedra.extract(jnp.zeros(shape), max_triangles=10)
