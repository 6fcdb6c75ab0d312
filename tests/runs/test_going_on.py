"""A run that begins with another's weights, and one that is trained past its end."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from program import TINY_UNET

from ddpm_jax.cli import main
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.log import read_metrics

QUICK = [f"--config={TINY_UNET}", "--config.training.preview_every=0"]
QUICK += ["--config.sample.num_images=2", "--config.sample.num_steps=2"]


def run(workdir, *options):
    return main([*QUICK, f"--workdir={workdir}", *options])


def sums(workdir, step):
    """Read the checksums of all that a checkpoint holds, as they were saved."""
    path = workdir / f"checkpoints/{step}/metadata/metadata.json"
    return json.loads(path.read_text())["checksums"]


def stored_config(workdir):
    return store.read_metadata(workdir)["config"]


def refusal(capsys, workdir, *options):
    assert run(workdir, *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# --- Beginning with the weights of another run ---------------------------------------


def farthest(one, other):
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, other)
    return max(jax.tree.leaves(apart))


def test_a_run_begins_with_the_averaged_weights_of_another(
    finished_unet, tmp_path, capsys
):
    options = ["--config.training.num_steps=1", "--config.training.warmup_steps=0"]
    options += ["--config.training.learning_rate=1e-9"]  # Adam's first step is the rate
    # Other images and another output, and the same parameters.
    options += ["--config.prediction=v", "--config.data.pad_to=16"]
    assert run(tmp_path, f"--config.init_from={finished_unet}", *options) == 0
    begun = store.restore_params(tmp_path, ema=False)
    assert farthest(begun, store.restore_params(finished_unet, ema=True)) < 1e-7
    assert farthest(begun, store.restore_params(finished_unet, ema=False)) > 1e-4
    assert (
        "start    the averaged (EMA) parameters of step 12" in capsys.readouterr().out
    )
    assert stored_config(tmp_path)["init_from"] == f"{finished_unet}@12"


def test_it_goes_on_without_the_run_that_it_began_with(finished_unet, tmp_path, capsys):
    source, whole, parts = (tmp_path / name for name in ("source", "whole", "parts"))
    shutil.copytree(finished_unet, source)
    given = f"--config.init_from={source}@6"
    assert run(whole, given, "--config.training.num_steps=5") == 0
    assert run(parts, given, "--config.training.num_steps=3") == 0
    shutil.rmtree(source)
    five = "--config.training.num_steps=5"
    assert run(parts, five) == 0  # said once, at its beginning
    assert sums(parts, 5) == sums(whole, 5)
    assert stored_config(parts)["init_from"] == f"{source}@6"
    assert run(parts, five, f"--config.init_from={tmp_path}/./source") == 0
    line = refusal(capsys, parts, five, f"--config.init_from={finished_unet}")
    assert "holds a run of another config (init_from: " in line


def test_weights_that_do_not_fit_are_named(finished_unet, tmp_path, capsys):
    given = f"--config.init_from={finished_unet}"
    line = refusal(capsys, tmp_path / "wide", given, "--config.network.channels=12")
    shapes = "conv_in/bias is 8 there and 12 here; conv_in/kernel is 3x3x1x8 there and"
    assert shapes in line and re.search(r"and \d+ more", line)
    deep = ["--config.network.channel_multipliers=(1,1)"]
    line = refusal(capsys, tmp_path / "deep", given, *deep)
    assert re.search(r"\S+/kernel is absent there and [\dx]+ here", line)
    line = refusal(capsys, tmp_path / "nowhere", "--config.init_from=nowhere")
    assert re.search(r"init_from=nowhere: no checkpoint in \S*nowhere/check", line)
    line = refusal(capsys, tmp_path / "none", f"{given}@5")
    assert f"{given[2:]}@5: no checkpoint of step 5 in" in line
    line = refusal(capsys, tmp_path / "a", f"--config.init_from={tmp_path}/a")
    assert "is the workdir of this run" in line
    assert not list(tmp_path.iterdir())


def test_weights_of_a_model_of_another_kind_are_named(
    finished_unet, tmp_path, capsys, monkeypatch
):
    read = store.read_metadata
    monkeypatch.setattr(
        "ddpm_jax.training.checkpoints.read_metadata",
        lambda *given: {**read(*given), "kind": "vae"},
    )
    line = refusal(capsys, tmp_path / "a", f"--config.init_from={finished_unet}")
    assert "holds a model of kind vae, and this is a diffusion model; name" in line


def test_data_of_other_classes_are_refused_by_the_embedding(
    finished_unet, tmp_path, capsys
):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16), np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    data = f"--config.data.source=folder:{tmp_path}/data"
    given = [data, f"--config.init_from={finished_unet}"]
    line = refusal(capsys, tmp_path / "run", *given)
    # 10 classes and "none", and 2 and "none".
    assert re.search(r"embedding is 11x\d+ there and 3x\d+ here; give", line), line


# --- Past the end ---------------------------------------------------------------------

COSINE = "--config.training.decay=cosine"
FOUR, SEVEN = (f"--config.training.num_steps={n}" for n in (4, 7))


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A run of 4 steps on a cosine, and then of 7."""
    workdir = tmp_path_factory.mktemp("longer") / "run"
    assert run(workdir, COSINE, FOUR) == 0
    assert run(workdir, COSINE, SEVEN) == 0
    return workdir


def test_a_finished_decay_rises_and_falls_again(longer, tmp_path):
    assert stored_config(longer)["training"]["restarts"] == [4]
    rates = {r["step"]: r["learning_rate"] for r in read_metrics(longer)}
    assert rates[4] == pytest.approx(1e-4, rel=1e-5)  # halfway from 2e-4 to 0
    assert rates[6] == pytest.approx(0.75 * 2e-4, rel=1e-5)  # 2e-4 (1 + cos(pi/3)) / 2
    # The same as if it had been planned so from the start.
    assert run(tmp_path, COSINE, SEVEN, "--config.training.restarts=(4,)") == 0
    assert sums(tmp_path, 7) == sums(longer, 7)


def test_a_longer_run_that_is_stopped_ends_as_one_that_is_not(longer, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(longer, workdir)
    shutil.rmtree(workdir / "checkpoints" / "7")
    assert store.latest_step(workdir) == 6
    assert run(workdir, COSINE, SEVEN) == 0
    assert sums(workdir, 7) == sums(longer, 7)


def test_an_unfinished_decay_is_finished_first(longer, capsys):
    line = refusal(capsys, longer, COSINE, FOUR)
    assert "training.num_steps: 7 -> 4" in line
    shutil.copytree(longer, longer.parent / "half")
    shutil.rmtree(longer.parent / "half" / "checkpoints" / "7")
    line = refusal(
        capsys, longer.parent / "half", COSINE, "--config.training.num_steps=9"
    )
    assert "falls to 0 at step 7 and it is at step 6; finish it" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config.training.restarts=(4,)"], "does nothing with decay 'constant'"),
        ([COSINE, "--config.training.restarts=(12,)"], "are not rising steps"),
        ([COSINE, "--config.training.restarts=(5,3)"], "are not rising steps"),
    ],
)
def test_restarts_that_cannot_be_are_refused(tmp_path, capsys, options, said):
    assert said in refusal(capsys, tmp_path / "run", *options)


def test_a_config_of_another_program_is_not_written_over(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert "config.json is not of a run of ddpm_jax" in refusal(capsys, tmp_path)
    assert "UNet2DModel" in (tmp_path / "config.json").read_text()
