"""The train step against NumPy, by hand, and against itself on more devices."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.codecs.pixels import random_flip
from ddpm_jax.diffusion import losses, schedules
from ddpm_jax.diffusion.process import EPS
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import check_batch_size, data_mesh
from ddpm_jax.tasks.diffusion import make_objective
from ddpm_jax.training import checkpoints
from ddpm_jax.training.optimizers import Adam, clipped, warmup_schedule
from ddpm_jax.training.step import (
    ema_decay,
    init_state,
    make_train_step,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)


def quadratic(params, key, batch, carry):
    """A loss whose gradient is known: |w - mean of the batch|^2 / 2."""
    del key
    error = params["w"] - jnp.mean(batch["image"].astype(jnp.float32))
    loss = 0.5 * jnp.sum(error**2)
    return loss, ({"loss": loss}, carry)


def test_a_rate_that_restarts_falls_to_zero_each_time():
    """Loshchilov and Hutter 2017, eq. (5), after the rises: 4 steps, then 2 and 3."""
    rate = warmup_schedule(2.0, 4, 80, restarts=(20, 50))
    one = warmup_schedule(2.0, 4, 20)
    for step in range(20):  # as if there were no restart
        assert float(rate(step)) == float(one(step))
    rises = {20: 1 / 3, 22: 1.0, 50: 1 / 3}  # a tenth of 30 steps is 3
    for step, share in rises.items():
        part = 0.5 * (1 + math.cos(math.pi * max(0, (step - 20) % 30 - 3) / 27))
        assert float(rate(step)) == pytest.approx(2 * share * part, rel=1e-6)
    assert float(rate(35)) == pytest.approx(1 + math.cos(math.pi * 12 / 27), rel=1e-6)
    assert float(rate(65)) == pytest.approx(float(rate(35)), rel=1e-6)
    last = 1 + math.cos(math.pi * 26 / 27)
    assert float(rate(49)) == pytest.approx(last, rel=1e-4)
    assert float(rate(80)) == 0


def test_three_steps_follow_adam_with_clipping_and_ema_computed_by_hand():
    optimizer = clipped(Adam().build(warmup_schedule(0.1, 2)), 1.0)
    step = make_train_step(quadratic, optimizer, ema_target=0.9, mesh=data_mesh())
    state = init_state({"w": jnp.zeros((2,))}, optimizer)
    batch = {"image": np.full((1, 1, 1, 1), 3, np.uint8)}
    seen = []
    for _ in range(3):
        state, metrics = step(state, jax.random.key(0), batch)
        seen.append(
            [np.asarray(state.params["w"][0]), np.asarray(state.ema_params["w"][0])]
        )

    # Kingma and Ba 2015, Algorithm 1, in float64; gradients clipped to norm 1.
    w, average, m, v = np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2)
    for i in range(1, 4):
        gradient = w - 3.0
        gradient /= max(1.0, np.linalg.norm(gradient))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.1 * min(i / 2, 1.0)
        w = w - rate * (m / (1 - 0.9**i)) / (np.sqrt(v / (1 - 0.999**i)) + 1e-8)
        decay = min(0.9, i / (9 + i))  # (1 + step) / (10 + step), step = i - 1
        average = decay * average + (1 - decay) * w
        np.testing.assert_allclose(seen[i - 1], [w[0], average[0]], rtol=1e-5)
    assert int(state.step) == 3
    # The reported norm is that of the gradient before clipping, where step 3 began.
    at_start = seen[1][0] - 3.0
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(2) * -at_start, rtol=1e-5)


def remembering(params, key, batch, carry):
    """`quadratic`, whose target drifts by what it remembers: its number of calls."""
    loss, (metrics, _) = quadratic(params, key, batch, ())
    drift = carry["calls"] * jnp.sum(params["w"])
    return loss + drift, (metrics, {"calls": carry["calls"] + 1.0})


def test_tracks_and_memory_follow_a_loop_in_numpy():
    stds = (0.05, 0.10)
    optimizer = optax.sgd(0.1)
    step = make_train_step(
        remembering, optimizer, ema_target=0.9, mesh=data_mesh(), ema_stds=stds
    )
    start = {"w": jnp.ones((2,))}
    carry = {"calls": jnp.float32(0)}
    state = init_state(start, optimizer, carry=carry, num_profiles=2)
    batch = {"image": np.full((1, 1, 1, 1), 3, np.uint8)}

    w, averages = 1.0, [np.nan, np.nan]  # of a profile's start nothing is used
    for t in range(1, 9):
        w -= 0.1 * (w - 3.0 + (t - 1))  # the gradient; t - 1 calls before this one
        for i, gamma in enumerate((16.97219860, 6.93720394)):  # of these two lengths
            beta = (1 - 1 / t) ** (gamma + 1)
            averages[i] = (1 - beta) * w + (beta * averages[i] if t > 1 else 0.0)
        before = state
        state, _ = step(state, jax.random.key(0), batch)
        assert before.ema_profiles[1][
            "w"
        ].is_deleted()  # donated, like all of the state
        np.testing.assert_allclose(state.params["w"], [w, w], rtol=1e-5)
        got = [profile["w"][0] for profile in state.ema_profiles]
        np.testing.assert_allclose(got, averages, rtol=1e-5)
        assert float(state.carry["calls"]) == t


def test_four_steps_are_two_and_two_with_a_checkpoint_between(tmp_path):
    optimizer = clipped(Adam().build(warmup_schedule(0.1, 2)), 1.0)
    step = make_train_step(
        remembering, optimizer, ema_target=0.9, mesh=data_mesh(), ema_stds=(0.05, 0.1)
    )

    def start():
        carry = {"calls": jnp.float32(0)}
        return init_state({"w": jnp.arange(3.0)}, optimizer, carry, num_profiles=2)

    def advance(state, first):
        for i in (first, first + 1):
            batch = {"image": np.full((1, 1, 1, 1), 3 + i, np.uint8)}
            state, _ = step(state, jax.random.key(0), batch)
        return state

    whole = advance(advance(start(), 0), 2)
    with checkpoints.open_checkpoints(tmp_path) as opened:
        checkpoints.save(opened, advance(start(), 0), {})
        restored, _, _ = checkpoints.restore_latest(opened, jax.eval_shape(start))
    resumed = advance(restored, 2)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert float(resumed.carry["calls"]) == 4


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (9, 10 / 19), (10**7, 0.9999)]
)
def test_ema_decay_starts_low_and_ends_at_its_target(step, expected):
    assert ema_decay(jnp.int32(step), 0.9999) == pytest.approx(expected, rel=1e-6)


def test_learning_rate_rises_holds_and_falls():
    held = warmup_schedule(2e-4, 5000)
    rates = [float(held(jnp.int32(s))) for s in (0, 2499, 4999, 700_000)]
    assert rates == pytest.approx([4e-8, 1e-4, 2e-4, 2e-4], rel=1e-5)
    falling = warmup_schedule(1.0, 10, 110)
    rates = [float(falling(jnp.int32(s))) for s in (10, 60, 85, 110)]
    assert rates == pytest.approx([1.0, 0.5, 0.5 - np.sqrt(0.125), 0.0], abs=1e-6)


def test_flips_mirror_half_of_the_images_and_nothing_else():
    images = jnp.asarray(np.repeat(IMAGES[:1], 400, axis=0))
    flipped = np.asarray(random_flip(jax.random.key(1), images))
    same = (flipped == IMAGES[0]).all(axis=(1, 2, 3))
    mirrored = (flipped == IMAGES[0][:, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.sum() - 200) < 4 * np.sqrt(400 / 4)  # 4 standard errors


def linear_network(params, x_t, t, cond, dropout_key):
    """A small network, so that what is tested is the objective around it."""
    del cond, dropout_key
    return params["a"] * x_t + params["b"] * (t / 100.0)[:, None, None, None]


def objective():
    schedule = schedules.from_betas(schedules.linear_betas(100))
    return make_objective(linear_network, schedule, losses.simple_loss(EPS))


def test_quartiles_add_up_to_the_mean_loss():
    params = {"a": jnp.float32(0.3), "b": jnp.float32(0.1)}
    batch = {"image": IMAGES}
    loss, (metrics, _) = objective()(params, jax.random.key(2), batch, ())
    assert metrics["quartile_count"].sum() == len(IMAGES)
    assert metrics["quartile_sum"].sum() / len(IMAGES) == pytest.approx(
        float(loss), rel=1e-5
    )


TRAIN_FOUR_STEPS = """
import json, sys
import jax, numpy as np
sys.path.insert(0, "tests/training")
from test_step import IMAGES, linear_network, objective
from ddpm_jax.runtime.devices import data_mesh, rows
from ddpm_jax.training.optimizers import *
from ddpm_jax.training.step import *
optimizer = clipped(Adam().build(warmup_schedule(0.1, 2)), 1.0)
mesh = data_mesh()
step = make_train_step(objective(), optimizer, ema_target=0.9, mesh=mesh)
state = init_state({"a": np.float32(0), "b": np.float32(0)}, optimizer)
for i in range(4):
    batch = {"image": jax.device_put(np.roll(IMAGES, i, axis=1), rows(mesh))}
    state, metrics = step(state, jax.random.key(5), batch)
    assert len(batch["image"].sharding.device_set) == jax.device_count()
