"""Rasterization of meshes: visibility without gradient, shading and outlines with it.

Three parts, as in Laine et al. 2020, "Modular Primitives for High-Performance
Differentiable Rendering" (nvdiffrast):

    rasterize    the nearest triangle of each pixel, by trying all; no gradient
                 Where it is hit, and how deep, of that triangle alone, has one
    at_pixels    whatever is interpolated between its corners; with gradient (deferred
                 shading)
    antialias    blends neighbouring pixels where an outline passes between their
                 centers, by where it passes: without it, no pixel's color would change
                 when an outline moves, and shapes could not be learned from images

**Visibility** needs no perspective division (Olano, Greer 1997, "Triangle Scan
Conversion using 2D Homogeneous Coordinates"). In coordinates (right, up, depth) of the
camera let v_i be the corners, d the ray of a pixel with depth 1 and n_i = v_j x v_k.
Then d = sum_i (d . n_i) v_i / det, so that the ray meets the triangle where the three
d . n_i have the sign of the determinant det, the barycentric coordinates are in the
ratio of d . n_i, and 1 / depth is their sum over det. All are linear in d.

**Outlines.** A pixel pair that sees different triangles is blended if a silhouette edge
crosses the line between the centers: an edge of one triangle only, or of two that are
seen on the same side of it. If it crosses at t in [0, 1] of the way from p to q, the
color of p reaches up to t: for t > 1/2 pixel q is given t - 1/2 of p's color, for
t < 1/2 pixel p is given 1/2 - t of q's. An edge that is rather upright blends pairs
within a row, one that is rather level pairs within a column; so each piece of an
outline counts once, and covered areas are those of the midpoint rule, of order 2 in the
size of a pixel. Where several edges cross, the nearest one that lies in front of what
the farther pixel sees is taken; nvdiffrast looks among the edges of the nearer pixel's
triangle instead, and misses outlines of triangles smaller than a pixel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ddpm_jax.scenes.cameras import Camera, image_plane, in_camera
from ddpm_jax.scenes.mesh import (
    Edges,
    Mesh,
    area_vectors,
    edges_of,
    normalized,
    vertex_normals,
)
from ddpm_jax.scenes.shading import Light, shade

_AT_ONCE = 8  # triangles in one pass over the pixels


class Fragments(NamedTuple):
    """What each pixel sees of a mesh.

    Attributes:
        triangle: int32 [H, W], a row of the mesh's triangles; -1 where there is none.
        barycentrics: [H, W, 3], weights of its corners, which sum to 1; 0 where there
            is none. Perspective-correct.
        depth: [H, W], along the view axis; inf where there is none.
    """

    triangle: jax.Array
    barycentrics: jax.Array
    depth: jax.Array


class Rendered(NamedTuple):
    """Images of a mesh, of cameras [...], antialiased.

    Attributes:
        color: [..., H, W, D].
        opacity: [..., H, W], the covered share of each pixel.
        depth: [..., H, W], along the view axis, of the nearest surface at the center
            of a pixel; inf where there is none. Not antialiased: it is no color.
        normal: [..., H, W, 3], outward unit normals of the triangles there; 0 where
            there is none. Not antialiased.
    """

    color: jax.Array
    opacity: jax.Array
    depth: jax.Array
    normal: jax.Array


def _pixel_rays(camera: Camera, height: int, width: int) -> jax.Array:
    """Return the rays through the centers of pixels, of depth 1, [H, W, 3]."""
    x, y = jnp.broadcast_arrays(*image_plane(camera, height, width))
    return jnp.stack([x, y, jnp.ones_like(x)], axis=-1)


def _in_pixels(camera: Camera, seen: jax.Array, height: int, width: int) -> jax.Array:
    """Return where points [N, 3] of `in_camera` are in the image, [N, 2].

    In pixels to the right and down from its corner; row i's center is at i + 1/2.
    """
    half = jnp.tan(0.5 * camera.field_of_view)
    scale = 0.5 * height / half / seen[:, 2]
    return jnp.stack(
        [0.5 * width + scale * seen[:, 0], 0.5 * height - scale * seen[:, 1]], axis=-1
    )


# --- Visibility -----------------------------------------------------------------------


def _edge_planes(corners: jax.Array, triangles: jax.Array) -> jax.Array:
    """Return n_i = v_j x v_k, [..., 3, 3], of the three edges opposite to the corners.

    As v_j x (v_k - v_j), so that a triangle much smaller than its distance has planes
    of its own and not of rounding. Of an edge that two triangles share, both have the
    same numbers with opposite signs, to the last bit, since the numbers of its vertices
    decide which is v_j: so no ray slips between them.

    Args:
        corners: [..., 3, 3], of `in_camera`.
        triangles: int32 [..., 3], the vertices.
    """
    one, other = jnp.roll(corners, -1, axis=-2), jnp.roll(corners, -2, axis=-2)
    is_ahead = jnp.roll(triangles, -1, axis=-1) < jnp.roll(triangles, -2, axis=-1)
    is_ahead = is_ahead[..., None]
    begin, end = jnp.where(is_ahead, one, other), jnp.where(is_ahead, other, one)
    normal = jnp.cross(begin, end - begin)
    return jnp.where(is_ahead, normal, -normal)


def _nearest(seen: jax.Array, triangles: jax.Array, rays: jax.Array) -> jax.Array:
    """Return the nearest triangle of each ray [H, W, 3], int32 [H, W], or -1."""
    corners = seen[triangles]
    begin = corners[:, 0]
    normal = jnp.cross(corners[:, 1] - begin, corners[:, 2] - begin)  # sum of the n_i
    determinant = jnp.sum(begin * normal, axis=-1)
    is_flat = determinant == 0
    turn = jnp.sign(determinant)[:, None]
    planes = _edge_planes(corners, triangles) * turn[..., None]
    per_depth = normal / jnp.where(is_flat, 1.0, determinant)[:, None]
    # Seen edge-on, a triangle's 1 / depth is noise; it lies between those of corners.
    is_ahead = jnp.all(corners[..., 2] > 0, axis=1)
    depths = jnp.where(is_ahead[:, None], corners[..., 2], 1.0)
    least = jnp.where(is_ahead, 1.0 / jnp.max(depths, axis=1), 0.0)
    most = jnp.where(is_ahead, 1.0 / jnp.min(depths, axis=1), jnp.inf)
    least, most = jnp.where(is_flat, 0.0, least), jnp.where(is_flat, 0.0, most)

    num = triangles.shape[0]
    rows = jnp.concatenate(
        [planes.reshape(num, 9), per_depth, least[:, None], most[:, None]], axis=1
    )
    rows = jnp.pad(rows, ((0, -num % _AT_ONCE), (0, 0)))  # no hit: 1 / depth is 0
    x, y = rays[..., 0], rays[..., 1]

    def closer(best, chunk):
        """Go through some triangles, all pixels at once: a loop that vectorizes."""
        inverse_depth, triangle, first = best
        for i in range(_AT_ONCE):
            r = chunk[i]
            hit = (r[0] * x + r[1] * y + r[2] >= 0) & (r[3] * x + r[4] * y + r[5] >= 0)
            hit &= r[6] * x + r[7] * y + r[8] >= 0
            found = jnp.clip(r[9] * x + r[10] * y + r[11], r[12], r[13])
            hit &= found > inverse_depth
            inverse_depth = jnp.where(hit, found, inverse_depth)
            triangle = jnp.where(hit, first + i, triangle)
        return (inverse_depth, triangle, first + _AT_ONCE), None

    start = jnp.zeros_like(x), jnp.full(x.shape, -1, jnp.int32), jnp.int32(0)
    (_, nearest, _), _ = jax.lax.scan(
        closer, start, rows.reshape(-1, _AT_ONCE, rows.shape[1])
    )
    return nearest


def rasterize(mesh: Mesh, camera: Camera, height: int, width: int) -> Fragments:
    """Find what each pixel sees of a mesh, from both sides of its triangles.

    Which triangle has no gradient; where it is hit, and how deep, has.

    Args:
        mesh: vertices [V, 3].
        camera: leaves [].
        height: H.
        width: W.
    """
    seen = in_camera(camera, mesh.vertices)
    rays = _pixel_rays(camera, height, width)
    triangle = _nearest(*jax.lax.stop_gradient((seen, mesh.triangles, rays)))
    is_hit = triangle >= 0
    vertices = mesh.triangles[jnp.maximum(triangle, 0)]  # [H, W, 3]
    corners = seen[vertices]
    planes = _edge_planes(corners, vertices)
    weights = jnp.sum(planes * rays[..., None, :], axis=-1)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    is_thick = is_hit[..., None] & (jnp.abs(total) > jnp.finfo(total.dtype).tiny)
    weights = jnp.where(is_thick, weights / jnp.where(is_thick, total, 1.0), 1 / 3)
    weights = jnp.where(is_hit[..., None], weights, 0.0)
    depth = jnp.sum(weights * corners[..., 2], axis=-1)
    return Fragments(triangle, weights, jnp.where(is_hit, depth, jnp.inf))


def at_pixels(fragments: Fragments, mesh: Mesh, values: jax.Array) -> jax.Array:
    """Interpolate values at vertices to the pixels, with gradient.

    Args:
        fragments: of `rasterize`, [H, W].
        mesh: the same.
        values: [V, D].

    Returns:
        [H, W, D]; 0 where nothing is seen.
    """
    corners = mesh.triangles[jnp.maximum(fragments.triangle, 0)]
    return jnp.sum(fragments.barycentrics[..., None] * values[corners], axis=-2)


# --- Outlines -------------------------------------------------------------------------


def _silhouettes(places: jax.Array, seen: jax.Array, edges: Edges) -> jax.Array:
    """Return whether edges are seen as outlines, bool [E].

    Args:
        places: [V, 2], in pixels.
        seen: [V, 3], of `in_camera`.
        edges: of the mesh.
    """
    a, b = places[edges.ends[:, 0]], places[edges.ends[:, 1]]
    along = b - a

    def side(vertex: jax.Array) -> jax.Array:
        to = places[vertex] - a
        return along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0]

    one, other = (side(edges.opposite[:, i]) for i in range(2))
    is_ahead = jnp.all(seen[edges.ends][..., 2] > 0, axis=1)
    return edges.is_edge & is_ahead & (one * other > 0)


class _Lines(NamedTuple):
    """Outline edges, as seen by pairs within rows."""

    places: jax.Array  # [S, 2, 2], ends in pixels (across, along the rows' axis)
    inverse_depths: jax.Array  # [S, 2]
    is_line: jax.Array  # bool [S]


def _crossings(lines: _Lines, depth: jax.Array, triangle: jax.Array) -> jax.Array:
    """Find the outline between each pixel and its right neighbour.

    Args:
        lines: outlines that are rather upright.
        depth: [H, W], as seen by pixels.
        triangle: int32 [H, W].

    Returns:
        int32 [H, W - 1], rows of `lines`, or -1.
    """
    height, width = depth.shape
    pairs = width - 1
    centers = jnp.arange(height) + 0.5
    (a, b) = lines.places[:, 0], lines.places[:, 1]
    is_before = [end[:, 1:] <= centers for end in (a, b)]  # [S, H]
    crosses = lines.is_line[:, None] & (is_before[0] != is_before[1])
    rise = jnp.where(b[:, 1] == a[:, 1], 1.0, b[:, 1] - a[:, 1])[:, None]
    share = jnp.clip((centers - a[:, 1:]) / rise, 0.0, 1.0)
    across = a[:, :1] + share * (b[:, :1] - a[:, :1])
    # 1 / depth is linear in the image.
    one, other = lines.inverse_depths[:, :1], lines.inverse_depths[:, 1:]
    inverse_depth = one + share * (other - one)
    left = jnp.floor(across - 0.5)
    crosses &= (left >= 0) & (left < pairs)
    place = jnp.arange(height) * pairs + jnp.where(crosses, left, 0).astype(jnp.int32)
    behind = 1.0 / jnp.maximum(depth[:, :-1], depth[:, 1:])
    differs = triangle[:, :-1] != triangle[:, 1:]
    crosses &= differs.reshape(-1)[place] & (inverse_depth > behind.reshape(-1)[place])
    # The nearest of each pair; of equal ones, the last.
    nowhere = height * pairs
    place = jnp.where(crosses, place, nowhere)
    nearest = jnp.zeros(nowhere + 1, depth.dtype).at[place].max(inverse_depth)
    number = jnp.arange(a.shape[0], dtype=jnp.int32)[:, None]
    # Compiled twice, the same sum may differ in its last bit.
    is_nearest = inverse_depth >= (1.0 - 1e-5) * nearest[place]
    number = jnp.where(crosses & is_nearest, number, -1)
    chosen = jnp.full(nowhere + 1, -1, jnp.int32).at[place].max(number)
    return chosen[:-1].reshape(height, pairs)


def _blend_rows(
    image: jax.Array, lines: _Lines, depth: jax.Array, triangle: jax.Array
) -> jax.Array:
    """Return what antialiasing of pairs within rows adds to an image, [H, W, D]."""
    height, width = depth.shape
    stopped = jax.lax.stop_gradient((lines, depth))
    chosen = _crossings(*stopped, triangle)
    is_crossed = chosen >= 0
    ends = lines.places[jnp.maximum(chosen, 0)]  # [H, W - 1, 2, 2]
    a, b = ends[..., 0, :], ends[..., 1, :]
    rise = jnp.where(is_crossed, b[..., 1] - a[..., 1], 1.0)
    centers = jnp.arange(height, dtype=depth.dtype)[:, None] + 0.5
    across = a[..., 0] + (centers - a[..., 1]) / rise * (b[..., 0] - a[..., 0])
    past = across - (jnp.arange(width - 1, dtype=depth.dtype) + 1.0)  # t - 1/2
    past = jnp.where(is_crossed, past, 0.0)[..., None]
    change = past * (image[:, :-1] - image[:, 1:])
    none = jnp.zeros_like(image[:, :1])
    # Of a crossing at t > 1/2 the right pixel changes, of one before it the left one.
    to_right = jnp.concatenate([none, jnp.where(past > 0, change, 0.0)], axis=1)
    to_left = jnp.concatenate([jnp.where(past > 0, 0.0, change), none], axis=1)
    return to_right + to_left


def antialias(
    image: jax.Array, fragments: Fragments, mesh: Mesh, edges: Edges, camera: Camera
) -> jax.Array:
    """Blend pixels along outlines, which gives these a gradient.

    Args:
        image: [H, W, D], background included.
        fragments: of `rasterize`, of the same mesh and camera.
        mesh: vertices [V, 3]; there is room for K / 2 outline edges, a third of those
            of a closed mesh, and for 1,000 if K is small. Others are not blended.
        edges: of its triangles.
        camera: leaves [].

    Returns:
        [H, W, D], with the gradient of image, vertices and camera.
    """
    height, width, _ = image.shape
    seen = in_camera(camera, mesh.vertices)
    places = _in_pixels(camera, seen, height, width)
    is_outline = jax.lax.stop_gradient(_silhouettes(places, seen, edges))
    room = max(mesh.triangles.shape[0] // 2, min(edges.is_edge.shape[0], 1000))
    (rows,) = jnp.nonzero(is_outline, size=room, fill_value=0)
    is_line = jnp.arange(room) < jnp.sum(is_outline)
    ends = jnp.where(is_line[:, None], edges.ends[rows], 0)
    lines = _Lines(places[ends], 1.0 / seen[ends][..., 2], is_line)
    run, rise = jnp.abs(lines.places[:, 1] - lines.places[:, 0]).T
    upright = lines._replace(is_line=is_line & (rise >= run))
    turned = lines.places[..., ::-1]  # columns as rows
    level = lines._replace(places=turned, is_line=is_line & (rise < run))
    depth, triangle = fragments.depth, fragments.triangle
    in_rows = _blend_rows(image, upright, depth, triangle)
    in_columns = _blend_rows(image.swapaxes(0, 1), level, depth.T, triangle.T)
    return image + in_rows + in_columns.swapaxes(0, 1)


def render(
    mesh: Mesh,
    colors: jax.Array,
    camera: Camera,
    height: int,
    width: int,
    *,
    background: ArrayLike = 1.0,
    light: Light | None = None,
    edges: Edges | None = None,
) -> Rendered:
    """Render a mesh of colored vertices.

    Args:
        mesh: vertices [V, 3].
        colors: [V, D].
        camera: leaves [...].
        height: H.
        width: W.
        background: the color where nothing is seen, [] or [D].
        light: what shades the colors, by normals that are interpolated between those of
            vertices; leaves that broadcast to [..., 3] and [...]. None for the colors
            as they are.
        edges: of the mesh's triangles, if there are any yet.

    Returns:
        Images [..., H, W, ...].
    """
    found = edges_of(mesh.triangles) if edges is None else edges
    normals = normalized(area_vectors(mesh))
    smooth = None if light is None else vertex_normals(mesh)

    def one(camera: Camera, light: Light | None) -> Rendered:
        fragments = rasterize(mesh, camera, height, width)
        is_hit = (fragments.triangle >= 0)[..., None]
        color = at_pixels(fragments, mesh, colors)
        if light is not None and smooth is not None:
            facing = normalized(at_pixels(fragments, mesh, smooth))
            color = shade(color, facing, light)
        color = jnp.where(is_hit, color, background)
        image = jnp.concatenate([color, is_hit.astype(color.dtype)], axis=-1)
        image = antialias(image, fragments, mesh, found, camera)
        normal = normals[jnp.maximum(fragments.triangle, 0)]
        return Rendered(
            color=image[..., :-1],
            opacity=image[..., -1],
            depth=fragments.depth,
            normal=jnp.where(is_hit, normal, 0.0),
        )

    shape = camera.azimuth.shape
    if light is not None:
        light = Light(
            jnp.broadcast_to(light.direction, (*shape, 3)),
            jnp.broadcast_to(jnp.asarray(light.ambient, colors.dtype), shape),
            jnp.broadcast_to(jnp.asarray(light.textureless, colors.dtype), shape),
        )
    if not shape:
        return one(camera, light)
    flat = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[len(shape) :]), (camera, light)
    )
    images = jax.vmap(one)(*flat)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), images)
