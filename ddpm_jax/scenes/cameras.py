"""Cameras that look at the origin: positions, rays, projection, and names of views.

The world is right-handed, y is up, and the thing is in the ball of radius 1 around the
origin, with its front towards +z. A camera stands on a sphere around it:

    position = distance (cos(elevation) sin(azimuth), sin(elevation),
                         cos(elevation) cos(azimuth))

so that azimuth 0 stands at +z and sees the front, azimuth 90 degrees stands at +x and
sees the left-hand side of the thing, and a positive elevation looks down on it. Its
axes are right, up and backward (from the origin to the camera), in this order a
right-handed frame; the top of the image is up. At an elevation of +-90 degrees the
azimuth still says which way up is.

Angles are radians in a `Camera`, and degrees in what users write: `CameraRange` and
`from_degrees`. Images have row 0 at the top.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddpm_jax import limits
from ddpm_jax.errors import UserError

VIEWS = ("front", "left side", "back", "right side", "overhead")
"""Names of `view_of`, as in "a snowman, seen from the left side": the thing's own."""

OVERHEAD = 60.0
"""Degrees of elevation from which on a view is from overhead.

Source: Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion", section 3.2.
"""


class Camera(NamedTuple):
    """One or many cameras; the leaves share one shape [...].

    Attributes:
        azimuth: radians, from +z towards +x.
        elevation: radians, from the horizontal plane upwards.
        distance: from the origin.
        field_of_view: radians, the full vertical angle of the image.
    """

    azimuth: jax.Array
    elevation: jax.Array
    distance: jax.Array
    field_of_view: jax.Array


class Rays(NamedTuple):
    """Half lines origin + t direction, t >= 0.

    Attributes:
        origin: [..., 3].
        direction: [..., 3], of length 1.
    """

    origin: jax.Array
    direction: jax.Array


def from_degrees(
    azimuth: ArrayLike,
    elevation: ArrayLike = 0.0,
    distance: ArrayLike = 3.0,
    field_of_view: ArrayLike = 40.0,
) -> Camera:
    """Make cameras of angles in degrees; the arguments broadcast to one shape [...].

    The defaults show the whole ball of radius 1, which subtends 39 degrees at 3.

    Args:
        azimuth: degrees, [] or [...].
        elevation: degrees.
        distance: from the origin.
        field_of_view: degrees, the full vertical angle.
    """
    given = (azimuth, elevation, distance, field_of_view)
    a, e, d, f = jnp.broadcast_arrays(*(jnp.asarray(x, jnp.float32) for x in given))
    return Camera(jnp.deg2rad(a), jnp.deg2rad(e), d, jnp.deg2rad(f))


def orbit(
    num: int,
    elevation: float = 15.0,
    distance: float = 3.0,
    field_of_view: float = 40.0,
) -> Camera:
    """Make the cameras of a turntable: `num` even azimuths from the front on, [num].

    Args:
        num: how many.
        elevation: degrees, of all.
        distance: from the origin.
        field_of_view: degrees, the full vertical angle.
    """
    azimuths = jnp.arange(num) * (360.0 / num)
    return from_degrees(azimuths, elevation, distance, field_of_view)


