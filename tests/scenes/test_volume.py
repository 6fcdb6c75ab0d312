"""Volume rendering against integrals in closed form, and gradients in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras, volume
from ddpm_jax.scenes.cameras import Rays
from ddpm_jax.scenes.fields import VoxelGrid
from ddpm_jax.scenes.shading import Light, sample_directions, shade, unit

RAY = Rays(jnp.array([0.0, 0.0, 3.0]), jnp.array([0.0, 0.0, -1.0]))  # t = 3 - z
look = jax.jit(volume.render, static_argnames=("field", "num_samples", "with_normals"))
BOUNDS = (jnp.array(2.0), jnp.array(4.0))  # z from 1 to -1
RED, BLUE = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0])


def constant(density, color):
    """A field of one density and color."""

    def field(params, points):
        del params
        return (
            jnp.full(points.shape[:-1], density, points.dtype),
            jnp.broadcast_to(jnp.asarray(color, points.dtype), points.shape),
        )

    return field


def split(front, back, at=0.0):
    """One (density, color) for z above `at`, another below."""

    def field(params, points):
        del params
        is_front = points[..., 2] > at
        density = jnp.where(is_front, front[0], back[0])
        return density, jnp.where(is_front[..., None], front[1], back[1])

    return field


# --- Where along a ray ----------------------------------------------------------------


def test_bounds_of_the_ball_are_the_roots_of_a_quadratic():
    camera = cameras.from_degrees([10.0, 200.0], [20.0, -40.0], 2.2, 80.0)
    rays = cameras.rays(camera, 9, 9)
    near, far = volume.ball_bounds(rays, 0.8)
    # |o + t d|^2 = r^2, in NumPy float64.
    o, d = np.asarray(rays.origin, np.float64), np.asarray(rays.direction, np.float64)
    half_b, c = (o * d).sum(-1), (o * o).sum(-1) - 0.64
    square = half_b**2 - c
    hits, misses = square > 1e-3, square < -1e-6
    root = np.sqrt(np.maximum(square, 0.0))
    assert 0.1 < hits.mean() < 0.9
    np.testing.assert_allclose(near[hits], (-half_b - root)[hits], atol=2e-5)
    np.testing.assert_allclose(far[hits], (-half_b + root)[hits], atol=2e-5)
    np.testing.assert_array_equal(near[misses], far[misses])
    slopes = jax.grad(lambda o: volume.ball_bounds(Rays(o, rays.direction))[0].sum())
    assert jnp.isfinite(slopes(rays.origin)).all()


def test_a_camera_in_the_ball_sees_from_where_it_is():
    near, far = volume.ball_bounds(Rays(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0])))
    assert (float(near), float(far)) == (0.0, 1.0)


def test_samples_are_one_in_each_part():
    near, far = jnp.array([1.0, 2.0]), jnp.array([3.0, 2.5])
    middles = volume.sample_distances(near, far, 4)
    np.testing.assert_allclose(middles[0], [1.25, 1.75, 2.25, 2.75], rtol=1e-6)
    for seed in range(3):
        key = jax.random.key(seed)
        drawn = volume.sample_distances(
            jnp.full((2000,), 1.0), jnp.full((2000,), 3.0), 4, key
        )
        within = np.asarray((drawn - 1.0) / 0.5 - jnp.arange(4))
        assert (within >= -1e-6).all() and (within <= 1 + 1e-6).all()
        # Even in the part: mean 1/2, variance 1/12, 8000 draws, five deviations.
        assert abs(within.mean() - 0.5) < 5 * (1 / 12 / 8000) ** 0.5
        assert abs(within.var() - 1 / 12) < 5 * (1 / 180 / 8000) ** 0.5


# --- Closed forms ---------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", [None, 0])
def test_a_uniform_slab_is_exact_for_any_samples(num_samples, seed):
    key = None if seed is None else jax.random.key(seed)
    seen = volume.render(
        constant(0.7, RED), None, RAY, key, num_samples, bounds=BOUNDS, background=BLUE
    )
    opacity = 1 - math.exp(-0.7 * 2)
    assert float(seen.opacity) == pytest.approx(opacity, abs=1e-6)
    np.testing.assert_allclose(seen.color, [opacity, 0, 1 - opacity], atol=1e-6)


@pytest.mark.parametrize("num_samples", [2, 6, 50])
def test_two_slabs_are_exact(num_samples):
    field = split((0.4, RED), (1.5, BLUE))
    seen = volume.render(field, None, RAY, None, num_samples, bounds=BOUNDS)
    front, back = 1 - math.exp(-0.4), 1 - math.exp(-1.5)
    passed = math.exp(-0.4 - 1.5)
    wanted = [front + passed, passed, math.exp(-0.4) * back + passed]  # on white
    np.testing.assert_allclose(seen.color, wanted, atol=1e-6)
    assert float(seen.opacity) == pytest.approx(1 - passed, abs=1e-6)


def ramp_errors(read, exact, nums):
    """Errors of a density of 1.3 whose color rises along the ray, in float64."""
    with jax.enable_x64(True):
        ray = Rays(*(jnp.asarray(np.asarray(leaf), jnp.float64) for leaf in RAY))
        bounds = tuple(jnp.asarray(float(b), jnp.float64) for b in BOUNDS)

        def field(params, points):
            rise = 0.5 * (1.0 - points[..., 2])  # (t - 2) / 2: 0 to 1
            return jnp.full(rise.shape, 1.3), jnp.stack([rise] * 3, -1)

        return [
            abs(
                float(read(volume.render(field, None, ray, None, num, bounds=bounds)))
                - exact
            )
            for num in nums
        ]


def test_a_color_ramp_converges_with_order_2():
    k, length = 1.3, 2.0
    passed = math.exp(-k * length)
    # int_0^l k exp(-k u) u / l du, and what passes is white.
    exact = (1 - passed * (1 + k * length)) / (k * length) + passed
    nums = [8, 16, 32, 64]
    errors = ramp_errors(lambda seen: seen.color[0], exact, nums)
    order = -np.polyfit(np.log(nums), np.log(errors), 1)[0]
    assert order == pytest.approx(2.0, abs=0.02)
    assert errors[-1] < 1e-4


def test_depth_is_the_mean_distance_at_which_light_ends():
    k, length = 1.3, 2.0
    # int_0^l exp(-k u) du beyond near: the mean of min(u, l) for an exponential u.
    exact = 2.0 + (1 - math.exp(-k * length)) / k
    nums = [8, 16, 32]
    errors = ramp_errors(lambda seen: seen.depth, exact, nums)
    order = -np.polyfit(np.log(nums), np.log(errors), 1)[0]
    assert order == pytest.approx(2.0, abs=0.05)
    empty = volume.render(constant(0.0, RED), None, RAY, None, 4, bounds=BOUNDS)
    assert float(empty.depth) == 4.0 and float(empty.opacity) == 0.0
    np.testing.assert_array_equal(empty.color, 1.0)  # nothing but the background


def test_an_opaque_front_hides_what_is_behind_exactly():
    colors = [
        volume.render(
            split((1e4, RED), (density, color)), None, RAY, None, 8, bounds=BOUNDS
        ).color
        for density, color in ((0.0, BLUE), (1e4, BLUE), (3.0, RED))
    ]
    np.testing.assert_array_equal(colors[0], RED)
    np.testing.assert_array_equal(colors[0], colors[1])
    np.testing.assert_array_equal(colors[0], colors[2])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_and_transmittance_sum_to_1(seed):
    key = jax.random.key(seed)
    # From empty to opaque, over ten orders of magnitude.
    density = jnp.exp(jax.random.uniform(key, (200, 30), minval=-12.0, maxval=11.0))
    weights, passed = volume.ray_weights(density, jnp.full((200, 1), 0.05))
    assert (weights >= 0).all() and (passed >= 0).all()
    np.testing.assert_allclose(weights.sum(-1) + passed, 1.0, atol=3e-6)


def test_rays_beside_the_ball_see_the_background():
    rays = cameras.rays(cameras.from_degrees(0.0, field_of_view=90.0), 3, 3)
    seen = volume.render(constant(5.0, RED), None, rays, None, 4, background=BLUE)
    for row, column in ((0, 0), (0, 2), (2, 2)):
        np.testing.assert_array_equal(seen.color[row, column], BLUE)
        assert float(seen.opacity[row, column]) == 0.0
    assert float(seen.opacity[1, 1]) > 0.99


def test_no_samples_are_refused():
    with pytest.raises(UserError, match="num_samples=0"):
        volume.render(constant(1.0, RED), None, RAY, None, 0)


# --- Normals and light ----------------------------------------------------------------


@functools.cache
def ball(sharpness=60.0, level=200.0, radius=0.6):
    """An opaque ball whose density rises smoothly inwards, down to the middle."""

    def field(params, points):
        del params
        distance = jnp.sqrt(jnp.sum(points**2, -1) + 1e-12)
        # Below the surface it rises on: normals are those of the ball everywhere.
        density = level * jax.nn.softplus(sharpness * (radius - distance))
        return density, jnp.broadcast_to(RED, points.shape)

    return field


def shell(radius=0.6):
    """A ball turned inside out: dense around, and empty within."""

    def field(params, points):
        del params
        distance = jnp.sqrt(jnp.sum(points**2, -1) + 1e-12)
        density = 200.0 * jax.nn.softplus(60.0 * (distance - radius))
        return density, jnp.broadcast_to(RED, points.shape)

    return field


FRAME = cameras.rays(cameras.from_degrees(30.0, 20.0, 3.0, 25.0), 8, 8)


def test_normals_of_a_ball_point_away_from_its_middle():
    seen = look(ball(), None, FRAME, None, 128, with_normals=True)
    points = FRAME.origin[..., None, :] + (
        seen.distances[..., None] * FRAME.direction[..., None, :]
    )
    counts = np.asarray(seen.weights) > 1e-5
    np.testing.assert_allclose(seen.normals[counts], unit(points)[counts], atol=1e-4)
    covered = np.asarray(seen.opacity) > 0.999
    assert covered.sum() > 30
    lengths = np.linalg.norm(np.asarray(seen.normal)[covered], axis=-1)
    assert lengths.min() > 0.97 and lengths.max() < 1 + 1e-5
    # Where there is no slope there is no normal, and no NaN.
    flat = volume.render(constant(1.0, RED), None, RAY, with_normals=True)
    np.testing.assert_array_equal(flat.normals, 0.0)


def test_orientation_is_0_from_outside_and_not_within_a_shell():
    seen = look(ball(), None, FRAME, None, 128, with_normals=True)
    loss = volume.orientation(seen.weights, seen.normals, FRAME.direction)
    # A ray that grazes the rim counts a little beyond its nearest point.
    assert float(loss[2:6, 2:6].max()) < 1e-6
    within = Rays(jnp.zeros_like(FRAME.origin), FRAME.direction)
    # Seen from within, the density rises towards the shell: its normals face inwards,
    # as a wall's do. Turned around, the ray leaves a ball through its back.
    seen = volume.render(shell(), None, within, None, 128, with_normals=True)
    loss = volume.orientation(seen.weights, seen.normals, within.direction)
    assert float(loss.max()) < 1e-6
    seen = look(ball(), None, within, None, 128, with_normals=True)
    loss = volume.orientation(seen.weights, seen.normals, within.direction)
    np.testing.assert_allclose(loss, seen.opacity, atol=1e-3)


def test_orientation_by_hand_and_with_weights_stopped():
    weights = jnp.array([0.5, 0.25, 0.25])
    normals = jnp.array([[0.0, 0.0, -0.6], [0.0, 0.0, 1.0], [0.8, 0.0, -0.6]])
    direction = jnp.array([0.0, 0.0, -1.0])
    # Two of the three look the way of the ray: 0.5 0.36 + 0.25 0.36.
    loss = volume.orientation(weights, normals, direction)
    assert float(loss) == pytest.approx(0.27, rel=1e-6)
    of_weights, of_normals = jax.grad(volume.orientation, (0, 1))(
        weights, normals, direction
    )
    np.testing.assert_array_equal(of_weights, 0.0)
    # 2 w (n . d) d
    np.testing.assert_allclose(of_normals[:, 2], [-0.6, 0.0, -0.3], rtol=1e-6)


def test_regularizers_of_opacity_by_hand():
    opacity = jnp.array([0.0, 0.25, 0.5, 1.0])
    quarter = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    np.testing.assert_allclose(
        volume.opacity_entropy(opacity), [0, quarter, math.log(2), 0], atol=2e-4
    )
    np.testing.assert_allclose(
        volume.opacity_size(opacity),
        [0.1, 0.0725**0.5, 0.26**0.5, 1.01**0.5],
        rtol=1e-6,
    )
    # Fog below one half thins out, above it fills; no slope is infinite.
    slope = jax.vmap(jax.grad(volume.opacity_entropy))(
        jnp.array([-1e-7, 0.0, 0.25, 0.75, 1.0, 1.0 + 1e-6])
    )
    assert jnp.isfinite(slope).all()
    assert float(slope[2]) == pytest.approx(math.log(3), rel=1e-5)
    assert float(slope[3]) == pytest.approx(-math.log(3), rel=1e-5)


def test_lambert_by_hand():
    color, up = jnp.array([0.2, 0.4, 0.8]), jnp.array([0.0, 1.0, 0.0])
    slanted = jnp.array([0.8, 0.6, 0.0])
    lit = shade(color, slanted, Light(up, 0.1))
    np.testing.assert_allclose(lit, color * (0.1 + 0.9 * 0.6), rtol=1e-6)
    np.testing.assert_allclose(
        shade(color, -up, Light(up, 0.1)), 0.1 * color, rtol=1e-6
    )
    np.testing.assert_array_equal(shade(color, slanted, Light(up, 1.0)), color)
    white = shade(color, slanted, Light(up, 0.1, 1.0))
    np.testing.assert_allclose(white, 0.1 + 0.9 * 0.6, rtol=1e-6)


def test_a_lit_ball_is_shaded_by_the_angle_to_the_light():
    light = Light(unit(jnp.array([1.0, 1.0, 1.0])), 0.2)
    lit = look(ball(), None, FRAME, None, 512, light=light)
    middle = lit.color[2:6, 2:6, 0]
    normal = lit.normal[2:6, 2:6]
    wanted = 0.2 + 0.8 * jnp.maximum(normal @ light.direction, 0.0)
    np.testing.assert_allclose(middle, wanted, atol=5e-3)
    plain = look(ball(), None, FRAME, None, 64)
    ambient = Light(light.direction, 1.0)
    same = look(ball(), None, FRAME, None, 64, light=ambient)
    np.testing.assert_array_equal(plain.color, same.color)


def test_each_view_may_have_a_light_of_its_own():
    camera = cameras.from_degrees([0.0, 90.0])
    rays = cameras.rays(camera, 4, 4)
    towards = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    light = Light(
        towards[:, None, None],
        jnp.array([0.1, 1.0])[:, None, None],
        jnp.zeros((2, 1, 1)),
    )
    both = look(ball(), None, rays, None, 16, light=light)
    for view in range(2):
        alone = look(
            ball(),
            None,
            jax.tree.map(lambda leaf, i=view: leaf[i], rays),
            None,
            16,
            light=Light(towards[view], [0.1, 1.0][view], 0.0),
        )
        np.testing.assert_allclose(both.color[view], alone.color, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lights_stand_around_the_camera(seed):
    position = jnp.broadcast_to(jnp.array([0.0, 0.0, 3.0]), (2000, 3))
    found = sample_directions(jax.random.key(seed), position, 0.5)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1.0, atol=1e-6)
    assert float(found[:, 2].min()) > 0  # z below 0 is six deviations away
    np.testing.assert_allclose(found[:, :2].mean(0), 0.0, atol=0.02)
    exact = sample_directions(jax.random.key(seed), position, 0.0)
    np.testing.assert_allclose(exact, position / 3.0, atol=1e-6)


# --- Gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("lit", [False, True], ids=["plain", "lit"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_are_finite_differences(lit, seed):
    with jax.enable_x64(True):
        grid = VoxelGrid(resolution=4)
        key = jax.random.key(seed)
        params = {"grid": 3.0 * jax.random.normal(key, (4, 4, 4, 4), jnp.float64)}
        camera = cameras.Camera(
            *(jnp.asarray(x, jnp.float64) for x in (0.4, 0.3, 3.0, 0.6))
        )
        rays = cameras.rays(camera, 3, 3)
        light = Light(unit(jnp.array([0.3, 0.9, 0.2], jnp.float64)), 0.1)

        @jax.jit
        def loss(params):
            seen = volume.render(
                grid.apply, params, rays, None, 9, light=light if lit else None
            )
            total = jnp.sum(jnp.sin(5 * seen.color)) + jnp.sum(seen.opacity**2)
            return total + jnp.sum(volume.opacity_entropy(seen.opacity))

        gradient = jax.grad(loss)(params)["grid"]
        way = jax.random.normal(jax.random.key(seed + 10), gradient.shape, jnp.float64)
        step = 1e-6
        ahead, behind = (
            loss({"grid": params["grid"] + sign * step * way}) for sign in (1, -1)
        )
        found = float((ahead - behind) / (2 * step))
        assert float(jnp.sum(gradient * way)) == pytest.approx(found, rel=1e-6)
        assert abs(found) > 1e-2
