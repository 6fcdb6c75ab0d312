"""Many devices, many processes: the same training, and checkpoints that fit them all.

Two processes of one device each are compared bit for bit with each other, replicated
with sharded, interrupted with whole. One device and four differ from them by the order
in which partial sums are added; the tolerance says how much that is.
"""

import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from hosts import projection
from program import TINY_UNET, start
from together import finished_hosts, start_hosts, sums

from ddpm_jax import assembly, data
from ddpm_jax.cli import main
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.log import read_metrics

LAST = 24
TRAIN = [
    f"--config={TINY_UNET}",
    f"--config.training.num_steps={LAST}",
    "--config.training.preview_every=0",
]
EVALUATE = [
    "evaluate",
    "--num-images=22",
    "--batch-size=4",
    "--feature-batch-size=8",
]
LIKELIHOOD = [
    "likelihood",
    "--num-images=6",
    "--batch-size=4",
    "--method=bound",
    "--step=24",
]


def in_(workdir, line):
    trains = line[0].startswith("--config=")
    return [*line, f"--workdir={workdir}" if trains else str(workdir)]


def more(workdir, num_steps, *options):
    """Go on with the run of another mesh for two steps."""
    last = f"--config.training.num_steps={num_steps}"
    return [f"--config={TINY_UNET}", last, f"--workdir={workdir}", *options]


def on_four_devices(finished_unet, folder):
    """Go on with a run on four devices; return its folder and what was said."""
    crossed = shutil.copytree(finished_unet, folder / "crossed")
    four = start(*more(crossed, 14, "--config.devices.fsdp=4"), num_devices=4)
    try:
        out, err = four.communicate(timeout=500)
    except subprocess.TimeoutExpired:
        four.send_signal(signal.SIGABRT)
        pytest.fail(f"four devices stand still: {four.communicate()[1]}")
    assert four.returncode == 0, err
    return crossed, out, err


@pytest.fixture(scope="module")
def made(finished_unet, tmp_path_factory):
    """What four devices made of one device's run, and two processes of all."""
    folder = tmp_path_factory.mktemp("hosts")
    crossed, out, err = on_four_devices(finished_unet, folder)
    assert "4 x cpu" in out
    assert "note: 1 device(s) so far, 4 device(s) (fsdp=4) now" in err
    lines = [
        in_(folder / "whole", TRAIN),
        in_(folder / "fsdp", [*TRAIN, "--config.devices.fsdp=2"]),
        in_(folder / "whole", EVALUATE),
        in_(folder / "fsdp", [*LIKELIHOOD, "--config.devices.fsdp=2"]),
        more(crossed, 16, "--config.devices.fsdp=2"),
    ]
    hosts = finished_hosts(start_hosts(lines, asked=folder / "asked"))
    for status, _, err in hosts:
        assert status == 0, err
    return folder, hosts


def differs_by_rounding(workdir, other, step, start=0):
    """Hold the parameters' distance against how far they have come from their start."""
    one, two = (store.restore_params(w, ema=False, step=step) for w in (workdir, other))
    first = store.restore_params(workdir, ema=False, step=start)

    def flat(tree):
        import jax

        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    one, two, first = flat(one), flat(two), flat(first)
    # Adam divides a gradient by its own size: where that is rounding alone, so is the
    # step. Those few weights move by up to the learning rate, the others by 1e-5 of it.
    assert np.linalg.norm(one - two) < 1e-2 * np.linalg.norm(one - first)


def test_two_processes_shard_the_state_and_train_the_same_bits(made):
    folder, _ = made
    assert sums(folder / "fsdp", LAST) == sums(folder / "whole", LAST)
    import jax

    leaves = jax.tree.leaves(store.restore_params(folder / "fsdp", ema=False))
    assert max(leaf.size for leaf in leaves) >= 1024  # what is smaller is not cut
    for name in ("samples.npz", "grid.png", "film.png"):
        (one,), (two,) = (
            [p.read_bytes() for p in (folder / w).glob(f"samples/*/{name}")]
            for w in ("whole", "fsdp")
        )
        assert one == two


def test_two_devices_of_one_process_train_the_same_bits(made, tmp_path):
    process = start(*in_(tmp_path / "run", TRAIN), num_devices=2)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert sums(tmp_path / "run", LAST) == sums(made[0] / "whole", LAST)


def test_one_device_trains_the_same_up_to_rounding(made, finished_unet):
    one, two = (
        {r["step"]: r["loss"] for r in read_metrics(workdir)}
        for workdir in (finished_unet, made[0] / "whole")
    )
    for step in (2, 4, 6, 8, 10, 12):
        assert two[step] == pytest.approx(one[step], rel=1e-4)
    differs_by_rounding(made[0] / "whole", finished_unet, step=12, start=3)


