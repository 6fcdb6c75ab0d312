"""Cameras against geometry: where they stand, what they see, and how large."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras
from ddpm_jax.scenes.cameras import CameraRange

ROUNDING = 2e-6  # a few units of float32 at 3
AROUND = cameras.from_degrees(
    np.linspace(-180, 345, 24)[:, None], np.linspace(-90, 90, 7), 2.5, 50.0
)  # [24, 7]


@pytest.mark.parametrize(
    ("azimuth", "elevation", "place"),
    [
        (0, 0, (0, 0, 3)),
        (90, 0, (3, 0, 0)),
        (180, 0, (0, 0, -3)),
        (-90, 0, (-3, 0, 0)),
        (0, 90, (0, 3, 0)),
        (0, -90, (0, -3, 0)),
        (0, 30, (0, 1.5, 3 * math.cos(math.pi / 6))),
    ],
)
def test_cameras_stand_where_their_angles_say(azimuth, elevation, place):
    camera = cameras.from_degrees(azimuth, elevation)
    np.testing.assert_allclose(cameras.positions(camera), place, atol=ROUNDING)


def test_azimuth_of_90_degrees_turns_plus_z_to_plus_x():
    right, up, backward = cameras.axes(cameras.from_degrees(90.0))
    np.testing.assert_allclose(backward, (1, 0, 0), atol=ROUNDING)
    # From +x, what is to the right is away from the front.
    np.testing.assert_allclose(right, (0, 0, -1), atol=ROUNDING)
    np.testing.assert_allclose(up, (0, 1, 0), atol=ROUNDING)


def test_axes_are_a_right_handed_frame_with_up_up():
    right, up, backward = (np.asarray(a) for a in cameras.axes(AROUND))
    frame = np.stack([right, up, backward], -1)
    gram = np.swapaxes(frame, -1, -2) @ frame
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-6)
    np.testing.assert_allclose(np.cross(right, up), backward, atol=1e-6)
    assert (up[..., 1] > -1e-6).all() and (right[..., 1] == 0).all()


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (6, 3)])
def test_the_middle_of_the_image_looks_at_the_origin(size):
    rays = cameras.rays(AROUND, *size)
    mean = rays.direction.sum((-3, -2))
    mean = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    position = cameras.positions(AROUND)
    np.testing.assert_allclose(mean, -position / 2.5, atol=ROUNDING)
    np.testing.assert_allclose(np.linalg.norm(rays.direction, axis=-1), 1, atol=1e-6)
    assert rays.origin.shape == rays.direction.shape == (24, 7, *size, 3)


def test_the_field_of_view_is_the_full_vertical_angle():
    camera = cameras.from_degrees(33.0, 12.0, 3.0, 50.0)
    # Through the upper edge of the first row and the lower one of the last.
    top = cameras.rays(camera, 4, 2, (1.0, 0.0)).direction[0, 0]
    bottom = cameras.rays(camera, 4, 2, (1.0, 1.0)).direction[-1, 0]
    angle = math.degrees(math.acos(float(top @ bottom)))
    assert angle == pytest.approx(50.0, abs=1e-3)
    assert top[1] > bottom[1]  # the first row is the top


def test_pixels_are_square():
    camera = cameras.from_degrees(0.0, 0.0, 3.0, 50.0)
    x, y, z = np.moveaxis(np.asarray(cameras.rays(camera, 4, 12).direction), -1, 0)
    step = 2 * math.tan(math.radians(25)) / 4
    np.testing.assert_allclose(np.diff(x / -z, axis=1), step, rtol=1e-5)
    np.testing.assert_allclose(np.diff(y / -z, axis=0), -step, rtol=1e-5)


@pytest.mark.parametrize(("radius", "distance"), [(1.0, 3.0), (0.4, 2.0)])
def test_a_ball_subtends_the_arc_sine_of_radius_over_distance(radius, distance):
    camera = cameras.from_degrees(70.0, 20.0, distance, 60.0)
    rays = cameras.rays(camera, 400, 400)
    nearest = jnp.linalg.norm(jnp.cross(rays.origin, rays.direction), axis=-1)
    # The silhouette is a disc of radius tan(asin(r / d)) at distance 1.
    share = np.mean(nearest < radius)
    disc = math.tan(math.asin(radius / distance)) / (2 * math.tan(math.radians(30)))
    assert share == pytest.approx(math.pi * disc**2, abs=2e-3)


def test_projection_is_the_inverse_of_rays():
    height, width = 5, 7
    rays = cameras.rays(AROUND, height, width)
    lengths = jax.random.uniform(jax.random.key(0), rays.direction.shape[:-1]) + 0.5
    points = rays.origin + lengths[..., None] * rays.direction
    flat = points.reshape(*AROUND.azimuth.shape, -1, 3)
    places, depth = cameras.project(AROUND, flat)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    wanted = np.stack([2 * columns - width, height - 2 * rows], -1) / height
    wanted = np.broadcast_to(wanted.reshape(-1, 2), places.shape)
    np.testing.assert_allclose(places, wanted, atol=1e-5)
    assert (depth > 0).all()
    at_origin, far = cameras.project(AROUND, jnp.zeros((24, 7, 1, 3)))
    np.testing.assert_allclose(at_origin, 0, atol=1e-6)
    np.testing.assert_allclose(far, 2.5, atol=1e-6)


def test_views_partition_the_sphere():
    named = {
        (0, 0): "front",
        (44, 59): "front",
        (-44, -80): "front",
        (46, 0): "left side",
        (90, 0): "left side",
        (180, 0): "back",
        (-170, 10): "back",
        (270, 0): "right side",
        (-90, 0): "right side",
        (10, 61): "overhead",
        (200, 90): "overhead",
    }
    for (azimuth, elevation), name in named.items():
        view = cameras.view_of(cameras.from_degrees(azimuth, elevation))
        assert cameras.VIEWS[int(view)] == name, (azimuth, elevation)
    # Of directions even on the sphere: sides by azimuth, what is overhead by its cap.
    u = (np.arange(40_000) + 0.5) / 40_000
    heights = np.degrees(np.arcsin(2 * u - 1))
    golden = (np.arange(40_000) * 0.6180339887498949 % 1) * 720 - 360
    view = np.asarray(cameras.view_of(cameras.from_degrees(golden, heights)))
    assert view.min() >= 0 and view.max() < len(cameras.VIEWS)
    cap = (1 - math.sin(math.radians(60))) / 2
    shares = np.bincount(view, minlength=5) / len(view)
    np.testing.assert_allclose(shares, [(1 - cap) / 4] * 4 + [cap], atol=1e-3)


def test_azimuth_bins_are_centered_at_the_views_of_an_orbit():
    for num in (1, 3, 8):
        orbit = cameras.orbit(num)
        np.testing.assert_array_equal(cameras.azimuth_bins(orbit, num), np.arange(num))
    # A whole turn on, and one back, nothing changes.
    turned = cameras.from_degrees(np.array([-315.0, 45.0, 405.0]))
    np.testing.assert_array_equal(cameras.azimuth_bins(turned, 8), 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("stratified", [False, True])
def test_random_cameras_are_even_in_their_ranges(seed, stratified):
    ranges = CameraRange((20, 200), (-10, 60), (2.0, 3.0), (40, 50))
    drawn = cameras.sample_cameras(
        jax.random.key(seed), 4000, ranges, stratified=stratified
    )
    columns = [np.degrees(a) for a in (drawn.azimuth, drawn.elevation)]
    columns += [np.asarray(drawn.distance), np.degrees(drawn.field_of_view)]
    for values, (least, most) in zip(
        columns,
        (ranges.azimuth, ranges.elevation, ranges.distance, ranges.field_of_view),
        strict=True,
    ):
        share = np.sort((values - least) / (most - least))
        assert values.dtype == np.float32 and values.shape == (4000,)
        # Kolmogorov's bound: one of ten thousand draws is beyond it.
        assert np.abs(share - (np.arange(4000) + 0.5) / 4000).max() < 2.2 / 4000**0.5
        assert share[0] > -1e-5 and share[-1] < 1 + 1e-5
    # Four of the numbers of a camera say nothing of each other.
    if not stratified:
        assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 5 / 4000**0.5


def test_stratified_azimuths_see_every_side():
    for seed in range(3):
        drawn = cameras.sample_cameras(
            jax.random.key(seed), 4, CameraRange(elevation=(0, 10)), stratified=True
        )
        assert sorted(int(v) for v in cameras.view_of(drawn)) == [0, 1, 2, 3]


def test_jitter_moves_the_camera_by_at_most_so_much():
    key = jax.random.key(4)
    still = cameras.sample_cameras(key, 500, CameraRange())
    moved = cameras.sample_cameras(key, 500, CameraRange(jitter=0.2))
    shift = np.asarray(cameras.positions(moved) - cameras.positions(still))
    assert 0.15 < np.abs(shift).max() < 0.2 + 1e-5
    np.testing.assert_allclose(shift.mean(0), 0, atol=5 * 0.2 / 1500**0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elevation": (-100, 0)}, "elevation=-100"),
        ({"elevation": (50, 10)}, "least above the most"),
        ({"distance": (1.0, 2.0)}, "within the scene"),
        ({"distance": (1.5, 2.0), "jitter": 0.5}, "within the scene"),
        ({"field_of_view": (0, 40)}, "field_of_view=0"),
        ({"azimuth": (0.0,)}, "not a range"),
        ({"jitter": -1.0}, "jitter=-1"),
    ],
)
def test_cameras_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CameraRange(**options)
