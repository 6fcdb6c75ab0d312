"""A surface to be optimized: signed distance, offsets and colors on a grid -> images.

The fine stage of Magic3D: what a volume has become is taken over as the signed distance
of its surface (`from_volume`), and that, offsets of the grid points, and colors are
optimized through the images of the mesh that they make (`render`). All is one pure
function of `Surface` with a gradient, which signs of distances that change interrupt as
they must: triangles come and go.

Source: Lin et al. 2023, "Magic3D: High-Resolution Text-to-3D Content Creation", section
    3.2; Shen et al. 2021, "Deep Marching Tetrahedra", section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ddpm_jax.scenes import distance, raster
from ddpm_jax.scenes.cameras import Camera, Rays
from ddpm_jax.scenes.mesh import Mesh, edges_of, normal_consistency
from ddpm_jax.scenes.shading import Light
from ddpm_jax.scenes.tetrahedra import extract, interpolate, sealed

_LEAST_COLOR = 0.01  # and most 0.99, so that a color taken over has a slope


class Surface(NamedTuple):
    """What is optimized, at the points of a grid on [-1, 1]^3.

    Attributes:
        sdf: [N+1, N+1, N+1], signed distance, negative inside.
        offsets: [N+1, N+1, N+1, 3], of `tetrahedra.moved_points`: 0 on the grid.
        colors: [N+1, N+1, N+1, 3], log-odds: sigmoid makes colors in [0, 1] of them.
    """

    sdf: jax.Array
    offsets: jax.Array
    colors: jax.Array


class Images(NamedTuple):
    """What is seen of a surface, and the regularizer of its shape.

    Attributes:
        images: of cameras [...], leaves [..., H, W, ...].
        bending: [], of `mesh.normal_consistency`.
        mesh: without overflow only if `check_fits` passes it.
    """

    images: raster.Rendered
    bending: jax.Array
    mesh: Mesh


def from_volume(
    density: jax.Array,
    colors: jax.Array,
    rays: Rays,
    opacity: jax.Array,
    max_triangles: int,
) -> tuple[Surface, distance.Level]:
    """Take over a volume, not under `jit`.

    Args:
        density: [N+1, N+1, N+1], of the grid's points.
        colors: [N+1, N+1, N+1, 3] in [0, 1].
        rays: of images of the volume, leaves [..., 3].
        opacity: [...], of those images.
        max_triangles: the room for the surface's triangles.

    Raises:
        UserError: the volume has no surface, or one of more triangles.
    """
    sdf, level = distance.signed_distance(density, rays, opacity, max_triangles)
    shown = jnp.clip(colors, _LEAST_COLOR, 1.0 - _LEAST_COLOR)
    log_odds = jnp.log(shown) - jnp.log1p(-shown)
    return Surface(sdf, jnp.zeros_like(colors), log_odds), level


def to_mesh(surface: Surface, max_triangles: int) -> tuple[Mesh, jax.Array]:
    """Extract the closed mesh of a surface, and colors of its vertices.

    Args:
        surface: leaves [N+1, N+1, N+1, ...].
        max_triangles: K, the room for triangles; see `tetrahedra.check_fits`.

    Returns:
        The mesh, and colors [V, 3] in [0, 1].
    """
    sdf = sealed(surface.sdf)
    mesh, topology = extract(sdf, surface.offsets, max_triangles=max_triangles)
    return mesh, jax.nn.sigmoid(interpolate(topology, sdf, surface.colors))


def render(
    surface: Surface,
    camera: Camera,
    height: int,
    width: int,
    max_triangles: int,
    *,
    background: ArrayLike = 1.0,
    light: Light | None = None,
) -> Images:
    """Render the mesh of a surface, with a gradient in distances, offsets and colors.

    Args:
        surface: leaves [N+1, N+1, N+1, ...].
        camera: leaves [...].
        height: H.
        width: W.
        max_triangles: K, the room for triangles.
        background: the color where nothing is seen, [] or [3].
        light: what shades the colors, or None.
    """
    mesh, colors = to_mesh(surface, max_triangles)
    edges = edges_of(mesh.triangles)
    images = raster.render(
        mesh,
        colors,
        camera,
        height,
        width,
        background=background,
        light=light,
        edges=edges,
    )
    return Images(images, normal_consistency(mesh, edges), mesh)
