"""Files of meshes, read by trimesh: watertight, of the same volume and colors."""

import jax
import numpy as np
import pytest

from ddpm_jax.scenes import mesh as meshes
from ddpm_jax.scenes import mesh_file, tetrahedra

trimesh = pytest.importorskip("trimesh")


def torus():
    """A torus whose colors are its places."""

    @jax.jit
    def extract():
        points = tetrahedra.grid_points(16)
        x, y, z = (points[..., i] for i in range(3))
        sdf = jax.numpy.hypot(jax.numpy.hypot(x, z) - 0.55, y) - 0.3
        mesh, topology = tetrahedra.extract(sdf, max_triangles=8192)
        colors = 0.5 + 0.5 * tetrahedra.interpolate(topology, sdf, points)
        return mesh, colors, meshes.volume(mesh), meshes.area(mesh)

    return extract()


@pytest.mark.parametrize("suffix", mesh_file.SUFFIXES)
def test_reads_what_was_written(tmp_path, suffix):
    mesh, colors, volume, area = torus()
    written = mesh_file.weld(mesh, colors)
    mesh_file.save_mesh(tmp_path / f"torus{suffix}", written)
    scene = trimesh.load_scene(tmp_path / f"torus{suffix}", process=False)
    (read,) = scene.geometry.values()
    assert read.is_watertight and read.is_winding_consistent
    assert read.euler_number == 0 and read.body_count == 1
    assert read.volume == pytest.approx(float(volume), rel=1e-5)
    assert read.area == pytest.approx(float(area), rel=1e-5)
    np.testing.assert_allclose(read.vertices, written.vertices, atol=1e-6)
    np.testing.assert_array_equal(read.faces, written.triangles)
    # Of a file of text or without a material it makes normals of its own, by angles.
    normals = np.sum(read.vertex_normals * mesh_file.normals_of(written), axis=1)
    assert np.all(normals > np.cos(0.1))
    shown = written.colors.astype(np.float64)
    if suffix == ".glb":  # linear in light, which trimesh leaves as it is
        found = read.visual.vertex_attributes["color"]
        found = found / (65535 if found.dtype == np.uint16 else 1)
        shown = np.where(
            shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4
        )
        np.testing.assert_allclose(found[:, :3], shown, atol=1 / 65535)
    else:
        found = np.asarray(read.visual.vertex_colors)[:, :3] / 255.0
        np.testing.assert_allclose(found, shown, atol=1.01 / 255)
