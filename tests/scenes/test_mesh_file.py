"""Files of meshes, byte by byte; tests/peers reads them by another program."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.scenes import mesh_file
from ddpm_jax.scenes.mesh import Mesh

CORNERS = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], np.float32)
QUADS = [(0, 4, 6, 2), (1, 3, 7, 5), (0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1)]
QUADS += [(4, 5, 7, 6)]
BOX = np.array([(q[0], q[i], q[i + 1]) for q in QUADS for i in (1, 2)], np.int32)


def extracted(vertices, triangles, room=5):
    """As it comes from the grid: with rows of padding."""
    padded = np.pad(triangles, ((0, room), (0, 0)))
    counts = jnp.int32(len(vertices)), jnp.int32(len(triangles))
    return Mesh(jnp.asarray(vertices), jnp.asarray(padded), *counts)


def box(corner=(0.0, 0.0, 0.0), size=1.0):
    return CORNERS * np.float32(size) + np.float32(corner)


def colored_box():
    return mesh_file.weld(extracted(box((-0.5, 2, 0)), BOX), CORNERS)


def test_equal_vertices_become_one():
    """Six squares apart, a triangle between equal places, and an unused vertex."""
    vertices = np.concatenate([CORNERS[list(q)] for q in QUADS] + [[[9.0, 9, 9]]])
    triangles = [(4 * s, 4 * s + i, 4 * s + i + 1) for s in range(6) for i in (1, 2)]
    same = [i for i, v in enumerate(vertices) if np.all(v == 0)][:2]
    triangles = np.array([*triangles, (same[0], same[1], 5)], np.int32)
    colors = np.clip(vertices, 0, 1) * 1.5 - 0.1
    mesh = mesh_file.weld(extracted(vertices.astype(np.float32), triangles), colors)
    assert mesh.vertices.shape == (8, 3) and mesh.triangles.shape == (12, 3)
    edges = np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    found = set(map(tuple, edges.tolist()))
    assert len(found) == 36 and found == {(b, a) for a, b in found}
    np.testing.assert_allclose(mesh.colors, np.where(mesh.vertices > 0, 1, 0))
    # The order of corners is kept: outward.
    normals = mesh_file.normals_of(mesh)
    assert np.all(np.sign(normals) == np.sign(mesh.vertices - 0.5))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-6)


def test_parts_and_floaters():
    """Three boxes of sides 1, .5 and .05: shares of the area as their squares."""
    places = [box((3, 0, 0), 0.05), box(), box((-3, 0, 0), 0.5)]
    triangles = np.concatenate([BOX + 8 * i for i in range(3)])
    triangles = np.random.default_rng(0).permutation(triangles)
    mesh = mesh_file.weld(extracted(np.concatenate(places), triangles), np.eye(24, 3))
    part, shares = mesh_file.components(mesh)
    expected = np.array([1, 0.25, 0.0025])
    np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-5)
    for i, x in enumerate((0, -3, 3)):
        corners = mesh.vertices[mesh.triangles[part == i]]
        assert len(corners) == 12
        assert np.all((corners[..., 0] >= x) & (corners[..., 0] <= x + 1))
    cleaned = mesh_file.without_floaters(mesh)
    assert len(cleaned.vertices) == 16 and cleaned.vertices[:, 0].max() == 1
    assert mesh_file.components(cleaned)[1].shape == (2,)
    # The largest part stays whatever is asked for.
    assert len(mesh_file.without_floaters(mesh, 0.99).vertices) == 8


def test_long_strips_are_one_part():
    num = 500
    order = np.random.default_rng(1).permutation(num + 2)
    strip = order[np.arange(num)[:, None] + np.arange(3)].astype(np.int32)
    places = np.random.default_rng(2).normal(size=(num + 2, 3)).astype(np.float32)
    mesh = mesh_file.ColoredMesh(places, strip, places)
    assert mesh_file.components(mesh)[1].shape == (1,)


def chunks(data):
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    at, found = 12, []
    while at < length:
        size, kind = struct.unpack_from("<I4s", data, at)
        assert size % 4 == 0
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


def arrays_of(data):
    """Read accessors by the tables of the glTF specification."""
    (json_kind, text), (binary_kind, binary) = chunks(data)
    assert (json_kind, binary_kind) == (b"JSON", b"BIN\0")
    content = json.loads(text)
    assert content["asset"]["version"] == "2.0"
    assert content["buffers"] == [{"byteLength": len(binary)}]
    types = {5126: "<f4", 5123: "<u2", 5125: "<u4"}
    widths = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
    arrays = []
    for accessor in content["accessors"]:
        view = content["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        end = view["byteOffset"] + view["byteLength"]
        dtype = types[accessor["componentType"]]
        array = np.frombuffer(binary[view["byteOffset"] : end], dtype)
        array = array.reshape(-1, widths[accessor["type"]])
        assert len(array) == accessor["count"]
        arrays.append(array)
    return content, arrays


def test_glb(tmp_path):
    mesh = colored_box()
    mesh_file.save_mesh(tmp_path / "box.glb", mesh)
    content, arrays = arrays_of((tmp_path / "box.glb").read_bytes())
    (primitive,) = content["meshes"][0]["primitives"]
    names = primitive["attributes"]
    assert content["scenes"][content["scene"]]["nodes"] == [0]
    position = content["accessors"][names["POSITION"]]
    assert (position["min"], position["max"]) == ([-0.5, 2, 0], [0.5, 3, 1])
    np.testing.assert_array_equal(arrays[names["POSITION"]], mesh.vertices)
    np.testing.assert_array_equal(arrays[names["NORMAL"]], mesh_file.normals_of(mesh))
    triangles = arrays[primitive["indices"]].reshape(-1, 3)
    np.testing.assert_array_equal(triangles, mesh.triangles)
    assert arrays[primitive["indices"]].dtype == np.uint16
    color = content["accessors"][names["COLOR_0"]]
    assert color["normalized"] is True
    np.testing.assert_array_equal(
        arrays[names["COLOR_0"]],
        np.hstack([65535 * mesh.colors, np.full((8, 1), 65535)]),
    )


def test_colors_of_glb_are_linear(tmp_path):
    """Half of sRGB is .2140 of the light (IEC 61966-2-1); .04 is below the bend."""
    mesh = colored_box()._replace(colors=np.tile([0.5, 0.04, 1.0], (8, 1)))
    mesh_file.save_mesh(tmp_path / "a.glb", mesh)
    content, arrays = arrays_of((tmp_path / "a.glb").read_bytes())
    names = content["meshes"][0]["primitives"][0]["attributes"]
    light = arrays[names["COLOR_0"]][0] / 65535
    np.testing.assert_allclose(light, [0.21404, 0.04 / 12.92, 1, 1], atol=1e-5)


def test_many_vertices_have_wide_indices(tmp_path):
    num = 65536
    vertices = np.zeros((num, 3), np.float32)
    triangles = np.array([[0, 1, num - 1]], np.int32)
    mesh = mesh_file.ColoredMesh(vertices, triangles, vertices)
    mesh_file.save_mesh(tmp_path / "a.glb", mesh)
    content, arrays = arrays_of((tmp_path / "a.glb").read_bytes())
    indices = arrays[content["meshes"][0]["primitives"][0]["indices"]]
    assert indices.dtype == np.uint32 and indices[2] == num - 1


def test_obj(tmp_path):
    mesh = colored_box()
    mesh_file.save_mesh(tmp_path / "box.OBJ", mesh)
    lines = [line.split() for line in (tmp_path / "box.OBJ").read_text().splitlines()]
    rows = {key: [x[1:] for x in lines if x[0] == key] for key in ("v", "vn", "f")}
    assert sum(map(len, rows.values())) == len(lines)
    np.testing.assert_allclose(
        np.array(rows["v"], float), np.hstack([mesh.vertices, mesh.colors])
    )
    normals = mesh_file.normals_of(mesh)
    np.testing.assert_allclose(np.array(rows["vn"], float), normals, atol=1e-4)
    pairs = np.array([[c.split("//") for c in face] for face in rows["f"]], int)
    np.testing.assert_array_equal(pairs[..., 0], mesh.triangles + 1)
    np.testing.assert_array_equal(pairs[..., 0], pairs[..., 1])


def test_ply(tmp_path):
    mesh = colored_box()
    mesh_file.save_mesh(tmp_path / "box.ply", mesh)
    header, _, body = (tmp_path / "box.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 8",
    ]
    assert lines[-2:] == [
        "element face 12",
        "property list uchar int vertex_indices",
    ]
    vertex = np.dtype([("numbers", "<f4", 6), ("color", "u1", 3)])
    face = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
    assert len(body) == 8 * vertex.itemsize + 12 * face.itemsize
    vertices = np.frombuffer(body, vertex, 8)
    faces = np.frombuffer(body, face, 12, 8 * vertex.itemsize)
    np.testing.assert_array_equal(vertices["numbers"][:, :3], mesh.vertices)
    np.testing.assert_array_equal(vertices["color"], 255 * mesh.colors)
    np.testing.assert_array_equal(faces["corners"], mesh.triangles)
    assert np.all(faces["count"] == 3)


def test_refusals(tmp_path):
    with pytest.raises(UserError, match=r"a\.stl is no mesh by its name; end it in"):
        mesh_file.save_mesh(tmp_path / "a.stl", colored_box())
    empty = extracted(box(), np.zeros((0, 3), np.int32))
    with pytest.raises(UserError, match="has no triangles: the scene is empty"):
        mesh_file.weld(empty, CORNERS)
    vertices = box()
    vertices[3, 1] = np.nan
    with pytest.raises(UserError, match="vertices that are not finite"):
        mesh_file.weld(extracted(vertices, BOX), CORNERS)
