"""Files of meshes with colored vertices: .glb, .obj and .ply.

    .glb   binary glTF 2.0: what browsers, Blender and phones open
    .obj   text; colors behind the positions, as MeshLab and Blender read them
    .ply   binary; bytes of color

All have positions, normals and colors of vertices, which triangles share, so that a
closed surface is closed in the file too. The axes are those of the scene, which are
glTF's: right-handed, y up, the front towards +z.

Colors in a scene are as they are shown (sRGB), and so they are in .obj and .ply. Those
of glTF are linear in light, and are converted ([G], 3.7.2.1; IEC 61966-2-1).

Source:
    [G] Khronos 2021, "glTF 2.0 Specification", sections 3.6, 3.7 and 4.4.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.scenes.mesh import Mesh

# Of glTF: [G] tables of 3.6.2.2 and 5.11.
_FLOAT, _UNSIGNED_SHORT, _UNSIGNED_INT = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963
_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942


class ColoredMesh(NamedTuple):
    """A mesh as it is written: no padding, no vertex twice, no triangle without three.

    Attributes:
        vertices: float32 [V, 3].
        triangles: int32 [K, 3], counterclockwise from outside.
        colors: float32 [V, 3] in [0, 1], as they are shown.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    colors: np.ndarray


# --- Cleaning -------------------------------------------------------------------------


def _used(
    vertices: np.ndarray, triangles: np.ndarray, colors: np.ndarray
) -> ColoredMesh:
    """Leave out vertices of no triangle."""
    used, numbers = np.unique(triangles, return_inverse=True)
    numbers = numbers.reshape(triangles.shape).astype(np.int32)
    return ColoredMesh(vertices[used], numbers, colors[used])


def weld(mesh: Mesh, colors: np.ndarray) -> ColoredMesh:
    """Take a mesh to NumPy: without padding, and with equal vertices made one.

    Vertices are equal where the surface passes through a grid point to the last bit;
    triangles between them have no area and are left out.

    Args:
        mesh: vertices [V, 3].
        colors: [V, 3] in [0, 1]; others are clipped.

    Raises:
        UserError: the mesh has no triangles, or numbers that are not finite.
    """
    triangles = np.asarray(mesh.triangles)[: int(mesh.num_triangles)]
    vertices = np.asarray(mesh.vertices, np.float32) + np.float32(0)  # no -0
    if not np.all(np.isfinite(vertices[triangles])):
        raise UserError("the mesh has vertices that are not finite; train with less.")
    places, first, same = np.unique(
        vertices, axis=0, return_index=True, return_inverse=True
    )
    triangles = same.reshape(-1)[triangles]
    has_area = np.all(triangles != np.roll(triangles, 1, axis=1), axis=1)
    if not np.any(has_area):
        raise UserError(
            "the mesh has no triangles: the scene is empty, or full; there is nothing"
            " to write."
        )
    shown = np.clip(np.asarray(colors, np.float32)[first], 0.0, 1.0)
    return _used(places, triangles[has_area], shown)


def _area_vectors(mesh: ColoredMesh) -> np.ndarray:
    a, b, c = np.moveaxis(mesh.vertices.astype(np.float64)[mesh.triangles], 1, 0)
    return 0.5 * np.cross(b - a, c - a)


def components(mesh: ColoredMesh) -> tuple[np.ndarray, np.ndarray]:
    """Find the connected parts of a mesh.

    Args:
        mesh: vertices [V, 3], triangles [K, 3].

    Returns:
        int [K], the part of each triangle, the largest being 0; and float64 [parts],
        their shares of the area, falling.
    """
    label = np.arange(len(mesh.vertices))
    while True:  # each vertex takes the lowest label around, then that one's label
        lowest = label[mesh.triangles].min(axis=1)
        smaller = label.copy()
        np.minimum.at(smaller, mesh.triangles, lowest[:, None])
        smaller = smaller[smaller]
        if np.array_equal(smaller, label):
            break
        label = smaller
    _, part = np.unique(label[mesh.triangles[:, 0]], return_inverse=True)
    areas = np.bincount(part, np.linalg.norm(_area_vectors(mesh), axis=1))
    order = np.argsort(-areas, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[part], areas[order] / areas.sum()


def without_floaters(mesh: ColoredMesh, least_share: float = 0.01) -> ColoredMesh:
    """Leave out parts with less than a share of the area; the largest stays.

    Args:
        mesh: vertices [V, 3].
        least_share: of the whole area.
    """
    part, shares = components(mesh)
    stays = (shares >= least_share) | (np.arange(len(shares)) == 0)
    return _used(mesh.vertices, mesh.triangles[stays[part]], mesh.colors)


def normals_of(mesh: ColoredMesh) -> np.ndarray:
    """Return unit normals of vertices, float32 [V, 3]: means of triangles' by area."""
    sums = np.zeros((len(mesh.vertices), 3))
    np.add.at(sums, mesh.triangles, _area_vectors(mesh)[:, None])
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    # [G] wants unit vectors of all: where the sum is 0, any will do.
    up = np.array([0.0, 1.0, 0.0])
    return np.where(length > 0, sums / np.where(length > 0, length, 1), up).astype("f4")


# --- Formats --------------------------------------------------------------------------


def _linear(colors: np.ndarray) -> np.ndarray:
    """Return sRGB values as shares of light, both in [0, 1]."""
    return np.where(
        colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4
    )


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % 4)


