"""Results elsewhere than in the workdir: --out."""

import importlib

import pytest
from program import TINY

from ddpm_jax.cli import main

MODES = {
    **{name: name for name in ("look", "sample", "cascade", "evaluate", "attributes")},
    **{"rank": "rank", "likelihood": "likelihood", "inpaint": "edit"},
}


def state(folder):
    """Every file of a folder, and when it was written."""
    found = folder.rglob("*")
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_a_drawing_and_a_measurement_leave_the_workdir_as_it_was(finished, tmp_path):
    before, out = state(finished), tmp_path / "results"
    there = [f"--workdir={finished}", f"--out={out}"]
    assert main(["--mode=sample", *there, "--config.sample.num_steps=2"]) == 0
    asked = ["num_images=4", "num_steps=2", "method=bound"]
    asked = [f"--config.likelihood.{option}" for option in asked]
    assert main(["--mode=likelihood", *there, *asked]) == 0
    assert main(["--mode=look", *there]) == 0
    assert state(finished) == before
    assert len(list(out.glob("samples/*/grid.png"))) == 1
    assert len(list(out.glob("likelihood/*/likelihood.json"))) == 1
    assert (out / "look.png").exists() and (out / "look.txt").exists()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_that_leaves_results_takes_it(mode, monkeypatch, tmp_path):
    given = []
    module = importlib.import_module(f"ddpm_jax.commands.{MODES[mode]}")
    monkeypatch.setattr(module, MODES[mode], lambda *values: given.extend(values) or 0)
    asked = [f"--mode={mode}", f"--config={TINY}", f"--workdir={tmp_path}"]
    assert main([*asked, f"--out={tmp_path / 'results'}"]) == 0
    assert given[-2:] == [tmp_path, tmp_path / "results"]
    given.clear()
    assert main(asked) == 0
    assert given[-2:] == [tmp_path, None]


@pytest.mark.parametrize("mode", ["train", "plan", "features", "autoencoder"])
def test_other_modes_refuse_it(mode, capsys, tmp_path):
    asked = [f"--mode={mode}", f"--config={TINY}", f"--workdir={tmp_path}"]
    assert main([*asked, "--out=results"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --out=results is for modes that leave results")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    finished, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    there = [f"--workdir={finished}", f"--out={tmp_path}/file"]
    assert main(["--mode=sample", *there]) == 2
    captured = capsys.readouterr()
    assert "cannot write" in captured.err and "Drawing" not in captured.out
