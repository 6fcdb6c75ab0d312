"""Runs that track averages of several lengths, and draw with one that was not."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import TINY, cut_short, flags

from ddpm_jax.cli import main
from ddpm_jax.commands.parameters import load_parameters
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.integrity import with_digest
from ddpm_jax.training.state import TrainState

# The bound with importance has a memory too: the losses of each level so far.
OPTIONS = (
    "--config.training.ema_stds=0.05,0.10",
    "--config.training.preview_every=0",
    "--config.loss.kind=bound",
    "--config.times.kind=importance",
    "--config.sample.num_images=2",
)


def train(workdir, *options):
    return main([f"--config={TINY}", f"--workdir={workdir}", *options])


def sample(workdir, *options):
    return main(["sample", f"{workdir}", *flags("sample", *options)])


def record_file(workdir, step):
    return workdir / f"checkpoints/{step}/metadata/metadata.json"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with checkpoints at steps 3, 6, 9 and 12, each with two tracks."""
    workdir = tmp_path_factory.mktemp("tracked")
    assert train(workdir, *OPTIONS) == 0
    return workdir


@pytest.fixture
def model(tracked, tmp_path):
    workdir = tmp_path / "model"
    shutil.copytree(tracked / "checkpoints", workdir / "checkpoints")
    return workdir


def test_a_run_goes_on_with_its_tracks_and_its_memory_bit_for_bit(
    tracked, tmp_path, capsys
):
    """From step 6, as an older version would have left it: less was noted then."""
    shutil.copytree(tracked, tmp_path, dirs_exist_ok=True)
    for step in (9, 12):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    path = record_file(tmp_path, 6)
    record = json.loads(path.read_text())
    for name in ("num_devices", "versions", "schedule"):
        del record["metadata"][name]
    del record["metadata"]["config"]["sample"]["ema_std"]
    del record["digest"]
    path.write_text(json.dumps(with_digest(record)))
    assert sample(tmp_path) == 0
    assert train(tmp_path, *OPTIONS) == 0
    captured = capsys.readouterr()
    assert "step 6 of 12, resumed" in captured.out
    assert "note:" not in captured.err
    whole, resumed = (
        json.loads(record_file(workdir, 12).read_text())["checksums"]
        for workdir in (tracked, tmp_path)
    )
    assert {"track_0", "track_1", "memory"} < set(whole)
    assert resumed == whole


def test_an_average_of_a_length_that_was_not_tracked(model, capsys):
    for options in ((), ("ema_std=0.07",), ("ema_std=0.07", "step=9")):
        assert sample(model, *options) == 0
    out = capsys.readouterr().out
    assert "with the averaged (EMA) parameters of step 12" in out
    # 3.47% is the distance by brute force for 4 even snapshots, however long the run.
    assert "(EMA of std 0.07 from 8 stored averages, profile 3.47% off)" in out
    assert "(EMA of std 0.07 from 6 stored averages" in out
    drawn = {}
    for folder in (model / "samples").iterdir():
        request = json.loads((folder / "request.json").read_text())
        step, which = request["checkpoint_step"], request["parameters"]
        drawn[step, which] = (folder / "samples.npz").read_bytes()
        stored = json.loads((folder / "sample.json").read_text())
        assert stored["parameters"] == which
    assert set(drawn) == {(12, "ema"), (12, "ema-0.07"), (9, "ema-0.07")}
    assert len(set(drawn.values())) == 3


def test_what_was_tracked_needs_one_checkpoint_and_is_exact(model):
    for step in (3, 6, 9):
        shutil.rmtree(model / "checkpoints" / str(step))
    got = load_parameters(Sample(ema_std=0.10), model, 12)
    assert got.description == "averaged (EMA of std 0.1)"
    want = store.restore_profile(model, 1, step=12)
    jax.tree.map(np.testing.assert_array_equal, got.tree, want)
    # Two averages of one step are enough for a third, and the user hears how good.
    lines = []
    asked = Sample(ema_std=0.2)
    found = load_parameters(asked, model, 12, report=lines.append)
    assert "from 2 stored" in found.description
    assert len(lines) == 1 and "ask for a std between those tracked" in lines[0]


def test_a_damaged_checkpoint_is_left_out_and_said(model, capsys):
    record_file(model, 6).write_text("{")
    cut_short(model / "checkpoints/9/track_0")
    assert sample(model, "ema_std=0.07") == 0
    captured = capsys.readouterr()
    assert "from 4 stored averages" in captured.out
    for step in (6, 9):
        assert f"checkpoints/{step} is damaged" in captured.err
    assert captured.err.count("It is left out of the average.") == 2


def refusal(capsys, code):
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_a_run_without_tracks_says_what_to_train_with(finished, capsys):
    line = refusal(capsys, sample(finished, "ema_std=0.07"))
    assert "config.training.ema_stds=0.05,0.10 and a keep_every" in line
    assert [path.name for path in (finished / "samples").iterdir()] == ["0001"]


def test_one_stored_average_is_not_enough_for_another(tmp_path, capsys):
    state = TrainState(jnp.int32(7), *[{"w": jnp.ones(3)}] * 3, ({"w": jnp.ones(3)},))
    with store.open_checkpoints(tmp_path) as checkpoints:
        about = {"config": {"training": {"ema_stds": [0.1]}}}
        store.save(checkpoints, state, about)
    with pytest.raises(UserError, match=r"2 stored averages.* has 1 up to step 7"):
        load_parameters(Sample(ema_std=0.07), tmp_path, 7)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("training.ema_stds=0.05,0.5", r"ema_stds has 0.5, which is not in \(0, 0.289"),
        (
            "training.ema_stds=('a',)",
            "training.ema_stds=.*'a'.* is of a wrong type; use a tuple, each a number",
        ),
        ("training.ema_stds=0.05,0.05", "names an average twice"),
        ("sample.ema_std=0.0", r"sample.ema_std=0.0 is not in \(0, 0.289\]"),
        ("sample.ema_std=0.07", "train with config.training.ema_stds="),
    ],
)
def test_lengths_that_cannot_be_are_refused_before_training(
    tmp_path, capsys, option, expected
):
    line = refusal(capsys, train(tmp_path, f"--config.{option}"))
    assert re.search(expected, line), line
    assert list(tmp_path.iterdir()) == []


def test_raw_and_averaged_at_once_is_refused(model, capsys):
    line = refusal(capsys, sample(model, "ema=False", "ema_std=0.05"))
    assert "leave one of them out" in line
