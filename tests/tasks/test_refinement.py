"""The task of a refined surface: priors by hand whose answer is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import distillation, schedules
from ddpm_jax.diffusion.process import Prediction, eps_from_x0
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Adam, Fit, Refinement, Scene
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.scenes import cameras, measures, solids, surface
from ddpm_jax.scenes.cameras import CameraRange
from ddpm_jax.scenes.fields import FieldSpec
from ddpm_jax.scenes.surface import Surface
from ddpm_jax.scenes.tetrahedra import grid_points
from ddpm_jax.tasks import refinement
from ddpm_jax.tasks.refinement import SurfaceModel
from ddpm_jax.tasks.scene import SceneModel
from ddpm_jax.tasks.views import Prior

SCHEDULE = schedules.Cosine(100).build()
CELLS, SIZE = 8, 24
# From any of these a ball around the origin looks the same.
RANGES = CameraRange(
    elevation=(-60.0, 60.0), distance=(3.0, 3.0), field_of_view=(40.0, 40.0)
)
SMALL = Refinement(
    cameras=RANGES, num_cells=CELLS, supersampling=1, bending=0.01, color_rate=2.0
)
KEY = jax.random.key(3)
RED = "#d02020"
COLOR = np.array([0xD0, 0x20, 0x20]) / 255


def ball(radius, num_cells=CELLS):
    """A gray ball."""
    points = grid_points(num_cells)
    reach = jnp.linalg.norm(points, axis=-1)
    return Surface(reach - radius, jnp.zeros_like(points), jnp.zeros_like(points))


def truth(radius=0.5, views=1, size=SIZE):
    """Images of a red ball, by exact rays, in [0, 1]."""
    solid = solids.Solid("ball", (solids.ellipsoid((0, 0, 0), radius, RED),))
    return solids.render(solid, cameras.orbit(views), size, shading="albedo").image


def knowing(image):
    """The exact denoiser of a set of one image."""

    def denoise(x_t, level, cond=None):
        del cond
        x0 = jnp.broadcast_to(jnp.asarray(2 * image - 1), x_t.shape)
        return Prediction(x0, eps_from_x0(x0, x_t, level))

    return Prior(denoise, SCHEDULE, image.shape[-3:-1])


def batch(step, views=2):
    view = jnp.arange(views, dtype=jnp.int32)
    return {"view": view, "step": jnp.full_like(view, step)}


def radius_of(model):
    """Mean distance of the vertices from the origin."""
    return np.linalg.norm(model.to_mesh().vertices, axis=1).mean()


def test_an_inflated_ball_shrinks_to_what_the_prior_knows():
    """Radius, color and images of the solid, from its exact denoiser; three seeds."""
    image = truth()[0]
    steps = 40
    fit = Fit(
        num_steps=steps,
        batch_size=2,
        optimizer=Adam(b1=0.9, b2=0.99),
        learning_rate=0.2,
        decay="cosine",
        warmup_steps=0,
        max_grad_norm=0.0,
        ema_decay=0.5,
    )
    task = refinement.refinement_task(
        SMALL, knowing(image), ball(0.72), fit, data_mesh()
    )
    first = task.start(task.draw())
    before = SurfaceModel(SMALL, first.params, {})
    step = jax.jit(task.step)
    around = cameras.orbit(4, 20.0)
    wanted = np.broadcast_to(image, (4, *image.shape))

    def errors(model):
        seen = model.render(around, SIZE)
        level = measures.psnr(np.asarray(seen.color), wanted).mean()
        covered = np.abs(np.asarray(seen.opacity) - (wanted[..., 1] < 0.5)).mean()
        return level, covered

    level, covered = errors(before)
    assert abs(radius_of(before) - 0.72) < 0.02
    for seed in range(3):
        state, seen = first, []
        for number in range(steps):
            state, metrics = step(state, jax.random.key(seed), batch(number))
            seen.append(jax.device_get(metrics))
        summary = task.summarize(seen)
        assert summary["loss"] > 0 and np.isfinite(summary["bending"])
        model = SurfaceModel(SMALL, state.ema_params, {})
        assert float(seen[0]["triangles"]) == before.num_triangles
        # A cell is .25 wide.
        assert abs(radius_of(model) - 0.5) < 0.06
        refined, uncovered = errors(model)
        assert refined > level + 8 and uncovered < 0.4 * covered
        np.testing.assert_allclose(
            np.median(model.to_mesh().colors, axis=0), COLOR, atol=0.12
        )
        assert np.abs(state.params["offsets"]).max() > 0.01
        assert model.spec.open(state.ema_params, {}).num_triangles
        assert task.finish(state)["largest_piece"] == 1


def gradient_by(spec):
    """Compile parameters, image that the prior knows -> gradient, metrics."""

    @jax.jit
    def gradient(params, image):
        objective = refinement.make_objective(spec, knowing(image), 2, 10, 1024)
        found, (metrics, _) = jax.grad(objective, has_aux=True)(
            params, KEY, batch(0), ()
        )
        return found, metrics

    return gradient


def test_a_prior_that_agrees_changes_nothing():
    """It knows the render of the very cameras that the step draws."""
    spec = dataclasses.replace(SMALL, bending=0.0, supersampling=2)
    given = ball(0.5)
    drawn = cameras.sample_cameras(
        jax.random.split(KEY, 5)[0], 2, RANGES, stratified=True
    )
    seen = jax.jit(lambda one: surface.render(one, drawn, 16, 16, 1024).images.color)
    pooled = np.asarray(seen(given)).reshape(2, 8, 2, 8, 2, 3).mean((2, 4))
    gradient_of = gradient_by(spec)
    gradient, metrics = gradient_of(given._asdict(), pooled)
    assert float(metrics["loss"]) < 1e-9
    for leaf in gradient.values():
        assert np.abs(leaf).max() < 1e-6
    gradient, metrics = gradient_of(given._asdict(), np.minimum(pooled + 0.2, 1))
    assert float(metrics["loss"]) > 1e-4
    assert np.abs(gradient["colors"]).max() > 1e-4


def test_the_gradient_is_finite_under_light_and_stays_off_what_is_kept():
    spec = dataclasses.replace(SMALL, lit_from=0.0, offset_rate=0.0)
    # Distances of 0, at which triangles have no area.
    params = ball(0.5)._asdict()
    gradient, _ = gradient_by(spec)(params, truth(0.6)[0])
    for name in ("sdf", "colors"):
        assert np.isfinite(gradient[name]).all()
        assert np.abs(gradient[name]).max() > 1e-6
    np.testing.assert_array_equal(gradient["offsets"], 0)


def test_rates_are_of_cells_and_of_what_they_say():
    spec = Refinement(num_cells=8, offset_rate=3.0, color_rate=0.5)
    scale = refinement._at_rates(spec)
    ones = {name: jnp.ones(2) for name in ("sdf", "offsets", "colors")}
    found, _ = scale.update(ones, scale.init(ones), ones)
    for name, rate in {"sdf": 0.25, "offsets": 3.0, "colors": 0.5}.items():
        np.testing.assert_array_equal(found[name], rate)


def test_room_for_triangles():
    assert Refinement().room_for(1000) == 1536  # 1,500 and what fills 512
    assert Refinement().room_for(1024) == 1536
    assert Refinement().room_for(1026) == 2048
    assert Refinement(max_triangles=3000).room_for(1000) == 3000


def small_task(**options):
    spec = dataclasses.replace(SMALL, **options)
    prior = knowing(truth()[0])
    return refinement.refinement_task(spec, prior, ball(0.5), Fit(), data_mesh())


def test_a_surface_without_room_or_triangles_ends_the_run():
    task = small_task()
    found = SurfaceModel(SMALL, ball(0.5)._asdict(), {}).num_triangles
    room = SMALL.room_for(found)

    def of(*numbers):
        return [{"loss": np.float32(1), "triangles": np.float32(n)} for n in numbers]

    for drawn, again in zip(*(task.draw().values() for _ in range(2)), strict=True):
        assert drawn is not again  # each state may be donated
    assert task.summarize(of(found, room))["triangles"] == (found + room) / 2
    with pytest.raises(UserError, match=f"has {room + 1:,} triangles, and there is"):
        task.summarize(of(found, room + 1, found))
    with pytest.raises(UserError, match="surface has vanished"):
        task.summarize(of(found, 0))
    with pytest.raises(UserError, match="room for 100; use a larger config"):
        small_task(max_triangles=100)
    with pytest.raises(UserError, match="surface has vanished"):
        SMALL.open(ball(-1.0)._asdict(), {})


def test_a_surface_is_shown_and_written():
    given = ball(0.6, 16)
    is_front = grid_points(16)[..., 2:] > 0
    colors = jnp.where(is_front, jnp.array([4.0, -4.0, -4.0]), -4.0)
    spec = dataclasses.replace(SMALL, num_cells=16)
    model = SurfaceModel(spec, given._replace(colors=colors)._asdict(), {"a": 1})
    assert f"{model.num_triangles:,} triangles" in repr(model)
    seen = model.render(cameras.from_degrees([0.0, 180.0]), 8)
    red = np.asarray(seen.color)[:, 4, 4]
    np.testing.assert_allclose(red[0], [0.982, 0.018, 0.018], atol=0.01)
    np.testing.assert_allclose(red[1], [0.018, 0.018, 0.018], atol=0.01)
    np.testing.assert_allclose(np.asarray(seen.depth)[:, 4, 4], 2.4, atol=0.03)
    assert np.isinf(np.asarray(seen.depth)[:, 0, 0]).all()
    orbit = model.orbit(2, size=8)
    np.testing.assert_array_equal(orbit.color[:, 0, 0], 255)
    np.testing.assert_array_equal(orbit.normal[:, 0, 0], 255)
    assert (orbit.depth[:, 0, 0] == 0).all()
    assert (orbit.depth[:, 4, 4] > 180).all()  # (4 - 2.4) / 2 of 255 is 204
    assert orbit.normal[0, 4, 4, 2] > 200 > 60 > orbit.normal[1, 4, 4, 2]
    mesh = model.to_mesh()
    assert len(mesh.triangles) <= model.num_triangles
    np.testing.assert_allclose(
        np.linalg.norm(mesh.vertices, axis=1), 0.6, atol=0.5 / 16
    )
    edges = np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    directed = {tuple(edge) for edge in edges}
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)
    with pytest.raises(UserError, match="want leaves"):
        model.render(cameras.from_degrees(0.0))


@dataclasses.dataclass(frozen=True)
class Ball(FieldSpec):
    """A ball of density 200 (.6 - |p|), as bright as it is high."""

    def init(self, key):
        del key
        return {"scale": jnp.asarray(200.0)}

    def apply(self, params, points):
        inside = 0.6 - jnp.linalg.norm(points, axis=-1)
        color = jnp.broadcast_to(0.5 + 0.5 * points[..., 1:2], points.shape)
        return params["scale"] * jnp.maximum(inside, 0), color


def test_a_scene_is_taken_over():
    """Its radius to half a cell, and its colors where the surface is."""
    field = Ball()
    scene = SceneModel(Scene(field=field), field.init(None), {})
    model = SurfaceModel(Refinement(num_cells=12), scene.to_surface(12)._asdict(), {})
    mesh = model.to_mesh()
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.6).max() < 1 / 12
    expected = 0.5 + 0.5 * mesh.vertices[:, 1:2]
    np.testing.assert_allclose(mesh.colors, np.tile(expected, 3), atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_low": 0.6}, "time_low=0.6 is not below"),
        ({"num_cells": 3}, "num_cells=3"),
        ({"max_triangles": 5}, "max_triangles=5"),
        ({"bending": -1.0}, "bending=-1"),
        ({"offset_rate": -1.0}, "offset_rate=-1"),
        ({"color_rate": -0.1}, "color_rate=-0.1"),
        ({"supersampling": 17}, "supersampling=17"),
    ],
)
def test_surfaces_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message) as refused:
        Refinement(**options)
    assert "\n" not in str(refused.value)


def test_its_levels_are_magic3ds():
    spec = Refinement()
    level = distillation.sample_levels(
        KEY, 1000, SCHEDULE, (spec.time_low, spec.last_high)
    )
    shares = np.asarray(level.t) / 100
    assert 0.01 <= shares.min() < 0.05 and 0.45 < shares.max() <= 0.5
