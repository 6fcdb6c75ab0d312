"""Known solids, rendered exactly: what a scene is measured against.

A solid is a set of parts, each a ball, a box, a frustum or a gable under an affine map:
ellipsoids, cylinders, cones, boxes and gable roofs. All of them are convex, so a ray
is inside of a part for one interval, whose ends are roots of a quadratic or the limits
of slabs; nothing is marched. NumPy, float64.

The world is that of `cameras`: right-handed, y up, a solid in the ball of radius 1
around the origin with its front toward +z and its left-hand side toward +x. Every
solid looks different from the front, the back, the left and the right, so that a
scene with two faces (the "Janus problem" of score distillation) can be counted.

Sources: J. T. Kajiya, T. L. Kay 1986 (slabs); P. S. Heckbert's and others' notes in
A. Glassner (ed.) 1989, "An Introduction to Ray Tracing", ch. 2 (quadrics); B. Poole et
al. 2022, "DreamFusion", section 3.2 (albedo, shaded and normal renders).
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.scenes.cameras import Camera

Shading = Literal["albedo", "shaded"]
Kind = Literal["ball", "box", "frustum", "gable"]
Vector = tuple[float, float, float]

LIGHT: Vector = (0.48, 0.76, 0.44)
"""Toward the light, of length 1: from above, the left-hand side and the front."""

AMBIENT = 0.6
"""Share of the light that comes from everywhere."""

# A gable's normals and offsets: its ridge is at y = 1, its eaves are at x = -1 and 1.
_GABLE = np.array(
    [
        [1.0, 0.5, 0.0],
        [-1.0, 0.5, 0.0],
        [0.0, -1.0, 0.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.0, -1.0],
    ]
)
_GABLE_OFFSETS = np.array([0.5, 0.5, 1.0, 1.0, 1.0])
_PARALLEL = 1e-12  # below this a quadratic's leading coefficient is this


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A convex shape {center + linear p}, of p in a unit shape, in one color.

    Attributes:
        kind: ball: |p| <= 1; box: |p_x|, |p_y|, |p_z| <= 1; gable: |p_x| <=
            (1 - p_y) / 2, -1 <= p_y, |p_z| <= 1; frustum: |p_y| <= 1 and
            sqrt(p_x^2 + p_z^2) <= mid + slope p_y, where mid >= |slope|.
        center: [3].
        linear: [3, 3], invertible.
        color: albedo, linear [3] in [0, 1].
        reach: of a sphere around the center that holds the part.
        mid: of a frustum.
        slope: of a frustum.
    """

    kind: Kind
    center: np.ndarray
    linear: np.ndarray
    color: np.ndarray
    reach: float
    mid: float = 1.0
    slope: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Solid:
    """A union of parts, inside the ball of radius 1.

    Attributes:
        name: as in captions, "snowman".
        parts: in any order.
    """

    name: str
    parts: tuple[Part, ...]

    @functools.cached_property
    def tables(self) -> "Tables":
        """The parts as arrays, so that all pairs of ray and part are one call."""
        parts = sorted(self.parts, key=lambda part: part.kind)
        of_kinds = [part.kind for part in parts]
        inverses = np.linalg.inv(np.stack([part.linear for part in parts]))
        return Tables(
            kinds={
                kind: slice(of_kinds.index(kind), of_kinds.index(kind) + count)
                for kind, count in Counter(of_kinds).items()
            },
            centers=np.stack([part.center for part in parts], axis=-1),
            inverses=np.ascontiguousarray(np.moveaxis(inverses, 0, -1)),
            colors=np.stack([part.color for part in parts], axis=-1),
            reaches=np.array([part.reach for part in parts]),
            mids=np.array([part.mid for part in parts]),
            slopes=np.array([part.slope for part in parts]),
        )


class Tables(NamedTuple):
    """The parts of a solid as arrays, sorted by kind.

    Attributes:
        kinds: which of the parts are of a kind.
        centers: [3, P].
        inverses: of the linear maps, [3, 3, P].
        colors: [3, P].
        reaches: [P].
        mids: [P].
        slopes: [P].
    """

    kinds: Mapping[Kind, slice]
    centers: np.ndarray
    inverses: np.ndarray
    colors: np.ndarray
    reaches: np.ndarray
    mids: np.ndarray
    slopes: np.ndarray


