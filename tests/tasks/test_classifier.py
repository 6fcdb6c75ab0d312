import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.tasks.augment import random_shift
from ddpm_jax.tasks.classifier import (
    make_classify_objective,
    smoothed_cross_entropy,
)
from ddpm_jax.training.step import init_state, make_train_step


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_the_loss_is_the_cross_entropy_to_the_smoothed_label(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.standard_normal((6, 4)), np.array([0, 1, 2, 3, 3, 0])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    expected = -(q * np.log(p)).sum(1)
    actual = smoothed_cross_entropy(jnp.asarray(logits), labels, smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_smoothed_loss_is_least_at_the_smoothed_label():
    # The entropy of q: nothing is lower (Gibbs), and the logits log q reach it.
    q = np.array([0.9 + 0.1 / 4, 0.1 / 4, 0.1 / 4, 0.1 / 4])
    reached = smoothed_cross_entropy(jnp.log(q)[None], jnp.array([0]), 0.1)
    np.testing.assert_allclose(reached, -(q * np.log(q)).sum(), rtol=1e-5)


def test_a_shift_moves_the_picture_and_repeats_its_edge():
    height, width, most = 6, 7, 2
    one = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)
    shifted = np.asarray(
        random_shift(jax.random.key(0), jnp.tile(one, (400, 1, 1, 1)), most)
    )
    expected = {}
    rows, columns = np.arange(height), np.arange(width)
    for down in range(-most, most + 1):
        for right in range(-most, most + 1):
            i = np.clip(rows + down, 0, height - 1)
            j = np.clip(columns + right, 0, width - 1)
            expected[one[i][:, j].tobytes()] = (down, right)
    seen = [expected[image.tobytes()] for image in shifted]  # each is one of them
    assert len(set(seen)) == (2 * most + 1) ** 2  # and all of them come
    assert seen.count((0, 0)) < 40


def test_no_shift_is_no_change():
    images = jnp.arange(24, dtype=jnp.uint8).reshape(2, 3, 4, 1)
    assert random_shift(jax.random.key(0), images, 0) is images


def sides(params, x):
    """Read off how light the left and the right half of each picture are."""
    half = x.shape[2] // 2
    logits = params * jnp.stack([x[:, :, :half], x[:, :, half:]], 1).mean((2, 3, 4))
    return x.mean((1, 2)), logits


def test_the_objective_is_the_loss_of_the_pictures_as_floats():
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 4, 1), np.uint8)
    labels = np.array([0, 1, 1, 0, 1, 0], np.int32)
    objective = make_classify_objective(
        sides, label_smoothing=0.1, max_shift=0, flip=False
    )
    batch = {"image": images, "label": labels}
    loss, (metrics, memory) = objective(3.0, jax.random.key(0), batch, "kept")
    x = images.astype(np.float64) / 127.5 - 1
    logits = 3 * np.stack([x[:, :, :2].mean((1, 2, 3)), x[:, :, 2:].mean((1, 2, 3))], 1)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    q = 0.9 * np.eye(2)[labels] + 0.05
    np.testing.assert_allclose(loss, -(q * log_p).sum(1).mean(), rtol=1e-5)
    lighter = logits[:, 1] > logits[:, 0]
    assert 0 < (lighter == labels).mean() < 1
    np.testing.assert_allclose(metrics["accuracy"], (lighter == labels).mean())
    assert memory == "kept"


def test_a_flip_mirrors_half_of_the_pictures():
    images = np.zeros((1000, 1, 4, 1), np.uint8)
    images[:, :, :2] = 255
    batch = {"image": images, "label": np.zeros(1000, np.int32)}
    right = {}
    for flip in (False, True):
        objective = make_classify_objective(
            sides, label_smoothing=0.0, max_shift=0, flip=flip
        )
        _, (metrics, _) = objective(1.0, jax.random.key(0), batch, ())
        right[flip] = float(metrics["accuracy"])
    assert right[False] == 1.0
    assert abs(right[True] - 0.5) < 4 * 0.5 / np.sqrt(1000)


TRAIN_ON_ONE_AND_ON_TWO = """
import json, sys
import jax, numpy as np, optax
sys.path.insert(0, "tests/tasks")
from test_classifier import sides
from ddpm_jax.runtime.devices import rows
from ddpm_jax.tasks.classifier import make_classify_objective
from ddpm_jax.training.step import init_state, make_train_step
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (8, 6, 6, 1), np.uint8)
labels = rng.integers(0, 2, 8).astype(np.int32)
objective = make_classify_objective(sides, label_smoothing=0.1, max_shift=2, flip=True)
optimizer = optax.adamw(0.1)
found = []
for count in (1, 2):
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:count])[:, None], ("data", "fsdp")
    )
    step = make_train_step(objective, optimizer, ema_target=0.9, mesh=mesh)
    state = init_state(np.float32(1), optimizer)
    for _ in range(3):
        batch = jax.device_put({"image": images, "label": labels}, rows(mesh))
        assert len(batch["image"].sharding.device_set) == count
        state, metrics = step(state, jax.random.key(5), batch)
    numbers = (state.params, state.ema_params, metrics["loss"], metrics["accuracy"])
    found.append([float(number) for number in numbers])
print(json.dumps(found))
"""


def test_two_devices_train_as_one_with_the_same_shifts_and_flips():
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_ON_ONE_AND_ON_TWO],
        env={
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ".",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    # Equal up to the order in which two partial sums are added.
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_two_classes_that_differ_are_told_apart():
    """Dark pictures and light ones, by a linear network trained as the real one is."""
    rng = np.random.default_rng(0)
    labels = np.arange(64, dtype=np.int32) % 2
    images = rng.integers(0, 100, (64, 4, 4, 1)) + 120 * labels[:, None, None, None]
    batch = {"image": images.astype(np.uint8), "label": labels}

    def network(params, x):
        mean = x.mean((1, 2))
        return mean, mean @ params["w"] + params["b"]

    objective = make_classify_objective(
        network, label_smoothing=0.1, max_shift=1, flip=True
    )
    optimizer = optax.adam(0.1)
    step = make_train_step(objective, optimizer, ema_target=0.9, mesh=data_mesh())
    state = init_state({"w": jnp.zeros((1, 2)), "b": jnp.zeros(2)}, optimizer)
    found = []
    for _ in range(60):
        state, metrics = step(state, jax.random.key(0), batch)
        found.append(float(metrics["accuracy"]))
    assert found[0] == 0.5
    assert found[-1] == 1.0
