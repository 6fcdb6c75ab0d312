"""Exporting the surface of a scene as a mesh with colors."""

from pathlib import Path

import ddpm_jax
from ddpm_jax.recipe import Recipe, Scene
from ddpm_jax.requests import ExportMesh
from ddpm_jax.scenes.mesh_file import check_suffix, components, save_mesh


def export_mesh(recipe: Recipe[Scene], asked: ExportMesh, workdir: Path) -> Path:
    """Write the mesh of a trained scene.

    Args:
        recipe: of the scene.
        asked: how fine it is, and where to.
        workdir: folder of the run.

    Returns:
        The file.

    Raises:
        UserError: there is no scene, or it has no surface; or the file cannot be
            written.
    """
    del recipe
    path = workdir / "mesh.glb" if asked.to is None else Path(asked.to)
    check_suffix(path)
    model = ddpm_jax.load(workdir)
    mesh = model.to_mesh(asked.cells)
    save_mesh(path, mesh)
    _, shares = components(mesh)
    print(
        f"{path}: {len(mesh.triangles):,} triangles, {len(mesh.vertices):,} vertices, "
        f"{100 * shares[0]:.1f}% of the area in one piece, "
        f"{path.stat().st_size / 1e6:.2f} MB."
    )
    return path
