"""Exporting the surface of a scene as a mesh with colors."""

from pathlib import Path

import ddpm_jax
from ddpm_jax.assembly.idle import refuse_idle
from ddpm_jax.recipe import Recipe
from ddpm_jax.requests import ExportMesh
from ddpm_jax.scenes.mesh_file import check_suffix, components, save_mesh
from ddpm_jax.tasks.views import Distilled


def export_mesh(recipe: Recipe[Distilled], asked: ExportMesh, workdir: Path) -> Path:
    """Write the mesh of a trained scene, or of its refinement.

    Args:
        recipe: of the run.
        asked: where to, and how fine a scene's is; a refined surface has its own grid.
        workdir: folder of the run.

    Returns:
        The file.

    Raises:
        UserError: there is no scene, or it has no surface; an option does nothing; or
            the file cannot be written.
    """
    path = workdir / "mesh.glb" if asked.to is None else Path(asked.to)
    check_suffix(path)
    refuse_idle(recipe.task, asked)
    model = ddpm_jax.load(workdir)
    is_volume = "cells" in recipe.task.options
    mesh = model.to_mesh(asked.cells) if is_volume else model.to_mesh()
    save_mesh(path, mesh)
    _, shares = components(mesh)
    print(
        f"{path}: {len(mesh.triangles):,} triangles, {len(mesh.vertices):,} vertices, "
        f"{100 * shares[0]:.1f}% of the area in one piece, "
        f"{path.stat().st_size / 1e6:.2f} MB."
    )
    return path
