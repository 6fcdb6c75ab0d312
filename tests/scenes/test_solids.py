"""Solids: intersections against root finding, and that every side is its own."""

import math

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras, solids
from ddpm_jax.scenes.solids import SOLIDS, Solid, render


def implicit(part, points):
    """Evaluate a function that is negative inside of a part, as its docstring has it.

    Returns the constraints, of which the largest counts: [K, ...].
    """
    p = (points - part.center) @ np.linalg.inv(part.linear).T
    x, y, z = np.moveaxis(p, -1, 0)
    if part.kind == "ball":
        return (np.linalg.norm(p, axis=-1) - 1)[None]
    if part.kind == "box":
        return np.stack([np.abs(x) - 1, np.abs(y) - 1, np.abs(z) - 1])
    if part.kind == "gable":
        return np.stack([np.abs(x) - (1 - y) / 2, -1 - y, np.abs(z) - 1])
    return np.stack([np.hypot(x, z) - part.mid - part.slope * y, np.abs(y) - 1])


def some_parts(rng):
    """Make a part of each kind, turned and stretched, and a cone to its apex."""
    sizes, turned = rng.uniform(0.2, 0.6, (5, 3)), rng.uniform(-90, 90, (5, 3))
    rotations = [solids.turn(*angles) for angles in turned]
    centers = rng.uniform(-0.2, 0.2, (5, 3))
    return [
        solids.ellipsoid(centers[0], sizes[0], "#ff0000", rotations[0]),
        solids.box(centers[1], sizes[1], "#00ff00", rotations[1]),
        solids.gable(centers[2], sizes[2], "#0000ff", rotations[2]),
        solids.frustum(centers[3], (0.3, 0.5), 0.7, "#ffff00", rotations[3]),
        solids.frustum(centers[4], (0.5, 0.0), 0.9, "#00ffff", rotations[4]),
    ]


def some_rays(rng, count):
    """Make rays from outside toward points near the middle: [3, R] both."""
    start = rng.standard_normal((3, count))
    start *= 2.5 / np.linalg.norm(start, axis=0)
    to = rng.uniform(-0.5, 0.5, (3, count)) - start
    return start, to / np.linalg.norm(to, axis=0)


def first_root(parts, origin, direction):
    """Walk along a ray [3] in small steps, then bisect; inf for a clear miss.

    None of a ray that may graze something before: a walk could step over that.
    """

    def inside(t):
        points = origin + np.asarray(t)[..., None] * direction
        return np.min([implicit(part, points).max(axis=0) for part in parts], axis=0)

    steps = np.linspace(1, 4, 601)  # within the ball of radius 1.5
    values = inside(steps)
    if values.min() > 5e-3:
        return math.inf
    # A part thinner than a step, before the first root that is seen, has no root here.
    below = np.flatnonzero(values < 0)
    minima = np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] < values[2:]))
    before = minima + 1 < (below[0] if len(below) else len(steps))
    if np.any(values[minima[before] + 1] < 5e-3) or not len(below):
        return None
    low, high = steps[below[0] - 1], steps[below[0]]
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (low, middle) if inside(middle) < 0 else (middle, high)
    return high


