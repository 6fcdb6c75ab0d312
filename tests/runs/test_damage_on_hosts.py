"""A damaged checkpoint on two processes: both notice, agree, and use the one before."""

import os
import subprocess
import sys

from program import ROOT
from together import finished_hosts, free_port

# Saves two checkpoints of a sharded state, spoils the newer for both or for one process
# alone, and reads again.
CODE = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
i, port, workdir, how = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
jax.distributed.initialize(f"localhost:{port}", 2, i, heartbeat_timeout_seconds=30)
from ddpm_jax.runtime.devices import data_mesh, gathered, shardings, wait_for_all_hosts
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training import integrity
from ddpm_jax.training.state import TrainState

def state(step):
    w = (jnp.arange(4096.0) * step).reshape(64, 64)
    return TrainState(jnp.int32(step), {"w": w}, {"w": 2 * w}, {"m": 3 * w})

mesh = data_mesh(2)
placed = shardings(mesh, jax.eval_shape(lambda: state(1)))
abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    jax.eval_shape(lambda: state(1)), placed)
with store.open_checkpoints(workdir) as opened:
    for step in (1, 2):
        made = jax.jit(lambda: state(step), out_shardings=placed)()
        store.save(opened, made, {"step": step}, wait=True)
    assert made.params["w"].addressable_shards[0].data.shape == (64, 32)
    wait_for_all_hosts("saved")
    if how == "file" and i == 0:
        for path in (workdir / "checkpoints/2/params").rglob("d/*"):
            path.write_bytes(path.read_bytes()[:-100])
    if how == "host" and i == 1:  # this one alone cannot read
        restore = integrity.ocp.Checkpointer.restore
        def broken(self, directory, *args, **kwargs):
            if "/2/" in str(directory):
                raise OSError("no route to the disk")
            return restore(self, directory, *args, **kwargs)
        integrity.ocp.Checkpointer.restore = broken
    wait_for_all_hosts("spoilt")
    said = []
    found, step, about = store.restore_latest(opened, abstract, report=said.append)
    assert step == 1 and about == {"step": 1} and int(found.step) == 1
    whole = np.arange(4096.0).reshape(64, 64)
    np.testing.assert_array_equal(gathered(found.params["w"]), whole)
    assert "checkpoints/2 is damaged" in said[0], said
    assert (workdir / "checkpoints-damaged/2").is_dir()
    assert not (workdir / "checkpoints/2").exists()
print(said[0])
"""


def on_two(tmp_path, how):
    port = str(free_port())
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(i), port, str(tmp_path), how],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "1",
                "PYTHONPATH": ".",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    said = []
    for status, out, err in finished_hosts(hosts):
        assert status == 0, err
        said.append(out)
    return said


def test_a_file_cut_short_is_noticed_by_both(tmp_path):
    first, second = on_two(tmp_path, "file")
    assert "continuing from step 1" in first and "continuing from step 1" in second


def test_what_one_process_cannot_read_the_other_does_not_use(tmp_path):
    first, second = on_two(tmp_path, "host")
    assert "another host could not read it" in first
    assert "no route to the disk" in second