def test_a_checkpoint_goes_from_one_device_to_four_to_two_processes_and_back(
    made, finished_unet, tmp_path
):
    folder, _ = made
    workdir = shutil.copytree(folder / "crossed", tmp_path / "run")
    assert {12, 14, 16} <= set(store.all_steps(workdir))
    assert main(more(workdir, 18)) == 0  # as one device again
    alone = shutil.copytree(finished_unet, tmp_path / "alone")
    assert main(more(alone, 18)) == 0
    differs_by_rounding(workdir, alone, step=18, start=12)


def test_each_process_reads_its_rows_of_each_batch_and_no_others(made):
    folder, _ = made
    count = len(data.load("digits", split="train"))
    batches = [
        batch_indices(step, 8, count, epoch_length=count, seed=0) for step in range(60)
    ]
    for i, mine in enumerate((slice(0, 4), slice(4, 8))):
        lines = (folder / f"asked-{i}").read_text().splitlines()
        asked = {tuple(json.loads(line)) for line in lines}
        rows = [tuple(batch[mine].tolist()) for batch in batches]
        assert set(rows[:LAST]) <= asked <= set(rows)  # it reads a little ahead


def test_only_the_first_process_speaks_and_writes(made):
    _, ((_, first, _), (_, second, errors)) = made
    assert "device   2 x cpu" in first and "Files: " in first
    assert second == "" and errors == ""


def test_evaluation_and_images_are_those_of_one_device(made, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assembly, "evaluation_features", projection)
    folder, _ = made
    alone = shutil.copytree(
        folder / "whole", tmp_path / "alone", ignore=shutil.ignore_patterns("eval*")
    )
    assert main(in_(alone, EVALUATE)) == 0
    rows = [
        json.loads((workdir / "evaluation/evaluation.json").read_text())
        for workdir in (alone, folder / "whole")
    ]
    assert len(rows[0]) == 2  # samples, and real images beside them
    for one, two in zip(*rows, strict=True):
        # The features are matrix products, over other batches on one device.
        assert one["scores"].keys() == two["scores"].keys()
        for name, score in one["scores"].items():
            for part, number in score.items():
                found = two["scores"][name][part]
                assert found == (number and pytest.approx(number, rel=1e-5))


def test_bits_per_dim_are_those_of_one_device(made, tmp_path):
    folder, _ = made
    alone = shutil.copytree(
        folder / "fsdp", tmp_path / "alone", ignore=shutil.ignore_patterns("likel*")
    )
    assert main(in_(alone, LIKELIHOOD)) == 0
    one, two = (
        np.load(next(workdir.glob("likelihood/*/terms.npz")))
        for workdir in (alone, folder / "fsdp")
    )
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6)


# --- The end of a run -----------------------------------------------------------------


def wait_for_step(workdir, later_than, hosts):
    deadline = time.monotonic() + 120
    while (store.latest_step(workdir) or 0) <= later_than:
        for host in hosts:
            assert host.poll() is None, host.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_lost_process_ends_the_run_and_the_run_goes_on_to_the_same_bits(
    made, tmp_path
):
    workdir = tmp_path / "run"
    line = in_(workdir, TRAIN)
    # Killed.
    hosts = start_hosts([line])
    wait_for_step(workdir, 0, hosts)
    hosts[1].kill()
    (status, _, err), (killed, _, _) = finished_hosts(hosts, timeout=120)
    assert killed == -signal.SIGKILL
    assert status in (3, -signal.SIGABRT), err  # whoever of us and JAX sees it first
    assert "start all of them again" in err or "another task died" in err
    # Terminated, as a scheduler does: saved once, at the same step, and parted.
    saved = store.latest_step(workdir)
    assert saved < LAST
    hosts = start_hosts([line], under_slurm=True)
    wait_for_step(workdir, saved, hosts)
    for host in hosts:
        host.terminate()
    (first, out, err), (second, silence, _) = finished_hosts(hosts, timeout=120)
    assert first == second == 128 + signal.SIGTERM, err
    stopped = store.latest_step(workdir)
    assert f"Interrupted at step {stopped} of {LAST}; saved." in out
    assert silence == ""
    # And whole.
    for status, _, err in finished_hosts(start_hosts([line])):
        assert status == 0, err
    assert sums(workdir, LAST) == sums(made[0] / "whole", LAST)
