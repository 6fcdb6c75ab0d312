"""Weights & Biases: by a stand-in that notes its calls, and by the real one offline."""

import json
import sys
import time
import types

import numpy as np
import pytest
from program import TINY

from ddpm_jax.cli import main
from ddpm_jax.errors import UserError
from ddpm_jax.training.log import read_metrics
from ddpm_jax.training.tracker import open_tracker


def stand_in(calls, *, logged_in=True):
    """Return a module that behaves as wandb does and notes what it is asked."""

    class Run:
        def __init__(self, id):
            self.id = id

        def log(self, values, step):
            calls.append(("log", step, values))

        def finish(self, exit_code=0):
            calls.append(("finish", exit_code))

    def init(**options):
        calls.append(("init", options))
        return Run(options["id"] or "fresh")

    wandb = types.ModuleType("wandb")
    wandb.Error = type("Error", (Exception,), {})
    wandb.Image = lambda picture: picture
    wandb.login = lambda prompt: logged_in
    wandb.init = init
    return wandb


@pytest.fixture
def calls(monkeypatch):
    noted = []
    monkeypatch.setitem(sys.modules, "wandb", stand_in(noted))
    return noted


def test_a_run_and_its_resumption_are_one_run_there(tmp_path, calls):
    line = [f"--config={TINY}", f"--workdir={tmp_path}", "--config.training.wandb=p"]
    assert main([*line, "--config.training.num_steps=6"]) == 0
    assert main(line) == 0
    inits = [call[1] for call in calls if call[0] == "init"]
    assert [(i["project"], i["id"], i["resume"]) for i in inits] == [
        ("p", None, None),
        ("p", "fresh", "allow"),
    ]
    assert inits[0]["config"]["training"]["batch_size"] == 8
    sent = [c for c in calls if c[0] == "log" and "loss" in c[2]]
    wanted = {r["step"]: r["loss"] for r in read_metrics(tmp_path)}
    assert {step: values["loss"] for _, step, values in sent} == wanted
    grids = [c for c in calls if c[0] == "log" and "loss" not in c[2]]
    assert [step for _, step, _ in grids] == [6, 12]  # every sample_every steps
    assert all(v.dtype == np.uint8 for _, _, values in grids for v in values.values())
    assert calls[-1] == ("finish", 0)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"project": "p"}', "[" * 10**5])
def test_a_damaged_record_of_the_run_there_begins_another(tmp_path, calls, text):
    (tmp_path / "wandb.json").write_text(text)
    with open_tracker("p", tmp_path, {}):
        pass
    ((_, options),) = [call for call in calls if call[0] == "init"]
    assert (options["id"], options["resume"]) == (None, None)
    kept = json.loads((tmp_path / "wandb.json").read_text())
    assert kept == {"project": "p", "id": "fresh"}


def test_a_failed_run_is_marked(tmp_path, calls):
    with (
        pytest.raises(ZeroDivisionError),
        open_tracker("p", tmp_path, {}) as tracker,
    ):
        tracker.numbers({"loss": 1.0, "loss_q0": None}, 3)
        raise ZeroDivisionError
    assert calls[1:] == [("log", 3, {"loss": 1.0}), ("finish", 1)]


def test_another_project_is_another_run(tmp_path, calls):
    for project in ("one", "two", "two"):
        with open_tracker(project, tmp_path, {}):
            pass
    ids = [options["id"] for name, *rest in calls if name == "init" for options in rest]
    assert ids == [None, None, "fresh"]


def test_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(UserError, match="pip install wandb"),
        open_tracker("p", tmp_path, {}),
    ):
        pass


def test_not_logged_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", stand_in([], logged_in=False))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(
        "ddpm_jax.assembly.parts.init_params", None
    )  # nothing is compiled
    line = [f"--config={TINY}", f"--workdir={tmp_path}", "--config.training.wandb=p"]
    assert main(line) == 2
    assert "run `wandb login`" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # refused before config.json is written


def test_the_real_one_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        with open_tracker("p", tmp_path, {"seed": 0}) as tracker:
            tracker.numbers({"loss": 1.0 / step}, step)
            tracker.image("grid", np.zeros((4, 4, 3), np.uint8), step)
        time.sleep(1.1)  # wandb names a folder by the second; a program starts slower
    stored = json.loads((tmp_path / "wandb.json").read_text())
    runs = list((tmp_path / "wandb").glob(f"offline-run-*-{stored['id']}"))
    assert len(runs) == 2  # two pieces of one run, as `wandb sync` will see them
    assert all(any(run.glob("*.wandb")) for run in runs)
