"""The mesh: who holds which part of what, and that training does not depend on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import data_mesh, rows_of_host, sharded

ROOT = Path(__file__).parents[2]

# Trains a small U-Net three steps over a mesh, and says what the devices held.
TRAIN = """
import json, sys
import jax, numpy as np
sys.path.insert(0, "tests/runs")
import tiny_unet
from ddpm_jax import assembly, data
from ddpm_jax.recipe import from_json
from ddpm_jax.runtime.devices import *
from ddpm_jax.training.integrity import checksums, sums_on_devices
from ddpm_jax.training.step import init_state, make_train_step
from ddpm_jax.errors import UserError

recipe = from_json(tiny_unet.get_config())
spec, source = recipe.task, recipe.task.data.open()
info = assembly.data_info(source)
unet, optimizer = assembly.model(spec, info), recipe.training.transformation()
params = jax.device_get(assembly.init_params(spec, unet, info))
stream = data.batches(source, recipe.training.batch_size, seed=0)

def train(fsdp):
    mesh = data_mesh(fsdp)
    fresh = lambda: init_state(jax.tree.map(jax.numpy.asarray, params), optimizer)
    placed = shardings(mesh, jax.eval_shape(fresh))
    state = jax.jit(fresh, out_shardings=placed)()
    step = make_train_step(assembly.objective(spec, unet, info), optimizer,
        ema_target=0.9, mesh=mesh, placed=placed)
    losses, key = [], assembly.train_key(spec.seed)
    for i in range(3):
        batch = {k: spread(v, rows(mesh)) for k, v in stream[i].items()}
        program = step.lower(state, key, batch) if i == 0 else None
        if program:
            text = program.compile().as_text()
        state, metrics = step(state, key, batch)
        losses.append(float(metrics["loss"]))
    leaves = jax.tree.leaves(state)
    trained = jax.tree.leaves(state.params)
    flat = np.concatenate([np.ravel(gathered(x)) for x in trained])
    return {
        "losses": losses, "params": flat.tolist(),
        "bytes": sum(x.nbytes for x in leaves),
        "bytes_of_first": sum(x.addressable_shards[0].data.nbytes for x in leaves),
        "large": sum(x.nbytes for x in leaves if x.size >= 1024),
        "gathers": text.count(" all-gather("),
    }

def sum_many():
    # More programs than XLA takes for a device at once: dispatched without a pause
    # they wait for each other for ever.
    whole = {str(i): np.arange(1024, dtype=np.float32) + i for i in range(150)}
    cut = {name: spread(x, sharded(data_mesh(8))(x.shape)) for name, x in whole.items()}
    expected = checksums(whole)
    return sums_on_devices(cut) == expected == checksums(cut)

found = {fsdp: train(fsdp) for fsdp in json.loads(sys.argv[1])}
if jax.device_count() == 8:
    assert sum_many()
print(json.dumps(found))
"""


def train(num_devices, *fsdp):
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, json.dumps(fsdp)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(num_devices),
            "PYTHONPATH": ".",
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_train_as_one_however_the_state_is_spread():
    (one,) = train(1, 1).values()
    eight = train(8, 1, 2, 8)
    start = np.zeros(len(one["params"]))
    for fsdp, found in eight.items():
        # Float32 sums in other orders: 2^-24 each, some hundred terms deep.
        np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-4)
        apart = np.subtract(found["params"], one["params"])
        assert np.linalg.norm(apart) < 1e-4 * np.linalg.norm(one["params"] - start)
        # What is large is cut into as many parts; the rest is whole everywhere.
        expected = found["bytes"] - found["large"] * (1 - 1 / int(fsdp))
        assert found["bytes_of_first"] == expected
        assert (found["gathers"] > 0) == (int(fsdp) > 1)
    # Most arrays of so small a network are too small to be cut.
    assert eight["8"]["large"] > 0.25 * eight["8"]["bytes"]


class Mesh:
    """As much of a mesh as decides what is cut."""

    def __init__(self, fsdp):
        self.shape = {"data": 2, "fsdp": fsdp}


@pytest.mark.parametrize(
    ("fsdp", "shape", "axis"),
    [
        (4, (3, 3, 64, 128), 3),
        (4, (3, 3, 128, 64), 2),
        (4, (64, 64), 1),  # the last of equals
        (4, (2050, 6), None),  # nothing that 4 divides
        (4, (1022, 8), 1),  # the longest does not
        (4, (1020,), None),  # small
        (4, (1024,), 0),
        (1, (3, 3, 64, 128), None),
        (4, (), None),
    ],
)
def test_the_largest_dimension_that_divides_is_cut(monkeypatch, fsdp, shape, axis):
    monkeypatch.setattr(
        "ddpm_jax.runtime.devices.NamedSharding", lambda mesh, spec: spec
    )
    spec = sharded(Mesh(fsdp))(shape)
    assert list(spec) == ([] if axis is None else [None] * axis + ["fsdp"])


@pytest.mark.parametrize(
    ("count", "fsdp", "fits"),
    [(8, 3, "use 1, 2, 4 or 8"), (8, 16, "or 8"), (1, 2, "use 1."), (6, 0, "3 or 6")],
)
def test_an_axis_that_does_not_divide_the_devices_is_refused(
    monkeypatch, count, fsdp, fits
):
    monkeypatch.setattr(jax, "device_count", lambda: count)
    with pytest.raises(
        UserError, match=rf"devices.fsdp={fsdp} .* {count} device.*{fits}"
    ):
        data_mesh(fsdp)


def test_one_host_reads_every_row():
    assert rows_of_host(data_mesh(), 6).tolist() == [0, 1, 2, 3, 4, 5]
