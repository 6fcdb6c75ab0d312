"""A run that is stopped, however it is stopped, ends as one that was not: bit for bit.

Compared are the checksums of all parameters, averages and optimiser states that a
checkpoint holds, which are verified against the arrays whenever they are read.
"""

import json
import shutil
import signal
import time

import pytest
from program import TINY, cut_short, start

from ddpm_jax.cli import main
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.log import read_metrics

LAST = 12


def sums(workdir, step=LAST):
    record = json.loads(
        (workdir / f"checkpoints/{step}/metadata/metadata.json").read_text()
    )
    assert len(record["checksums"]["params"]) > 10
    return record["checksums"]


def losses(workdir):
    return [(r["step"], r["loss"]) for r in read_metrics(workdir)]


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def finish(workdir):
    """Give the same command again, now in this process."""
    assert main([f"--config={TINY}", f"--workdir={workdir}"]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first_and_the_run_goes_on_from_there(
    tmp_path, finished, number
):
    process = start(f"--config={TINY}", f"--workdir={tmp_path}")
    wait_for(lambda: store.latest_step(tmp_path) is not None, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.fail("the run ended before the signal came; make it longer")
    assert process.returncode == 128 + number, err
    assert "saved. The same command goes on from here." in out
    assert "Traceback" not in err
    stopped_at = store.latest_step(tmp_path)
    assert 3 <= stopped_at <= LAST
    finish(tmp_path)
    assert sums(tmp_path) == sums(finished)
    # Reports cover the steps since the last one, so the stop cuts one report in two.
    untouched = [x for x in losses(finished) if not 0 <= x[0] - stopped_at < 2]
    assert set(untouched) <= set(losses(tmp_path))


def test_kill_in_the_middle_of_a_save_loses_that_save_and_no_more(tmp_path, finished):
    process = start(f"--config={TINY}", f"--workdir={tmp_path}")
    folder = tmp_path / "checkpoints"
    wait_for(lambda: any("tmp" in p.name for p in folder.glob("[3-9]*")), process)
    process.kill()
    process.communicate()
    kept = store.latest_step(tmp_path)
    assert kept is None or kept < LAST
    finish(tmp_path)
    assert sums(tmp_path) == sums(finished)
    assert losses(tmp_path) == losses(finished)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(
    tmp_path, finished, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(LAST))
    newest = workdir / "checkpoints" / "9"
    cut_short(newest / "params")
    finish(workdir)
    err = capsys.readouterr().err
    assert "checkpoints/9 is damaged" in err
    assert "continuing from step 6" in err
    assert (workdir / "checkpoints-damaged" / "9").exists()
    assert sums(workdir) == sums(finished)


def test_a_finished_run_says_so_and_does_nothing(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    finish(finished)
    assert "is finished: 12 steps" in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    changed = {p.name for p in before if before[p] != after.get(p)}
    assert changed <= {"config.json"}
    assert set(after) == set(before)


def test_more_steps_may_be_asked_of_a_finished_run(tmp_path, finished):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    more = "--config.training.num_steps=14"
    assert main([f"--config={TINY}", f"--workdir={workdir}", more]) == 0
    assert store.latest_step(workdir) == 14
    assert sums(workdir) == sums(finished)  # step 12 is as it was


def test_a_shorter_run_than_the_finished_one_is_finished_too(finished, capsys):
    fewer = "--config.training.num_steps=5"
    assert main([f"--config={TINY}", f"--workdir={finished}", fewer]) == 0
    assert "is finished: 12 steps" in capsys.readouterr().out


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_finished_again(
    tmp_path, finished, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "checkpoints" / str(LAST) / "metadata" / "metadata.json").write_text("{")
    finish(workdir)
    assert f"checkpoints/{LAST} is damaged" in capsys.readouterr().err
    assert sums(workdir) == sums(finished)


def test_a_first_attempt_that_saved_nothing_does_not_keep_the_workdir(
    tmp_path, finished
):
    """Out of memory, say: the next attempt may have another batch size."""
    shutil.copy(finished / "config.json", tmp_path)
    options = ["--config.training.num_steps=1", "--config.training.learning_rate=1e-5"]
    options += ["--config.training.warmup_steps=1"]
    assert main([f"--config={TINY}", f"--workdir={tmp_path}", *options]) == 0
    assert store.latest_step(tmp_path) == 1


def test_pictures_and_logs_are_written_while_training(finished):
    for step in (6, 12):
        assert (finished / f"progress/step-{step:07d}.png").stat().st_size > 500
        assert (finished / f"progress/step-{step:07d}-film.png").stat().st_size > 500
    assert (finished / "loss.png").stat().st_size > 5000
    assert (finished / "forward.png").exists()
    (folder,) = (finished / "samples").iterdir()
    written = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    # The presence of the sheet says that the folder is complete.
    assert written[-1].name == "grid.png" and folder / "forward.png" in written
    (events,) = (finished / "tensorboard").iterdir()
    written = events.read_bytes()
    for tag in (b"loss_q3", b"examples_per_second", b"samples"):
        assert tag in written
    records = read_metrics(finished)
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10, 12]
    assert all(r["examples_per_second"] > 0 for r in records[1:])
