"""Meshes: sums over triangles, edges and normals of solids known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.scenes import mesh as meshes

# The quadrilaterals of a box, counterclockwise from outside; corner x + 2 y + 4 z.
QUADS = [(0, 4, 6, 2), (1, 3, 7, 5), (0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1)]
QUADS += [(4, 5, 7, 6)]
SIZE = np.array([1.0, 2.0, 3.0])


def mesh_of(vertices, triangles, room=0):
    """A mesh with rows of padding."""
    counts = jnp.int32(len(vertices)), jnp.int32(len(triangles))
    vertices = np.pad(np.asarray(vertices, float), ((0, room), (0, 0)))
    triangles = np.pad(np.asarray(triangles, np.int32), ((0, room), (0, 0)))
    return meshes.Mesh(jnp.asarray(vertices), jnp.asarray(triangles), *counts)


def box(room=0):
    corners = [[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]
    split = [(q[0], q[i], q[i + 1]) for q in QUADS for i in (1, 2)]
    return mesh_of(corners * SIZE + 5.0, split, room)


def test_box():
    mesh = box(room=4)
    assert float(meshes.area(mesh)) == pytest.approx(22.0)
    assert float(meshes.volume(mesh)) == pytest.approx(6.0)  # wherever it stands
    vectors = np.asarray(meshes.area_vectors(mesh))
    np.testing.assert_allclose(vectors.sum(0), 0, atol=1e-6)  # it is closed
    np.testing.assert_array_equal(vectors[12:], 0)
    inside_out = mesh._replace(triangles=mesh.triangles[:, ::-1])
    assert float(meshes.volume(inside_out)) == pytest.approx(-6.0)


def test_normals_of_vertices_weigh_triangles_by_area():
    """A corner of one triangle in the plane x = 0 and one in y = 0, twice as large."""
    mesh = mesh_of([[0, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0]], [(0, 1, 2), (0, 2, 3)])
    normals = meshes.vertex_normals(mesh)
    np.testing.assert_allclose(normals[0], np.array([1, 2, 0]) / 5**0.5, rtol=1e-6)
    np.testing.assert_allclose(normals[1], [1, 0, 0], rtol=1e-6)


def test_edges_know_both_triangles():
    mesh = box(room=4)
    edges = meshes.edges_of(mesh.triangles)
    rows = np.asarray(edges.is_edge)
    assert rows.sum() == 18
    triangles = np.asarray(mesh.triangles)
    for ends, faces, opposite in zip(
        np.asarray(edges.ends)[rows],
        np.asarray(edges.faces)[rows],
        np.asarray(edges.opposite)[rows],
        strict=True,
    ):
        assert faces[0] != faces[1] and ends[0] < ends[1]
        for face, vertex in zip(faces, opposite, strict=True):
            assert {*ends.tolist(), int(vertex)} == set(triangles[face].tolist())
    assert len({tuple(e) for e in np.asarray(edges.ends)[rows].tolist()}) == 18


def test_edges_of_a_boundary_have_one_triangle():
    edges = meshes.edges_of(jnp.asarray([[4, 2, 7], [2, 4, 9], [0, 0, 0]]))
    rows = np.asarray(edges.is_edge)
    found = {
        tuple(e): (tuple(f), tuple(o))
        for e, f, o in zip(
            np.asarray(edges.ends)[rows].tolist(),
            np.asarray(edges.faces)[rows].tolist(),
            np.asarray(edges.opposite)[rows].tolist(),
            strict=True,
        )
    }
    assert found == {
        (2, 4): ((0, 1), (7, 9)),
        (2, 7): ((0, -1), (4, 4)),
        (4, 7): ((0, -1), (2, 2)),
        (4, 9): ((1, -1), (2, 2)),
        (2, 9): ((1, -1), (4, 4)),
    }


def test_normal_consistency_of_a_box():
    """Right angles count 1, the diagonals of flat faces 0; all by their lengths."""
    mesh = box(room=4)
    sides = 4 * SIZE.sum()
    diagonals = 2 * sum(np.hypot(SIZE[i], SIZE[i - 1]) for i in range(3))
    found = meshes.normal_consistency(mesh, meshes.edges_of(mesh.triangles))
    assert float(found) == pytest.approx(sides / (sides + diagonals))


def test_normal_consistency_of_a_fold():
    """Two triangles at an angle: 1 - cos; their other edges have one triangle."""
    for angle in (0.0, 0.5, 2.0):
        tip = [-np.cos(angle), 0, np.sin(angle)]
        mesh = mesh_of(
            [[0, -1, 0], [0, 1, 0], [1, 0, 0], tip], [(0, 2, 1), (0, 1, 3)], room=2
        )
        found = meshes.normal_consistency(mesh, meshes.edges_of(mesh.triangles))
        assert float(found) == pytest.approx(1 - np.cos(angle), abs=1e-6)


def test_gradients_are_finite_differences():
    """Of area and smoothness, with padding and a triangle without area."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        mesh = box(room=4)
        flat = jnp.asarray(mesh.triangles).at[12].set(jnp.asarray([3, 3, 7], jnp.int32))
        mesh = mesh._replace(
            triangles=flat, vertices=mesh.vertices + 0.1 * rng.normal(size=(12, 3))
        )
        edges = meshes.edges_of(mesh.triangles.at[12].set(0))

        @jax.jit
        def loss(vertices):
            moved = mesh._replace(vertices=vertices)
            normals = meshes.vertex_normals(moved)
            return (
                meshes.normal_consistency(moved, edges)
                + meshes.area(moved)
                + jnp.sum(normals[:, 1])
            )

        gradient = np.asarray(jax.grad(loss)(mesh.vertices))
        way = rng.normal(size=gradient.shape)
        h = 1e-6
        slope = (loss(mesh.vertices + h * way) - loss(mesh.vertices - h * way)) / 2 / h
        assert float(slope) == pytest.approx(np.sum(gradient * way), rel=1e-6)
