"""Results elsewhere than in the workdir: --out."""

import importlib

import pytest
from program import TINY

from ddpm_jax.cli import main

LEAVE_RESULTS = [
    *("look", "sample", "cascade", "evaluate", "attributes", "rank", "likelihood"),
    *("edit inpaint", "edit upscale"),
]


def state(folder):
    """Every file of a folder, and when it was written."""
    found = folder.rglob("*")
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_a_drawing_and_a_measurement_leave_the_workdir_as_it_was(finished, tmp_path):
    before, out = state(finished), tmp_path / "results"
    there = [f"{finished}", f"--out={out}"]
    assert main(["sample", *there, "--num-steps=2"]) == 0
    asked = ["--num-images=4", "--num-steps=2", "--method=bound"]
    assert main(["likelihood", *there, *asked]) == 0
    assert main(["look", *there]) == 0
    assert state(finished) == before
    assert (out / "grid.png").exists() and (out / "request.json").exists()
    assert len(list(out.glob("likelihood/*/likelihood.json"))) == 1
    assert (out / "look.png").exists() and (out / "look.txt").exists()


def test_the_results_of_another_request_are_not_written_over(
    finished, tmp_path, capsys
):
    there = ["sample", f"{finished}", f"--out={tmp_path}/out", "--num-images=2"]
    assert main([*there, "--num-steps=2"]) == 0
    before = state(tmp_path)
    assert main([*there, "--num-steps=3"]) == 2
    assert "holds the results of another request" in capsys.readouterr().err
    assert main([*there, "--num-steps=2"]) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert state(tmp_path).keys() == before.keys()


def test_the_results_of_another_model_are_not_taken_for_those_of_this_one(
    finished, tmp_path, capsys
):
    other = tmp_path / "other"  # the same recipe and step, and other parameters
    given = [f"--config={TINY}", "--config.training.preview_every=0"]
    assert main([*given, f"--workdir={other}", "--config.seed=1"]) == 0
    asked = [f"--out={tmp_path}/out", "--num-images=2", "--num-steps=2", "--seed=0"]
    assert main(["sample", f"{finished}", *asked]) == 0
    assert main(["sample", f"{other}", *asked]) == 2
    assert "holds the results of another request" in capsys.readouterr().err


@pytest.mark.parametrize("command", LEAVE_RESULTS)
def test_every_command_that_leaves_results_takes_it(command, monkeypatch, tmp_path):
    given = []
    name = command.split()[0]
    module = importlib.import_module(f"ddpm_jax.commands.{name}")
    monkeypatch.setattr(module, name, lambda *values: given.extend(values) or 0)
    asked = [*command.split(), f"{tmp_path}", f"--config={TINY}"]

    def places():
        if name == "look":  # is given its data, and one folder
            return given.pop()
        _, request, workdir = given
        given.clear()
        assert workdir == tmp_path
        return request.folder

    # Of two folders and a recipe, look would look at nothing in the run.
    elsewhere = (
        [f"--config={TINY}"] if name == "look" else asked[len(command.split()) :]
    )
    given_out = f"--out={tmp_path / 'results'}"
    assert main([*command.split(), *elsewhere, given_out]) == 0
    assert places() == tmp_path / "results"
    given.clear()
    assert main(asked) == 0
    assert places() == (tmp_path if name == "look" else None)


@pytest.mark.parametrize("command", ["", "plan", "import", "export"])
def test_others_refuse_it(command, capsys, tmp_path):
    given = [command, f"{tmp_path}"] if command else [f"--config={TINY}"]
    assert main([*given, "--out=results"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown flag --out; ")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    finished, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    there = [f"{finished}", f"--out={tmp_path}/file"]
    assert main(["sample", *there]) == 2
    captured = capsys.readouterr()
    assert "cannot write" in captured.err and "Drawing" not in captured.out