print(json.dumps([jax.device_count(), float(metrics["loss"]),
    *[float(v) for v in (*state.params.values(), *state.ema_params.values())]]))
"""


def test_eight_devices_train_as_one():
    results = []
    for count in (1, 8):
        done = subprocess.run(
            [sys.executable, "-c", TRAIN_FOUR_STEPS],
            env={
                "JAX_NUM_CPU_DEVICES": str(count),
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": ".",
                "PATH": "",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    assert [r[0] for r in results] == [1, 8]
    # Equal up to the order in which eight partial sums are added.
    np.testing.assert_allclose(results[1][1:], results[0][1:], rtol=1e-5)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch_size=12 .* 8 device\(s\); use 8 or 16"):
        check_batch_size("config.training.batch_size", 12, 8)


def test_no_clipping_when_asked():
    plain = clipped(Adam().build(optax.constant_schedule(1.0)), 0)
    assert len(jax.tree.leaves(plain.init({"w": jnp.zeros(3)}))) > 0
    huge = {"w": jnp.array([1e6, 1.0, 0.0])}
    updates, state = plain.update(huge, plain.init(huge), huge)
    del updates
    # Adam's first moment after one step is (1 - b1) times the gradient as it came.
    moments = [x for x in jax.tree.leaves(state) if x.shape == (3,)]
    np.testing.assert_allclose(moments[0], 0.1 * huge["w"], rtol=1e-6)