def axes(camera: Camera) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the axes right, up and backward of cameras, unit vectors, each [..., 3].

    Args:
        camera: leaves [...].
    """
    sin_a, cos_a = jnp.sin(camera.azimuth), jnp.cos(camera.azimuth)
    sin_e, cos_e = jnp.sin(camera.elevation), jnp.cos(camera.elevation)
    right = jnp.stack([cos_a, jnp.zeros_like(cos_a), -sin_a], axis=-1)
    up = jnp.stack([-sin_a * sin_e, cos_e, -cos_a * sin_e], axis=-1)
    backward = jnp.stack([sin_a * cos_e, sin_e, cos_a * cos_e], axis=-1)
    return right, up, backward


def positions(camera: Camera) -> jax.Array:
    """Return where cameras stand, [..., 3]; their leaves are [...]."""
    return camera.distance[..., None] * axes(camera)[2]


def rays(
    camera: Camera,
    height: int,
    width: int,
    offset: tuple[ArrayLike, ArrayLike] = (0.5, 0.5),
) -> Rays:
    """Make the rays through the pixels of an image of square pixels.

    Args:
        camera: leaves [...].
        height: H, rows; they cover the field of view, the first at the top.
        width: W, columns.
        offset: where in a pixel the ray goes through, in pixels (to the right, down)
            from its top left corner; each a number or an array that broadcasts to
            [..., H, W], by which rays can be jittered.

    Returns:
        Rays of leaves [..., H, W, 3].
    """
    right, up, backward = (a[..., None, None, :] for a in axes(camera))
    x, y = image_plane(camera, height, width, offset)
    direction = x[..., None] * right + y[..., None] * up - backward
    direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    origin = positions(camera)[..., None, None, :]
    return Rays(jnp.broadcast_to(origin, direction.shape), direction)


def image_plane(
    camera: Camera,
    height: int,
    width: int,
    offset: tuple[ArrayLike, ArrayLike] = (0.5, 0.5),
) -> tuple[jax.Array, jax.Array]:
    """Return where pixels are in the plane at distance 1 from the camera.

    Args:
        camera: leaves [...].
        height: H.
        width: W.
        offset: as of `rays`.

    Returns:
        Places to the right and upwards, which broadcast to [..., H, W].
    """
    dtype = camera.azimuth.dtype
    column = jnp.arange(width, dtype=dtype) + jnp.asarray(offset[0], dtype)
    row = jnp.arange(height, dtype=dtype)[:, None] + jnp.asarray(offset[1], dtype)
    half = jnp.tan(0.5 * camera.field_of_view)[..., None, None]  # height that is seen
    x = half * (2.0 * column - width) / height
    y = half * (height - 2.0 * row) / height
    return x, y


def in_camera(camera: Camera, points: jax.Array) -> jax.Array:
    """Return points [..., N, 3] in coordinates (right, up, depth) of cameras [...]."""
    frame = jnp.stack(axes(camera), axis=-1)  # [..., 3, 3], an axis a column
    # Products by hand: float32 matrix products are inexact on some accelerators.
    along = jnp.sum(points[..., :, None] * frame[..., None, :, :], axis=-2)
    depth = camera.distance[..., None] - along[..., 2]
    return jnp.concatenate([along[..., :2], depth[..., None]], axis=-1)


def project(camera: Camera, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find where in the image points are seen: the inverse of `rays`.

    Args:
        camera: leaves [...].
        points: [..., N, 3].

    Returns:
        Places [..., N, 2] to the right and up from the middle of the image, in units
        of half its height: a square image spans [-1, 1] both ways, one of aspect W/H
        spans [-W/H, W/H] to the right. And depths [..., N] along the view axis, which
        are positive in front of the camera; a point that is not has no place.
    """
    seen = in_camera(camera, points)
    depth = seen[..., 2]
    half = jnp.tan(0.5 * camera.field_of_view)[..., None]
    return seen[..., :2] / (depth * half)[..., None], depth


def azimuth_bins(camera: Camera, num_bins: int) -> jax.Array:
    """Find the nearest of evenly spaced azimuths, of which bin 0 is the front.

    Args:
        camera: leaves [...].
        num_bins: how many; bin k is centered at k / num_bins of a turn.

    Returns:
        int32 [...], 0 to num_bins - 1. The bins are half open and cover the circle.
        NumPy's if the camera is: a data set asks before there is a device.
    """
    xp = _namespace(camera)
    turns = camera.azimuth / (2.0 * np.pi)
    nearest = xp.floor(turns * num_bins + 0.5).astype(np.int32)
    return nearest % num_bins


def view_of(camera: Camera) -> jax.Array:
    """Name the side that cameras see, as an index of `VIEWS`.

    From 60 degrees of elevation on a view is from overhead; below, it is the nearest of
    four azimuths, 90 degrees each. Every direction has exactly one.

    Args:
        camera: leaves [...].

    Returns:
        int32 [...]; NumPy's if the camera is.
    """
    xp = _namespace(camera)
    is_overhead = camera.elevation >= xp.deg2rad(OVERHEAD)
    return xp.where(is_overhead, len(VIEWS) - 1, azimuth_bins(camera, len(VIEWS) - 1))