@pytest.mark.parametrize("seed", range(3))
def test_intersections_are_the_roots_of_the_implicit_functions(seed):
    rng = np.random.default_rng(seed)
    parts = some_parts(rng)
    for group in [[part] for part in parts] + [parts]:
        origins, directions = some_rays(rng, 24)
        found = solids.hit(Solid("some", tuple(group)), origins, directions).distance
        roots = [
            first_root(group, o, d)
            for o, d in zip(origins.T, directions.T, strict=True)
        ]
        sure = [i for i, root in enumerate(roots) if root is not None]
        assert len(sure) >= 18
        expected = np.array([roots[i] for i in sure])
        assert np.isfinite(expected).sum() > 1
        np.testing.assert_allclose(found[sure], expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_normals_are_gradients_by_finite_difference(seed):
    rng = np.random.default_rng(seed)
    for part in some_parts(rng):
        origins, directions = some_rays(rng, 200)
        found = solids.hit(Solid("some", (part,)), origins, directions)
        met = np.isfinite(found.distance)
        points = (origins + np.where(met, found.distance, 0) * directions).T[met]
        step = 1e-6 * np.eye(3)[:, None]
        ends = [implicit(part, points + sign * step) for sign in (1, -1)]
        active = implicit(part, points).argmax(axis=0)
        gradient = (ends[0] - ends[1])[active, :, np.arange(len(points))]
        gradient /= np.linalg.norm(gradient, axis=-1, keepdims=True)
        # Beside an edge the differences straddle two faces.
        levels = np.sort(implicit(part, points), axis=0)
        smooth = np.ones(len(points), bool)
        if len(levels) > 1:
            smooth = levels[-1] - levels[-2] > 1e-4
        assert smooth.sum() > 20
        normal = found.normal[:, met].T
        # Differences of numbers of 1 at 2e-6 apart: 1e-16 / 1e-6, and the curvature.
        np.testing.assert_allclose(normal[smooth], gradient[smooth], atol=1e-6)
        toward = np.sum(normal * directions.T[met], axis=-1)
        assert (toward < 0).all()  # outward, where the ray comes from


def test_rays_along_faces_and_axes_are_met_too():
    tube = Solid("tube", (solids.frustum((0, 0, 0), (0.5, 0.5), 1, "#ffffff"),))
    brick = Solid("brick", (solids.box((0, 0, 0), (0.5, 0.5, 0.5), "#ffffff"),))
    roof = Solid("roof", (solids.gable((0, 0, 0), (0.5, 0.5, 0.5), "#ffffff"),))
    start = np.array([[0.1, 0.6, 0.2], [2, 2, 2], [0, 0, 0.2]])  # two meet, one passes
    down = np.array([[0.0] * 3, [-1.0] * 3, [0.0] * 3])
    for solid, first in ((tube, 1.5), (brick, 1.5), (roof, 1.7)):
        found = solids.hit(solid, start, down).distance
        second = 1.5 if solid is not roof else 1.9
        np.testing.assert_allclose(found, [first, math.inf, second], atol=1e-12)


def test_a_ball_subtends_the_arcsine_of_radius_over_distance():
    radius, distance = 0.6, 2.5
    ball = Solid("ball", (solids.ellipsoid((0, 0, 0), radius, "#ff0000"),))
    angles = math.asin(radius / distance) + np.array([-1e-9, 1e-9])
    directions = np.stack([np.sin(angles), 0 * angles, -np.cos(angles)])
    found = solids.hit(ball, np.array([[0.0], [0.0], [distance]]), directions)
    assert np.isfinite(found.distance).tolist() == [True, False]
    # And of the image: the disc has the radius tan(asin(r / d)) in the image plane.
    camera = cameras.from_degrees(40.0, 25.0, distance, 50.0)
    seen = render(ball, camera, 64)
    reach = math.tan(math.asin(radius / distance)) / math.tan(math.radians(25))
    share = math.pi * reach**2 / 4
    # Of 256 x 256 points, those of a border of 2 pi reach 128 fall here or there.
    error = 3 * math.sqrt(2 * math.pi * reach * 128) / 256**2
    assert seen.opacity.mean() == pytest.approx(share, abs=error)
    middle = seen.depth[31:33, 31:33].mean()
    assert middle == pytest.approx(distance - radius, abs=2e-3)
    backward = np.asarray(cameras.axes(camera)[2])
    np.testing.assert_allclose(
        seen.normal[31:33, 31:33].mean((0, 1)), backward, atol=2e-2
    )
    assert (seen.normal[0, 0] == 0).all() and seen.depth[0, 0] == 0


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_rays_are_those_of_cameras(size):
    height, width = size
    camera = cameras.from_degrees(75.0, -20.0, 2.2, 55.0)
    numbers = np.array([float(field) for field in camera])
    origin, directions = solids._rays(numbers, height, width, 1)
    expected = cameras.rays(camera, height, width)
    np.testing.assert_allclose(origin[:, 0], expected.origin[0, 0], atol=2e-6)
    np.testing.assert_allclose(
        directions.T.reshape(height, width, 3), expected.direction, atol=1e-6
    )
    # Supersampled: the pixels of an image twice as large, by blocks.
    _, directions = solids._rays(numbers, height, width, 2)
    fine = np.asarray(cameras.rays(camera, 2 * height, 2 * width).direction)
    blocks = fine.reshape(height, 2, width, 2, 3).swapaxes(1, 2)
    np.testing.assert_allclose(
        directions.T.reshape(height, width, 2, 2, 3), blocks, atol=1e-6
    )


def test_shading_by_hand():
    ball = Solid("ball", (solids.ellipsoid((0, 0, 0), 0.9, "#336699"),))
    camera = cameras.from_degrees([0.0, 180.0])
    albedo = render(ball, camera, (1, 1), supersample=1, shading="albedo")
    color = np.array([0x33, 0x66, 0x99]) / 255
    np.testing.assert_allclose(albedo.image[:, 0, 0], [color, color], atol=1e-6)
    # Light from the camera at the front, along the normal; behind only ambient light.
    lit = render(
        ball, camera, (1, 1), supersample=1, light=(0, 0, 2), ambient=0.25
    ).image[:, 0, 0]
    np.testing.assert_allclose(lit, [color, 0.25 * color], atol=1e-6)
    # From 60 degrees beside: the cosine.
    beside = (0, math.sin(math.pi / 3), math.cos(math.pi / 3))
    lit = render(ball, camera, 1, supersample=1, light=beside, ambient=0.0).image
    np.testing.assert_allclose(lit[0, 0, 0], 0.5 * color, atol=1e-6)
    black = render(ball, camera, 9, background=0.0)
    white = render(ball, camera, 9)
    np.testing.assert_allclose(
        white.image - black.image,
        (1 - white.opacity)[..., None] + np.zeros(3),
        atol=1e-6,
    )


def around(num=8, elevation=15.0, beside=0.0):
    azimuths = np.arange(num) * 360 / num + beside
    return cameras.from_degrees(azimuths, elevation)


@pytest.mark.parametrize("name", SOLIDS)
def test_a_solid_lies_in_the_ball_of_radius_1(name):
    rng = np.random.default_rng(0)
    start = rng.standard_normal((3, 20_000))
    start *= 3 / np.linalg.norm(start, axis=0)
    to = rng.uniform(-1, 1, (3, 20_000)) - start
    directions = to / np.linalg.norm(to, axis=0)
    found = solids.hit(SOLIDS[name], start, directions)
    met = np.isfinite(found.distance)
    points = start[:, met] + found.distance[met] * directions[:, met]
    assert 0.75 < np.linalg.norm(points, axis=0).max() <= 1  # and uses the room


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("shading", ["shaded", "albedo"])
def test_every_side_of_a_solid_is_its_own(name, shading):
    """Opposite views differ by a margin, and a view is known by its image."""
    images = render(SOLIDS[name], around(), 16, shading=shading).image
    errors = np.mean((images[:, None] - images[None]) ** 2, axis=(-3, -2, -1))
    opposite = errors[np.arange(8), (np.arange(8) + 4) % 8]
    assert (opposite > 1e-2).all()  # less than 20 dB apart
    # From 10 degrees beside and another height it still is nearest to its own.
    moved = render(
        SOLIDS[name], around(elevation=20.0, beside=10.0), 16, shading=shading
    ).image
    errors = np.mean((moved[:, None] - images[None]) ** 2, axis=(-3, -2, -1))
    np.testing.assert_array_equal(errors.argmin(axis=1), np.arange(8))


def test_the_snowman_faces_plus_z_with_its_red_mitten_on_its_left():
    """Azimuth 0 sees the carrot; its left-hand side is on the image's right."""
    front, left, back, _ = render(SOLIDS["snowman"], around(4, 0.0), 32).image
    orange, green, red = np.array(
        [[0.95, 0.5, 0.15], [0.16, 0.6, 0.3], [0.84, 0.15, 0.24]]
    )

    def where(image, color):
        """Return the columns of pixels of about this hue."""
        ratio = image / image.max(axis=-1, keepdims=True)
        near = np.abs(ratio - color / color.max()).max(axis=-1) < 0.15
        return np.nonzero(near)[1]

    assert abs(np.median(where(front, orange)) - 15.5) < 1  # the carrot
    assert len(where(back, green)) > 20 and len(where(front, green)) < 3
    assert where(left, orange).max() < 16 < where(left, green).min()
    assert where(front, red).max() > 24 and where(back, red).min() < 8


def test_renders_of_many_cameras_are_those_of_each():
    many = cameras.from_degrees(np.array([[0.0, 50.0], [100.0, 200.0]]), 10.0)
    all_at_once = render(SOLIDS["car"], many, (6, 8))
    assert all_at_once.image.shape == (2, 2, 6, 8, 3)
    assert all_at_once.opacity.shape == (2, 2, 6, 8)
    one = render(SOLIDS["car"], cameras.from_degrees(100.0, 10.0), (6, 8))
    for whole, part in zip(all_at_once, one, strict=True):
        assert whole.dtype == np.float32
        np.testing.assert_allclose(whole[1, 0], part, atol=1e-6)
    assert all_at_once.image.min() >= 0 and all_at_once.image.max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "use 1 or more"),
        ({"size": 4, "supersample": 0}, "use 1 or more"),
        ({"size": 4, "distance": 0.9}, "inside the ball"),
    ],
)
def test_what_cannot_be_rendered_is_refused(options, message):
    camera = cameras.from_degrees(0.0, distance=options.pop("distance", 3.0))
    with pytest.raises(UserError, match=message):
        render(SOLIDS["mug"], camera, **options)
