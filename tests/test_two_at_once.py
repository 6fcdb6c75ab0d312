"""Two processes that compute the same at the same time, and store it in one place."""

import json
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from ddpm_jax import data
from ddpm_jax.commands import extraction
from ddpm_jax.evaluation.feature_extractor import Extract, FeatureExtractor, Outputs
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import data_mesh

COUNT, BATCH = 22, 4
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 2, 2, 1), np.uint8)
SOURCE = data.Dataset(
    "noise", data.Arrays(PIXELS, None), (2, 2, 1), None, "f" * 16, "test"
)
EYES = FeatureExtractor(
    "pixels", "0" * 16, 4, None, "none", (2, 2, 1), (), lambda p, x: x
)


def see(images):
    return Outputs(np.float32(images).reshape(len(images), -1), None)


def features(folder, run=see):
    run_on_all = Extract(run, data_mesh())
    return extraction.Extraction(EYES, run_on_all, BATCH, lambda: 0).of(SOURCE, folder)


def check(found):
    np.testing.assert_array_equal(found.features, PIXELS.reshape(COUNT, -1))


@pytest.mark.parametrize("moment", range(6))
def test_without_locks_both_results_are_whole_and_so_is_what_is_stored(
    tmp_path, monkeypatch, moment
):
    """The second runs from start to end while the first is at its n-th batch."""
    monkeypatch.setattr(files, "_locks", lambda: False)
    calls = 0

    def overtaken(images):
        nonlocal calls
        calls += 1
        if calls == moment + 1:
            check(features(tmp_path))
        return see(images)

    check(features(tmp_path, overtaken))
    assert calls == 6  # the first did not begin again

    def refuse(images):
        raise AssertionError("the features are there")

    check(features(tmp_path, refuse))
    kept = {"settings.json", "features.npz", "statistics.npz"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_with_locks_the_second_waits_and_computes_nothing(tmp_path, capsys):
    begun, goes_on, calls = threading.Event(), threading.Event(), []

    def slow(images):
        calls.append("first")
        begun.set()
        assert goes_on.wait(30)
        return see(images)

    def counted(images):
        calls.append("second")
        return see(images)

    found = {}
    first = threading.Thread(
        target=lambda: found.update(one=features(tmp_path, slow)), daemon=True
    )
    second = threading.Thread(
        target=lambda: found.update(other=features(tmp_path, counted)), daemon=True
    )
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.5)
    assert second.is_alive() and calls == ["first"]
    goes_on.set()
    first.join(30)
    second.join(30)
    check(found["one"])
    check(found["other"])
    assert calls == ["first"] * 6
    assert f"another process is at work in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / ".lock").exists()


def test_who_waits_can_be_interrupted(tmp_path):
    asked = []
    with files.alone_in(tmp_path) as held:
        assert held
        ask = lambda: asked.append(0) or len(asked) > 2  # noqa: E731
        with files.alone_in(tmp_path, stop=ask) as second:
            assert not second
    assert len(asked) == 3


@pytest.mark.parametrize("damage", ["short", "cut", "empty", "other"])
def test_damaged_features_are_computed_anew_with_a_note(tmp_path, damage, capsys):
    check(features(tmp_path))
    path = tmp_path / "features.npz"
    if damage == "short":  # as two evaluations at once once left it
        files.write_npz(path, {"features": PIXELS.reshape(COUNT, -1)[8:]})
    elif damage == "other":
        files.write_npz(path, {"numbers": np.zeros(COUNT)})
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == "cut" else 0])
    check(features(tmp_path))
    assert capsys.readouterr().err.startswith(f"note: {path} cannot be used (")
    assert len(files.read_npz(path)["features"]) == COUNT


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    script = f"""
        import os, pathlib, signal
        from ddpm_jax.runtime import files

        with files.alone_in(pathlib.Path({str(tmp_path)!r})) as held:
            print(held, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    program = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(program, capture_output=True, text=True)
    assert killed.stdout == "True\n" and killed.returncode == -9, killed.stderr
    assert (tmp_path / ".lock").exists()
    with files.alone_in(tmp_path, stop=lambda: True) as held:
        assert held


def test_many_writers_of_one_file_leave_one_that_is_whole(tmp_path):
    """Read while eight threads replace it: always one of what they write."""
    path, faults = tmp_path / "value.json", []
    texts = [json.dumps([number] * 5000) for number in range(8)]
    files.write_text(path, texts[0])

    def write(text):
        for _ in range(10):
            files.write_text(path, text)

    writers = [threading.Thread(target=write, args=[text]) for text in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.read_text() not in texts:
            faults.append("a part of one, or a mixture")
    assert not faults and [one.name for one in tmp_path.iterdir()] == ["value.json"]


def test_a_file_takes_its_name_when_the_disk_has_it(tmp_path, monkeypatch):
    events = []
    sync, rename = files.os.fsync, files.os.replace
    monkeypatch.setattr(
        files.os, "fsync", lambda handle: events.append("sync") or sync(handle)
    )
    monkeypatch.setattr(
        files.os, "replace", lambda a, b: events.append("name") or rename(a, b)
    )
    files.write_text(tmp_path / "value", "1")
    assert events == ["sync", "name", "sync"]  # the file, its name, its folder
