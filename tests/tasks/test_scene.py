"""The task of a scene: views, levels and weights of a step, with priors by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import distillation, schedules
from ddpm_jax.diffusion.process import Prediction, eps_from_x0
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Fit, Scene, VoxelGrid
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.scenes import cameras
from ddpm_jax.scenes.fields import FieldSpec
from ddpm_jax.tasks import scene, views
from ddpm_jax.tasks.scene import SceneModel
from ddpm_jax.tasks.views import Prior

SCHEDULE = schedules.Cosine(100).build()
SMALL = Scene(field=VoxelGrid(resolution=4), num_samples=4)
NUM_VIEWS, NUM_STEPS = 4, 10
# Of the front, the left side, the back, the right side, and from overhead.
COLORS = [(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, -1), (-1, -1, -1)]
KEY = jax.random.key(3)


def batch(step=0, rows=range(NUM_VIEWS)):
    view = jnp.asarray(list(rows), jnp.int32)
    return {"view": view, "step": jnp.full(view.shape, step, jnp.int32)}


def colored(size=4):
    """A prior that sees each side in a color of its own, whatever the image."""
    colors = jnp.array(COLORS, jnp.float32)[:, None, None]

    def denoise(x_t, level, cond):
        x0 = jnp.broadcast_to(cond, x_t.shape)
        return Prediction(x0, eps_from_x0(x0, x_t, level))

    return Prior(denoise, SCHEDULE, (size, size), colors)


def gradient_of(spec, prior, step=0):
    objective = scene.make_objective(spec, prior, NUM_VIEWS, NUM_STEPS)
    params = spec.field.init(jax.random.key(0))
    return jax.jit(jax.grad(objective, has_aux=True))(params, KEY, batch(step), ())


def test_rows_are_views_of_one_step_and_any_may_be_missing():
    objective = scene.make_objective(SMALL, colored(), NUM_VIEWS, NUM_STEPS)
    seen = []

    def spy(x_t, level, cond):
        seen.append(np.asarray(cond[:, 0, 0]))
        return colored().denoise(x_t, level, cond)

    objective = scene.make_objective(
        SMALL, colored()._replace(denoise=spy), NUM_VIEWS, NUM_STEPS
    )
    params = SMALL.field.init(jax.random.key(0))
    objective(params, KEY, batch(), ())
    objective(params, KEY, batch(rows=[2, 0]), ())
    np.testing.assert_array_equal(seen[1], seen[0][[2, 0]])
    # Each row is conditioned on the side that its camera sees: as drawn by hand.
    of_cameras = jax.random.split(KEY, 5)[0]
    drawn = cameras.sample_cameras(
        of_cameras, NUM_VIEWS, SMALL.cameras, stratified=True
    )
    colors = np.asarray(colored().cond)[:, 0, 0]
    np.testing.assert_array_equal(seen[0], colors[np.asarray(cameras.view_of(drawn))])
    assert len(np.unique(seen[0], axis=0)) > 1


def test_a_scene_becomes_as_its_prior_sees_it():
    """Each side has a color: descent ends with renders of these colors."""
    spec = Scene(field=VoxelGrid(resolution=6), num_samples=8, entropy=0.0)
    prior = colored()
    objective = scene.make_objective(spec, prior, NUM_VIEWS, 100)
    fit = Fit(learning_rate=0.2, warmup_steps=0, num_steps=100, max_grad_norm=0.0)
    optimizer = fit.transformation()

    @jax.jit
    def train(seed):
        params = spec.field.init(jax.random.key(seed))

        def step(carry, number):
            params, state = carry
            gradient, (metrics, _) = jax.grad(objective, has_aux=True)(
                params, jax.random.fold_in(jax.random.key(seed), number), batch(0), ()
            )
            updates, state = optimizer.update(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            return (params, state), metrics["loss"]

        first = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(step, first, jnp.arange(100))
        return params, losses

    colors = 0.5 * (1 + np.asarray(prior.cond)[:, 0, 0])
    for seed in range(3):
        params, losses = train(seed)
        model = SceneModel(spec, params, {})
        middle = np.asarray(model.render(cameras.orbit(4, 10.0), 3).color[:, 1, 1])
        errors = np.linalg.norm(middle[:, None] - colors[None, :4], axis=-1)
        assert (errors.argmin(1) == np.arange(4)).all(), errors
        assert losses[-20:].mean() < losses[:5].mean()


def test_regularizers_rise_from_nothing():
    lit = Scene(
        field=VoxelGrid(resolution=4), num_samples=4, entropy=3.0, orientation=2.0
    )
    plain = Scene(field=VoxelGrid(resolution=4), num_samples=4, entropy=0.0)
    first, last = (gradient_of(lit, colored(), step)[0] for step in (0, 9))
    alone, (metrics, _) = gradient_of(plain, colored(), 0)
    np.testing.assert_allclose(first["grid"], alone["grid"], atol=1e-7)
    assert np.abs(last["grid"] - alone["grid"]).max() > 1e-4
    assert "orientation" not in metrics
    assert 0 < float(metrics["opacity"]) < 1


def test_levels_move_from_one_range_to_another():
    spec = Scene(time_low=0.02, time_high=0.98, last_time_high=0.5)
    for done, high in ((0.0, 0.98), (0.5, 0.74), (1.0, 0.5)):
        found = views._times_at(spec, jnp.asarray(done))
        np.testing.assert_allclose(found, (0.02, high), rtol=1e-6)
    still = views._times_at(Scene(), jnp.asarray(1.0))
    np.testing.assert_allclose(still, (0.02, 0.98), rtol=1e-6)


def test_light_comes_on_and_is_white_for_half_of_what_it_lights():
    camera = cameras.sample_cameras(KEY, 4000)
    for seed in range(3):
        key = jax.random.key(seed)
        off = views._random_light(key, camera, jnp.asarray(False))
        assert (off.ambient == 1).all() and (off.textureless == 0).all()
        on = views._random_light(key, camera, jnp.asarray(True))
        shares = [float((on.ambient < 1).mean()), float(on.textureless.mean())]
        # Five deviations of a share of 4000 draws.
        np.testing.assert_allclose(shares, [0.75, 0.375], atol=5 * 0.5 / 4000**0.5)
        assert ((on.textureless == 0) | (on.ambient < 1)).all()


def test_supersampling_averages_rays_of_a_pixel():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(
        views._pooled(image, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]]
    )
    spec = Scene(field=VoxelGrid(resolution=4), num_samples=4, supersampling=2)
    sizes = []

    def spy(x_t, level, cond):
        sizes.append(x_t.shape)
        return colored().denoise(x_t, level, cond)

    gradient_of(spec, colored()._replace(denoise=spy))
    assert sizes == [(NUM_VIEWS, 4, 4, 3)]


def test_a_step_of_the_task_is_that_of_its_objective():
    fit = Fit(
        num_steps=NUM_STEPS,
        batch_size=NUM_VIEWS,
        learning_rate=0.1,
        warmup_steps=0,
        max_grad_norm=0.0,
    )
    task = scene.scene_task(SMALL, colored(), fit, data_mesh())
    state = task.start(task.draw())
    after, metrics = jax.jit(task.step)(state, KEY, batch())
    moved = np.abs(after.params["grid"] - state.params["grid"])
    # The first step of Adam goes the learning rate wherever there is a gradient.
    np.testing.assert_allclose(moved[moved > 1e-3].max(), 0.1, rtol=1e-2)
    assert set(metrics) == {"loss", "opacity", "entropy", "grad_norm"}
    again, _ = jax.jit(task.step)(state, KEY, batch())
    np.testing.assert_array_equal(again.params["grid"], after.params["grid"])
    assert 0 < task.finish(after)["opacity"] < 1


def test_pictures_of_a_scene_from_all_around():
    params = SMALL.field.init(jax.random.key(0))
    model = SMALL.open(params, {"opacity": 0.3})
    orbit = model.orbit(3, size=8)
    for frames in orbit:
        assert frames.shape == (3, 8, 8, 3) and frames.dtype == np.uint8
    np.testing.assert_array_equal(orbit.color[:, 0, 0], 255)  # white beside it
    np.testing.assert_array_equal(orbit.normal[:, 0, 0], 255)
    assert (orbit.depth[:, 0, 0] == 0).all() and orbit.depth[:, 4, 4].min() > 100
    # Seen from the front and a little above, a blob faces +z, blue, and up, green.
    red, green, blue = orbit.normal[0, 3:5, 3:5].mean((0, 1))
    assert blue > 190 and abs(red - 128) < 15 and 135 < green < blue - 20
    with pytest.raises(UserError, match="want leaves"):
        model.render(cameras.from_degrees(0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_low": 0.5, "time_high": 0.5}, "time_low=0.5 is not below"),
        ({"time_low": 0.5, "last_time_high": 0.4}, "last_time_high=0.4"),
        ({"time_high": 1.5}, "time_high=1.5"),
        ({"supersampling": 0}, "supersampling=0"),
        ({"entropy": -1.0}, "entropy=-1"),
        ({"guidance_scale": 1.0, "negative_prompt": "a car"}, "negative_prompt does"),
    ],
)
def test_scenes_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Scene(**options)


def test_weights_of_levels_are_those_of_the_mathematics():
    assert {
        "noise_variance": distillation.noise_variance,
        "even": distillation.even,
    } == views.WEIGHTS
    light, heavy = (
        gradient_of(Scene(field=SMALL.field, num_samples=4, weight=w), colored())
        for w in ("noise_variance", "even")
    )
    assert float(heavy[1][0]["loss"]) > float(light[1][0]["loss"])


# --- Its surface ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ball(FieldSpec):
    """A ball of density 200 (radius - |p|), red in front and blue behind; a speck."""

    radius: float = 0.6
    speck: float = 0.0

    def init(self, key):
        del key
        return {"scale": jnp.asarray(200.0)}

    def apply(self, params, points):
        inside = self.radius - jnp.linalg.norm(points, axis=-1)
        beside = self.speck - jnp.linalg.norm(points - 0.5, axis=-1)
        density = params["scale"] * jnp.maximum(jnp.maximum(inside, beside), 0)
        is_front = points[..., 2:] > 0
        color = jnp.where(is_front, jnp.array([0.9, 0.1, 0.1]), jnp.array([0, 0, 1.0]))
        return density, color


def mesh_of(field, num_cells=24):
    model = SceneModel(Scene(field=field), field.init(None), {})
    return model.to_mesh(num_cells)


def volume_of(mesh):
    a, b, c = np.moveaxis(mesh.vertices.astype(np.float64)[mesh.triangles], 1, 0)
    return np.sum(np.cross(a, b) * c) / 6


def test_the_mesh_of_a_ball_is_one():
    """Closed, round to half a cell, which is 1/24, and of its colors."""
    mesh = mesh_of(Ball())
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.6).max() < 1 / 24
    volume = 4 / 3 * np.pi * radius.mean() ** 3
    assert abs(volume_of(mesh) / volume - 1) < 0.03
    edges = np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    directed = {tuple(edge) for edge in edges}
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)
    is_front = mesh.vertices[:, 2] > 0
    np.testing.assert_allclose(
        mesh.colors[is_front], np.tile([0.9, 0.1, 0.1], (is_front.sum(), 1)), atol=1e-6
    )
    np.testing.assert_array_equal(mesh.colors[~is_front][:, 2], 1)


def test_a_speck_is_left_out_of_the_mesh(monkeypatch):
    """It has .7% of the area, and is .87 from the origin."""
    clean = mesh_of(Ball(speck=0.05))
    assert np.linalg.norm(clean.vertices, axis=1).max() < 0.65
    monkeypatch.setattr(scene, "without_floaters", lambda mesh: mesh)
    assert np.linalg.norm(mesh_of(Ball(speck=0.05)).vertices, axis=1).max() > 0.8


def test_an_empty_scene_has_no_mesh():
    with pytest.raises(UserError, match="no surface looks like that"):
        mesh_of(Ball(radius=-1.0))