def _write_glb(mesh: ColoredMesh, file: BinaryIO) -> None:
    """Write binary glTF: [G] 4.4, a header, a chunk of JSON and one of arrays."""
    num = len(mesh.vertices)
    color = np.ones((num, 4))
    color[:, :3] = _linear(mesh.colors.astype(np.float64))
    short = num <= 65535  # 65535 itself is no index: [G] 3.7.2.1
    arrays = [  # array, type of its components, shape, what for
        (mesh.vertices.astype("<f4"), _FLOAT, "VEC3", _VERTICES),
        (normals_of(mesh).astype("<f4"), _FLOAT, "VEC3", _VERTICES),
        (np.rint(65535 * color).astype("<u2"), _UNSIGNED_SHORT, "VEC4", _VERTICES),
        (
            mesh.triangles.astype("<u2" if short else "<u4").reshape(-1),
            _UNSIGNED_SHORT if short else _UNSIGNED_INT,
            "SCALAR",
            _INDICES,
        ),
    ]
    binary = b""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    for array, component, shape, target in arrays:
        data = array.tobytes()
        views.append(
            {
                "buffer": 0,
                "byteOffset": len(binary),
                "byteLength": len(data),
                "target": target,
            }
        )
        accessor: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": component,
            "count": len(array),
            "type": shape,
        }
        accessors.append(accessor)
        binary = _padded(binary + data, b"\0")
    accessors[0]["min"] = mesh.vertices.min(axis=0).tolist()
    accessors[0]["max"] = mesh.vertices.max(axis=0).tolist()
    accessors[2]["normalized"] = True
    primitive = {
        "attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2},
        "indices": 3,
        "material": 0,
    }
    surface = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    content = {
        "asset": {"version": "2.0", "generator": "ddpm_jax"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [surface],
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = _padded(json.dumps(content, separators=(",", ":")).encode(), b" ")
    whole = 12 + 8 + len(text) + 8 + len(binary)
    file.write(struct.pack("<III", _MAGIC, 2, whole))
    file.write(struct.pack("<II", len(text), _JSON) + text)
    file.write(struct.pack("<II", len(binary), _BINARY) + binary)


def _write_obj(mesh: ColoredMesh, file: BinaryIO) -> None:
    """Write Wavefront's text, with colors after the positions; indices begin at 1."""
    np.savetxt(
        file, np.hstack([mesh.vertices, mesh.colors]), "v %.7g %.7g %.7g %.4f %.4f %.4f"
    )
    np.savetxt(file, normals_of(mesh), "vn %.4f %.4f %.4f")
    pairs = np.repeat(mesh.triangles + 1, 2, axis=1)  # position and normal
    np.savetxt(file, pairs, "f %d//%d %d//%d %d//%d")


def _write_ply(mesh: ColoredMesh, file: BinaryIO) -> None:
    """Write the Stanford format, little-endian."""
    names = ["x", "y", "z", "nx", "ny", "nz"]
    vertices = np.zeros(
        len(mesh.vertices),
        [(name, "<f4") for name in names]
        + [(name, "u1") for name in ("red", "green", "blue")],
    )
    numbers = np.hstack([mesh.vertices, normals_of(mesh)])
    for i, name in enumerate(names):
        vertices[name] = numbers[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        vertices[name] = np.rint(255 * mesh.colors[:, i])
    faces = np.zeros(len(mesh.triangles), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.triangles
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}",
        *(f"property float {name}" for name in names),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    file.write("\n".join([*header, ""]).encode())
    file.write(vertices.tobytes() + faces.tobytes())


_FORMATS: dict[str, Callable[[ColoredMesh, BinaryIO], None]] = {
    ".glb": _write_glb,
    ".obj": _write_obj,
    ".ply": _write_ply,
}
SUFFIXES = tuple(_FORMATS)
"""Of the files that can be written."""


def check_suffix(path: str | Path) -> None:
    """Refuse the name of a file of another format.

    Raises:
        UserError: it has another suffix, or none.
    """
    if Path(path).suffix.lower() not in _FORMATS:
        raise UserError(
            f"{files.printable(path)} is no mesh by its name; end it in .glb (for"
            " browsers and Blender), .obj or .ply."
        )


def save_mesh(path: str | Path, mesh: ColoredMesh) -> None:
    """Write a mesh in the format that the file's suffix says.

    Args:
        path: ends in one of `SUFFIXES`.
        mesh: vertices [V, 3].

    Raises:
        UserError: the suffix is another, or the file cannot be written.
    """
    check_suffix(path)
    write = _FORMATS[Path(path).suffix.lower()]
    files.write(path, lambda file: write(mesh, file))