def seen_from(view: int) -> str:
    """Write a view as captions and prompts do: "seen from the left side".

    Args:
        view: index of `VIEWS`.
    """
    name = VIEWS[view]
    return f"seen from {name}" if name == "overhead" else f"seen from the {name}"


def _namespace(camera: Camera) -> Any:
    return jnp if isinstance(camera.azimuth, jax.Array) else np


# --- Random cameras -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CameraRange:
    """Where random cameras stand; what is drawn is even between least and most.

    Attributes:
        azimuth: degrees, least and most.
        elevation: degrees, least and most, within -90 to 90.
        distance: from the origin, least and most; more than 1, the radius of the scene.
        field_of_view: degrees, the full vertical angle, least and most.
        jitter: how far a camera is moved at most along each axis of the world, after
            which it looks at the origin again.
    """

    azimuth: tuple[float, float] = (0.0, 360.0)
    elevation: tuple[float, float] = (-10.0, 75.0)
    distance: tuple[float, float] = (2.8, 3.2)
    field_of_view: tuple[float, float] = (38.0, 44.0)
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("azimuth", "elevation", "distance", "field_of_view"):
            value = getattr(self, name)
            if len(value) != 2:
                raise UserError(f"{name}={value} is not a range; give least and most.")
        limits.between(self, "azimuth", -360, 360)
        limits.between(self, "elevation", -90, 90)
        limits.between(self, "field_of_view", 1, 170)
        limits.between(self, "distance", 1, 1000)
        for name in ("azimuth", "elevation", "distance", "field_of_view"):
            least, most = getattr(self, name)
            if least > most:
                raise UserError(
                    f"{name}={(least, most)} has the least above the most; swap them."
                )
        limits.at_least(self, 0, "jitter")
        # Moved by `jitter` along each axis, the camera is nearer by its length at most.
        nearest = self.distance[0] - 3**0.5 * self.jitter
        if not nearest > 1:
            raise UserError(
                f"distance={self.distance} and jitter={self.jitter} put a camera within"
                " the scene, of radius 1; use a larger distance or less jitter."
            )


def sample_cameras(
    key: jax.Array,
    num: int,
    ranges: CameraRange = CameraRange(),  # frozen
    *,
    stratified: bool = False,
) -> Camera:
    """Draw cameras, even in azimuth, elevation, distance and field of view.

    Args:
        key: of them all.
        num: how many.
        ranges: where they stand.
        stratified: spread the azimuths evenly over their range, with one common random
            offset, so that the few views of a training step see every side. Each alone
            is still drawn evenly, but camera i + 1 stands next to camera i.

    Returns:
        Camera of leaves float32 [num].

    Source: Poole et al. 2022, section 3.2, with ranges of our own.
    """
    keys = jax.random.split(key, 5)

    def draw(key: jax.Array, bounds: tuple[float, float]) -> jax.Array:
        u = jax.random.uniform(key, (num,), jnp.float32)
        return bounds[0] + (bounds[1] - bounds[0]) * u

    azimuth = draw(keys[0], ranges.azimuth)
    if stratified:
        offset = jax.random.uniform(keys[0], (), jnp.float32)
        u = (offset + jnp.arange(num, dtype=jnp.float32) / num) % 1.0
        azimuth = ranges.azimuth[0] + (ranges.azimuth[1] - ranges.azimuth[0]) * u
    drawn = Camera(
        jnp.deg2rad(azimuth),
        jnp.deg2rad(draw(keys[1], ranges.elevation)),
        draw(keys[2], ranges.distance),
        jnp.deg2rad(draw(keys[3], ranges.field_of_view)),
    )
    if not ranges.jitter:
        return drawn
    shift = jax.random.uniform(keys[4], (num, 3), jnp.float32, -1.0, 1.0)
    return _standing_at(positions(drawn) + ranges.jitter * shift, drawn.field_of_view)


def _standing_at(position: jax.Array, field_of_view: jax.Array) -> Camera:
    """Make the cameras that stand at [..., 3] and look at the origin."""
    x, y, z = jnp.moveaxis(position, -1, 0)
    return Camera(
        azimuth=jnp.arctan2(x, z),
        elevation=jnp.arctan2(y, jnp.hypot(x, z)),
        distance=jnp.linalg.norm(position, axis=-1),
        field_of_view=field_of_view,
    )