class Hit(NamedTuple):
    """Where rays meet a solid first.

    Attributes:
        distance: from the origin, [R]; inf where nothing is met.
        normal: outward, of length 1, [3, R]; 0 where nothing is met.
        albedo: [3, R]; 0 where nothing is met.
    """

    distance: np.ndarray
    normal: np.ndarray
    albedo: np.ndarray


class Render(NamedTuple):
    """An image of a solid, and what is known of each pixel; float32.

    Attributes:
        image: [..., H, W, 3] in [0, 1], over the background.
        opacity: share of the pixel that the solid covers, [..., H, W].
        depth: mean distance from the camera over that share, [..., H, W]; 0 if none.
        normal: mean outward normal over that share, of length 1, [..., H, W, 3]; 0 if
            none.
    """

    image: np.ndarray
    opacity: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


# --- Parts ----------------------------------------------------------------------------


def turn(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Return the rotation by degrees about x, then y, then z; float64 [3, 3]."""
    matrix = np.eye(3)
    for axis, degrees in enumerate((x, y, z)):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[one, one, two, two], [one, two, one, two]] = c, -s, s, c
        matrix = step @ matrix
    return matrix


def ellipsoid(
    center: Sequence[float],
    radii: float | Sequence[float],
    color: str,
    rotation: np.ndarray | None = None,
) -> Part:
    """Make an ellipsoid.

    Args:
        center: [3].
        radii: along its x, y and z, or one for a sphere.
        color: as "#rrggbb".
        rotation: [3, 3]; None for none.
    """
    sizes = np.broadcast_to(np.asarray(radii, np.float64), 3)
    return _part("ball", center, sizes, color, rotation, reach=float(sizes.max()))


def box(
    center: Sequence[float],
    halves: Sequence[float],
    color: str,
    rotation: np.ndarray | None = None,
) -> Part:
    """Make a box.

    Args:
        center: [3].
        halves: half of its width, height and depth, along its x, y and z.
        color: as "#rrggbb".
        rotation: [3, 3]; None for none.
    """
    return _part("box", center, halves, color, rotation)


def gable(
    center: Sequence[float],
    halves: Sequence[float],
    color: str,
    rotation: np.ndarray | None = None,
) -> Part:
    """Make a triangular prism, its ridge on top and along z.

    Args:
        center: of the box around it, [3].
        halves: half of that box's width, height and depth.
        color: as "#rrggbb".
        rotation: [3, 3]; None for none.
    """
    return _part("gable", center, halves, color, rotation)


def frustum(
    center: Sequence[float] | np.ndarray,
    radii: tuple[float, float],
    height: float,
    color: str,
    rotation: np.ndarray | None = None,
) -> Part:
    """Make a frustum about its y axis: a cylinder, a cone or what is between.

    Args:
        center: of its axis, [3].
        radii: at the bottom and at the top; one may be 0.
        height: along the axis.
        color: as "#rrggbb".
        rotation: [3, 3]; None for none.
    """
    bottom, top = radii
    widest = max(radii)
    return _part(
        "frustum",
        center,
        (widest, height / 2, widest),
        color,
        rotation,
        reach=float(np.hypot(widest, height / 2)),
        mid=(bottom + top) / 2 / widest,
        slope=(top - bottom) / 2 / widest,
    )


def rod(
    start: Sequence[float], end: Sequence[float], radius: float, color: str
) -> Part:
    """Make a cylinder between two points [3]."""
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = last - first
    length = float(np.linalg.norm(along))
    y = along / length
    x = np.cross(y, np.eye(3)[np.argmin(np.abs(y))])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, y, np.cross(x, y)], axis=1)
    return frustum((first + last) / 2, (radius, radius), length, color, rotation)


def _part(
    kind: Kind,
    center: Sequence[float] | np.ndarray,
    sizes: Sequence[float] | np.ndarray,
    color: str,
    rotation: np.ndarray | None,
    reach: float | None = None,
    **others: Any,
) -> Part:
    scaled = np.eye(3) if rotation is None else rotation
    return Part(
        kind=kind,
        center=np.asarray(center, np.float64),
        linear=scaled * np.asarray(sizes, np.float64),
        color=np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]),
        reach=float(np.linalg.norm(sizes)) if reach is None else reach,
        **others,
    )


# --- Rays -----------------------------------------------------------------------------


def hit(solid: Solid, origins: np.ndarray, directions: np.ndarray) -> Hit:
    """Return where rays that start outside of a solid meet it first.

    Args:
        solid: any.
        origins: [3, R], or [3, 1] of all rays, outside of every part; coordinates
            first, as NumPy is fast so.
        directions: [3, R], of length 1.
    """
    tables, num_rays = solid.tables, directions.shape[1]
    # Most parts are small: little is left of rays that go through the sphere around.
    along = tables.centers.T @ directions - _dot(origins, directions)  # [P, R]
    to_centers = tables.centers[:, :, None] - origins[:, None]
    away = _dot(to_centers, to_centers)
    meets = along > np.sqrt(np.maximum(away - tables.reaches[:, None] ** 2, 0.0))
    part, ray = np.divmod(np.flatnonzero(meets), num_rays)  # M pairs, by kind
    inverse = tables.inverses[:, :, part]
    shifted = (origins[:, ray] if origins.shape[1] > 1 else origins) - (
        tables.centers[:, part]
    )
    o, d = _times(inverse, shifted), _times(inverse, directions[:, ray])
    near, gradient = np.empty(len(part)), np.empty((3, len(part)))
    for kind, parts in tables.kinds.items():
        one = slice(*np.searchsorted(part, (parts.start, parts.stop)))
        shape = tables.mids[part[one]], tables.slopes[part[one]]
        enters, leaves, gradient[:, one] = _ENTER[kind](*shape, o[:, one], d[:, one])
        is_met = (enters < leaves) & (enters > 0)
        near[one] = np.where(is_met, enters, np.inf)
    distance = np.full(num_rays, np.inf)
    np.minimum.at(distance, ray, near)
    first = np.isfinite(near) & (near == distance[ray])
    part, ray = part[first], ray[first]
    # A gradient goes by the inverse of the linear map, transposed.
    found = _times(np.swapaxes(inverse[:, :, first], 0, 1), gradient[:, first])
    normal, albedo = np.zeros((2, 3, num_rays))
    normal[:, ray] = found / np.sqrt(_dot(found, found))
    albedo[:, ray] = tables.colors[:, part]
    return Hit(distance, normal, albedo)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Multiply matrices [3, 3, M] by vectors [3, M]."""
    return np.stack([_dot(row, vectors) for row in matrices])


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


# Of M pairs of a part, with mid and slope [M], and a ray, with o and d [3, M] in the
# coordinates of the unit shape. They return where the ray enters and where it leaves
# [M], the former not less than the latter where it misses, and the outward gradient
# where it enters [3, M].


def _enter_ball(
    mid: np.ndarray, slope: np.ndarray, o: np.ndarray, d: np.ndarray
) -> tuple:
    near, far = _roots(_dot(d, d), _dot(o, d), _dot(o, o) - 1)
    return near, far, o + np.where(np.isfinite(near), near, 0.0) * d


def _enter_box(
    mid: np.ndarray, slope: np.ndarray, o: np.ndarray, d: np.ndarray
) -> tuple:
    low, high = np.stack([_slab(*pair) for pair in zip(o, d, strict=True)], axis=1)
    last = low.argmax(axis=0)
    gradient = np.where(np.arange(3)[:, None] == last, -np.sign(d), 0.0)
    return low.max(axis=0), high.min(axis=0), gradient


def _enter_gable(
    mid: np.ndarray, slope: np.ndarray, o: np.ndarray, d: np.ndarray
) -> tuple:
    speed, room = _GABLE @ d, _GABLE_OFFSETS[:, None] - _GABLE @ o
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = room / speed
    never = np.where(room < 0, np.inf, -np.inf)
    enters = np.where(speed < 0, crossed, np.where(speed == 0, never, -np.inf))
    leaves = np.where(speed > 0, crossed, np.inf)
    return enters.max(axis=0), leaves.min(axis=0), _GABLE[enters.argmax(axis=0)].T


def _enter_frustum(
    mid: np.ndarray, slope: np.ndarray, o: np.ndarray, d: np.ndarray
) -> tuple:
    """Intersect the real half of a double cone with the slab |y| <= 1."""
    y, speed = o[1], d[1]
    low, high = _slab(y, speed)
    radius, widens = mid + slope * y, slope * speed
    a = d[0] ** 2 + d[2] ** 2 - widens**2
    b = o[0] * d[0] + o[2] * d[2] - radius * widens
    c = o[0] ** 2 + o[2] ** 2 - radius**2
    near, far = _roots(np.where(np.abs(a) < _PARALLEL, _PARALLEL, a), b, c)
    # Steeper than the side: inside of the double cone before one root and after the
    # other, and one of the two is beyond the apex, where the radius is negative.
    steep, opens = a < -_PARALLEL, widens > 0
    near = np.where(steep & ~opens, -np.inf, near)
    far = np.where(steep & opens, np.inf, far)
    enters, leaves = np.maximum(near, low), np.minimum(far, high)
    at = o + np.where(np.isfinite(enters), enters, 0.0) * d
    side = np.stack([at[0], -slope * (mid + slope * at[1]), at[2]])
    zero = np.zeros_like(near)
    end = np.stack([zero, -np.sign(speed) + zero, zero])
    return enters, leaves, np.where(near > low, side, end)


def _slab(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where |o + t d| <= 1; where d is 0 that is everywhere or nowhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (-1 - o) / d, (1 - o) / d
    never = np.where(np.abs(o) <= 1, -np.inf, np.inf)
    return (
        np.where(d == 0, never, np.minimum(one, two)),
        np.where(d == 0, np.inf, np.maximum(one, two)),
    )


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple:
    """Solve a t^2 + 2 b t + c = 0.

    Returns:
        The lower and the upper root for a > 0, the upper and the lower for a < 0; inf
        and -inf where there is none.
    """
    below = b * b - a * c
    root = np.sqrt(np.maximum(below, 0.0))
    there = (below > 0) | (a < 0)  # a line that is steeper than a cone meets it
    return (
        np.where(there, (-b - root) / a, np.inf),
        np.where(there, (-b + root) / a, -np.inf),
    )


_ENTER = {
    "ball": _enter_ball,
    "box": _enter_box,
    "gable": _enter_gable,
    "frustum": _enter_frustum,
}


# --- Images ---------------------------------------------------------------------------


def render(
    solid: Solid,
    camera: Camera,
    size: int | tuple[int, int],
    *,
    supersample: int = 4,
    shading: Shading = "shaded",
    light: Sequence[float] = LIGHT,
    ambient: float = AMBIENT,
    background: float = 1.0,
) -> Render:
    """Render a solid for each camera.

    Args:
        solid: any.
        camera: arrays of one shape [...], or numbers; outside of the ball of radius 1.
        size: side of the image in pixels, or height and width.
        supersample: N, for N x N rays a pixel, evenly spaced.
        shading: "albedo" shows colors as they are; "shaded" multiplies them by
            ambient + (1 - ambient) max(0, normal . light).
        light: toward the light, [3], of any length but 0; shaded only.
        ambient: share of the light from everywhere; shaded only.
        background: a gray level.

    Raises:
        UserError: a camera is not outside, or a number cannot be.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width, supersample) < 1:
        raise UserError(
            f"size={height}x{width} and supersample={supersample} make no image; use 1 "
            "or more."
        )
    fields = (camera.azimuth, camera.elevation, camera.distance, camera.field_of_view)
    numbers = np.broadcast_arrays(*(np.asarray(field, np.float64) for field in fields))
    if np.any(numbers[2] <= 1):
        raise UserError(
            f"distance={np.min(numbers[2]):g} is inside the ball of radius 1 that "
            "holds the solid; use more than 1."
        )
    toward = np.asarray(light, np.float64)
    toward = toward / np.linalg.norm(toward)
    made = []
    for one in np.stack([number.ravel() for number in numbers], axis=1):
        found = hit(solid, *_rays(one, height, width, supersample))
        color = found.albedo
        if shading == "shaded":
            lit = np.maximum(_dot(toward, found.normal), 0.0)
            color = color * (ambient + (1 - ambient) * lit)
        made.append(_average(found, color, supersample**2, background))
    shape = (*numbers[0].shape, height, width)
    pixels = np.stack(made).astype(np.float32).reshape(*shape, 8)
    return Render(pixels[..., :3], pixels[..., 3], pixels[..., 4], pixels[..., 5:])


def _average(
    found: Hit, color: np.ndarray, num_rays: int, background: float
) -> np.ndarray:
    """Average over the rays of each pixel: color, opacity, depth, normal: [H W, 8]."""
    is_hit = np.isfinite(found.distance)
    depth = np.where(is_hit, found.distance, 0.0)
    values = np.concatenate([color, is_hit[None], depth[None], found.normal])
    means = values.reshape(8, -1, num_rays).mean(axis=-1)
    means[:3] += (1 - means[3]) * background
    means[4] /= np.where(means[3] > 0, means[3], 1.0)
    length = np.sqrt(_dot(means[5:], means[5:]))
    means[5:] /= np.where(length > 0, length, 1.0)
    return means.T


def _rays(
    camera: np.ndarray, height: int, width: int, supersample: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the origin [3, 1] of a camera and its directions [3, H W N N].

    The camera is its azimuth, elevation, distance and field of view, [4].

    float64 and NumPy, so that a data set's images need no accelerator and are the same
    beside any; a test holds them to `cameras.rays`.
    """
    azimuth, elevation, distance, field_of_view = camera
    ca, sa = np.cos(azimuth), np.sin(azimuth)
    ce, se = np.cos(elevation), np.sin(elevation)
    backward = np.array([ce * sa, se, ce * ca])
    right, up = np.array([ca, 0.0, -sa]), np.array([-se * sa, ce, -se * ca])
    reach = np.tan(field_of_view / 2)

    def centers(pixels: int) -> np.ndarray:
        """Return the middles of the rays' squares, in [-1, 1]: [pixels, N]."""
        fine = np.arange(pixels * supersample).reshape(pixels, supersample)
        return (2 * fine + 1) / (pixels * supersample) - 1

    x = reach * width / height * centers(width)[None, :, None, :]
    y = -reach * centers(height)[:, None, :, None]
    plane = np.stack([x * right[i] + (y * up[i] - backward[i]) for i in range(3)])
    directions = (plane / np.sqrt(x * x + y * y + 1)).reshape(3, -1)
    return (distance * backward)[:, None], directions


# --- The solids -----------------------------------------------------------------------


def _snowman() -> Solid:
    snow, coal, felt = "#c6d8ee", "#20242c", "#2b2f3a"
    return Solid(
        "snowman",
        (
            ellipsoid((0, -0.5, 0), 0.42, snow),
            ellipsoid((0, 0.02, 0), 0.32, snow),
            ellipsoid((0, 0.43, 0), 0.24, snow),
            frustum((0, 0.61, 0), (0.31, 0.31), 0.05, felt),  # the hat
            frustum((0, 0.77, 0), (0.2, 0.18), 0.3, felt),
            frustum((0, 0.42, 0.36), (0.07, 0), 0.36, "#f47b20", turn(x=90)),
            ellipsoid((0.09, 0.5, 0.21), 0.045, coal),
            ellipsoid((-0.09, 0.5, 0.21), 0.045, coal),
            ellipsoid((0, 0.1, 0.31), 0.045, coal),
            ellipsoid((0, -0.06, 0.32), 0.045, coal),
            frustum((0, 0.25, 0), (0.23, 0.25), 0.1, "#d7263d"),  # the scarf
            box((0, -0.02, -0.36), (0.25, 0.27, 0.13), "#2a9d4a"),  # the backpack
            box((0, -0.1, -0.5), (0.15, 0.12, 0.04), "#f2c230"),
            rod((0.25, 0.02, 0), (0.68, 0.32, 0.05), 0.035, "#7a4a21"),  # an arm
            ellipsoid((0.69, 0.33, 0.05), 0.1, "#d7263d"),
            rod((-0.25, 0.02, 0), (-0.5, -0.05, 0.02), 0.035, "#7a4a21"),
            rod((-0.52, -0.75, 0), (-0.52, 0.35, 0), 0.03, "#7a4a21"),  # the broom
            frustum((-0.52, 0.5, 0), (0.05, 0.15), 0.34, "#e0a83a"),
        ),
    )


def _car() -> Solid:
    paint, glass, rubber = "#e03131", "#9fd3f0", "#23262d"
    wheels = [
        frustum((x, -0.3, z), (0.2, 0.2), 0.16, rubber, turn(z=90))
        for x in (-0.38, 0.38)
        for z in (-0.5, 0.5)
    ]
    hubs = [
        frustum((x, -0.3, z), (0.1, 0.1), 0.17, "#d9dde3", turn(z=90))
        for x in (-0.38, 0.38)
        for z in (-0.5, 0.5)
    ]
    return Solid(
        "car",
        (
            box((0, -0.1, 0), (0.42, 0.17, 0.83), paint),
            box((0, 0.22, -0.18), (0.35, 0.2, 0.46), glass),
            box((0, 0.4, -0.18), (0.37, 0.035, 0.48), paint),
            *(box((x, 0.22, -0.18), (0.02, 0.2, 0.06), paint) for x in (-0.345, 0.345)),
            *wheels,
            *hubs,
            *(ellipsoid((x, -0.06, 0.82), 0.09, "#ffe066") for x in (-0.28, 0.28)),
            box((0, -0.1, 0.83), (0.13, 0.06, 0.02), "#3b4048"),  # the grille
            box((0, -0.22, 0.84), (0.42, 0.04, 0.03), "#d9dde3"),
            *(
                box((x, -0.02, -0.83), (0.07, 0.07, 0.02), "#ff9f1c")
                for x in (-0.33, 0.33)
            ),
            box((0, -0.22, -0.84), (0.42, 0.04, 0.03), rubber),
            frustum((0, -0.02, -0.86), (0.21, 0.21), 0.1, rubber, turn(x=90)),
            frustum((0, -0.02, -0.9), (0.1, 0.1), 0.06, "#d9dde3", turn(x=90)),
            frustum((0.42, -0.08, 0), (0.14, 0.14), 0.03, "#ffffff", turn(z=90)),
            box((-0.42, -0.07, 0), (0.015, 0.05, 0.83), "#2456c9"),
            box((-0.12, 0.5, -0.18), (0.12, 0.07, 0.4), "#2456c9"),  # on the roof
        ),
    )


def _mug() -> Solid:
    glaze = "#3f8fd2"
    around = np.deg2rad(np.linspace(-80, 80, 6))
    ring = [(0.5 + 0.32 * np.cos(a), 0.35 * np.sin(a) + 0.02, 0.0) for a in around]
    yellow, red = "#f2b632", "#e8283c"
    return Solid(
        "mug",
        (
            frustum((0, 0, 0), (0.48, 0.52), 1.2, glaze),
            frustum((0, 0.58, 0), (0.535, 0.535), 0.1, "#ffd9a0"),
            frustum((0, 0.63, 0), (0.45, 0.45), 0.02, "#5a3317"),  # the coffee
            *(rod(a, b, 0.09, yellow) for a, b in itertools.pairwise(ring)),
            *(ellipsoid(point, 0.09, yellow) for point in ring),
            ellipsoid(
                (0.42, 0.02, 0), (0.12, 0.46, 0.34), "#f7e3b0"
            ),  # where it is held
            ellipsoid((0.15, 0.14, 0.46), (0.2, 0.2, 0.09), red),  # a heart
            ellipsoid((-0.15, 0.14, 0.46), (0.2, 0.2, 0.09), red),
            box((0, -0.035, 0.45), (0.22, 0.22, 0.07), red, turn(z=45)),
            box((0, -0.05, -0.48), (0.32, 0.34, 0.05), "#f7f3e8"),  # a label
            box((0, -0.05, -0.52), (0.22, 0.09, 0.03), "#2a9d4a"),
            *(
                ellipsoid((-0.48, y, z), (0.07, 0.13, 0.13), "#123a63")  # dots
                for y, z in ((0.3, -0.18), (0.04, 0.14), (-0.3, -0.14))
            ),
        ),
    )


def _lamp() -> Solid:
    metal, arm, shade, tilt = "#1f8a9c", "#596270", "#e85d2f", turn(x=-62)
    return Solid(
        "lamp",
        (
            frustum((0, -0.78, -0.08), (0.44, 0.38), 0.14, metal),
            rod((0, -0.74, -0.16), (0, -0.08, -0.58), 0.075, arm),
            ellipsoid((0, -0.08, -0.58), 0.125, metal),
            rod((0, -0.08, -0.58), (0, 0.6, 0.04), 0.075, arm),
            ellipsoid((0, 0.62, 0.05), 0.14, metal),
            frustum((0, 0.43, 0.28), (0.43, 0.14), 0.5, shade, tilt),
            # The inside of the shade, and its bulb.
            frustum((0, 0.315, 0.497), (0.355, 0.355), 0.02, "#fff0a0", tilt),
            ellipsoid((0, 0.31, 0.51), 0.18, "#ffcf33"),
            ellipsoid((0.27, -0.7, 0.1), (0.11, 0.08, 0.11), "#d7263d"),  # a button
            box((-0.3, -0.7, -0.12), (0.1, 0.05, 0.16), "#f7f3e8"),  # a notebook
        ),
    )


def _tree() -> Solid:
    leaf, dark, bark, wood = "#4cb05a", "#2f8a45", "#8a5a2b", "#d9a441"
    apples = (
        (0.2, 0.45, 0.42),
        (-0.12, 0.24, 0.47),
        (-0.38, 0.12, 0.36),
        (0.24, 0.08, 0.42),
        (0.02, 0.7, 0.33),
    )
    return Solid(
        "tree",
        (
            frustum((0, -0.55, 0), (0.19, 0.13), 0.72, bark),
            ellipsoid((0, 0.3, 0), (0.5, 0.45, 0.48), leaf),
            ellipsoid((0.08, 0.6, 0), (0.34, 0.31, 0.34), leaf),
            ellipsoid((-0.4, 0.1, 0.06), 0.32, leaf),
            ellipsoid((0.05, 0.2, -0.3), (0.36, 0.33, 0.28), dark),
            *(ellipsoid(apple, 0.095, "#e8283c") for apple in apples),
            # A birdhouse on the left-hand side, on a branch.
            rod((0.1, -0.35, 0), (0.66, -0.28, 0), 0.04, bark),
            box((0.62, -0.08, 0), (0.14, 0.16, 0.14), wood),
            gable((0.62, 0.14, 0), (0.2, 0.07, 0.19), "#2456c9", turn(y=90)),
            ellipsoid((0.76, -0.06, 0), (0.03, 0.07, 0.07), "#3b2412"),
            # A ladder behind.
            rod((-0.13, -0.86, -0.44), (-0.13, 0.1, -0.44), 0.035, "#f2e3c0"),
            rod((0.13, -0.86, -0.44), (0.13, 0.1, -0.44), 0.035, "#f2e3c0"),
            *(
                rod((-0.13, y, -0.44), (0.13, y, -0.44), 0.03, "#f2e3c0")
                for y in (-0.7, -0.5, -0.3, -0.1)
            ),
            # A mushroom on the right-hand side.
            frustum((-0.38, -0.78, 0.02), (0.06, 0.05), 0.22, "#f7f3e8"),
            frustum((-0.38, -0.62, 0.02), (0.18, 0.03), 0.17, "#8e44c9"),
        ),
    )


def _house() -> Solid:
    wall, roof, glass, white = "#f3dcab", "#cf4a30", "#6db7e8", "#fbf7ee"
    return Solid(
        "house",
        (
            box((0, -0.32, 0), (0.48, 0.36, 0.5), wall),
            gable((0, 0.34, 0), (0.62, 0.34, 0.58), roof),
            # In front a door and a window under the roof.
            box((0.16, -0.42, 0.5), (0.14, 0.25, 0.03), "#2f7d4f"),
            box((-0.22, -0.3, 0.5), (0.16, 0.14, 0.02), white),
            box((-0.22, -0.3, 0.51), (0.12, 0.1, 0.02), glass),
            frustum((0, 0.24, 0.58), (0.1, 0.1), 0.03, "#ffe066", turn(x=90)),
            # Behind two windows.
            *(box((x, -0.26, -0.5), (0.14, 0.18, 0.02), white) for x in (-0.23, 0.23)),
            *(box((x, -0.26, -0.51), (0.1, 0.14, 0.02), glass) for x in (-0.23, 0.23)),
            # On the left-hand side a chimney and bushes.
            box((0.3, 0.56, -0.2), (0.1, 0.22, 0.1), "#9aa3ad"),
            box((0.3, 0.78, -0.2), (0.13, 0.03, 0.13), "#59616b"),
            ellipsoid((0.5, -0.56, 0.22), (0.15, 0.14, 0.2), "#3fa34d"),
            ellipsoid((0.5, -0.52, -0.2), (0.15, 0.18, 0.22), "#3fa34d"),
            # On the right-hand side a blue gate.
            box((-0.49, -0.4, 0), (0.02, 0.27, 0.34), "#2456c9"),
            box((-0.5, -0.4, 0), (0.02, 0.03, 0.34), "#bcd0f5"),
        ),
    )


SOLIDS: Mapping[str, Solid] = {
    solid.name: solid
    for solid in (_snowman(), _car(), _mug(), _lamp(), _tree(), _house())
}
"""The solids by name."""
