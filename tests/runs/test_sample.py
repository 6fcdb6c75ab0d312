"""Sampling from a workdir: nothing but the workdir is needed, seeds decide the rest."""

import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from program import ROOT, cut_short, flags, start

from ddpm_jax.cli import main
from ddpm_jax.commands.sample import Conditions, sample_batches
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.batching import Checked
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.sampling.plan import Made, Program
from ddpm_jax.training import checkpoint_reader


def sample(workdir, *options):
    before = set(workdir.glob("samples/*"))
    assert main(["sample", f"{workdir}", *flags("sample", *options)]) == 0
    (folder,) = set(workdir.glob("samples/*")) - before
    return folder


def request(folder):
    return json.loads((folder / "request.json").read_text())


def arrays(folder):
    with np.load(folder / "samples.npz") as stored:
        return stored["arr_0"], stored["arr_1"]


@pytest.fixture
def model(finished, tmp_path):
    """A copy that holds nothing but checkpoints: they alone must be enough."""
    workdir = tmp_path / "model"
    shutil.copytree(finished / "checkpoints", workdir / "checkpoints")
    return workdir


def test_every_kind_of_picture_is_written(model, capsys):
    folder = sample(model)
    assert "averaged (EMA) parameters of step 12" in capsys.readouterr().out
    images, labels = arrays(folder)
    assert images.shape == (6, 8, 8, 1)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    names = sorted(p.name for p in (folder / "images").iterdir())
    assert names[0] == "000000-0.png"
    assert len(names) == 6
    np.testing.assert_array_equal(
        np.asarray(Image.open(folder / "images" / names[2])), images[2, ..., 0]
    )
    with Image.open(folder / "chain.gif") as gif:
        assert gif.n_frames == 4
    assert (folder / "forward.png").exists()
    assert json.loads((folder / "sample.json").read_text())["parameters"] == "ema"


def test_an_image_depends_on_seed_and_index_and_not_on_the_batch(model):
    whole, _ = arrays(sample(model, "num_images=6", "batch_size=6"))
    parts, _ = arrays(sample(model, "num_images=5", "batch_size=2"))
    # Equal noise; float32 sums of another batch size may round one level differently.
    assert np.abs(whole[:5].astype(int) - parts).max() <= 1
    assert len({image.tobytes() for image in whole}) == 6
    other, _ = arrays(sample(model, "seed=1"))
    assert np.abs(whole.astype(int) - other).max() > 50
    shutil.rmtree(model / "samples")
    again, _ = arrays(sample(model, "num_images=6", "batch_size=6"))
    np.testing.assert_array_equal(whole, again)


def test_labels_are_those_asked_for_by_number_or_name(model):
    folder = sample(model, "label=7,3")
    assert arrays(folder)[1].tolist() == [7, 3, 7, 3, 7, 3]
    assert (folder / "images" / "000001-3.png").exists()
    assert arrays(sample(model, "label=none", "num_images=2"))[1].tolist() == [10, 10]


def test_raw_parameters_and_older_checkpoints_draw_other_images(model, capsys):
    averaged, _ = arrays(sample(model))
    raw, _ = arrays(sample(model, "ema=False"))
    assert "raw parameters" in capsys.readouterr().out
    older, _ = arrays(sample(model, "step=3"))
    assert (averaged != raw).any()
    assert (averaged != older).any()


def test_ddim_takes_fewer_steps(model):
    folder = sample(model, "sampler=ddim", "num_steps=5", "film_frames=5")
    with Image.open(folder / "chain.gif") as gif:
        assert gif.n_frames == 5
    asked = request(folder)
    assert (asked["sampler"], asked["num_steps"]) == ("ddim", 5)


def test_what_was_asked_for_before_is_found_and_not_drawn_again(
    model, capsys, monkeypatch
):
    first = sample(model, "num_images=2", "num_steps=5")
    assert first.name == "0001"
    written = (first / "grid.png").stat().st_mtime_ns
    again = ["sample", f"{model}", "--num-images=2", "--num-steps=5", "--batch-size=2"]
    with monkeypatch.context() as patch:
        # Each would fail if it were called.
        patch.setattr("ddpm_jax.assembly.program", None)
        patch.setattr("ddpm_jax.training.checkpoints.restore_params", None)
        assert main(again) == 0
        # The seed of the run, said outright, is the same request.
        assert main([*again, "--seed=0"]) == 0
        out = shutil.copytree(first, model.parent / "out")
        assert main([*again, f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"Nothing to do: {first}") == 2
    assert said.count(f"Nothing to do: {out}") == 1
    assert (first / "grid.png").stat().st_mtime_ns == written
    (first / "grid.png").unlink()  # as if it had been interrupted
    assert main(again) == 0
    assert (first / "grid.png").exists()
    assert sample(model, "num_images=2", "num_steps=4").name == "0002"


def test_two_devices_draw_what_one_draws(model):
    one, _ = arrays(sample(model))
    shutil.rmtree(model / "samples")
    process = start("sample", f"{model}", num_devices=2)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "on 2 x cpu" in out
    (folder,) = (model / "samples").iterdir()
    two, _ = arrays(folder)
    assert np.abs(one.astype(int) - two).max() <= 1


def test_the_devices_of_a_cpu_are_set_up_before_the_first_is_touched(model):
    """Reading the config of a model must not: afterwards it is too late."""
    code = (
        "import sys, jax; from pathlib import Path;"
        "from ddpm_jax.commands.about import trained_recipe;"
        "trained_recipe(Path(sys.argv[1]));"
        "jax.config.update('jax_num_cpu_devices', 3); print(jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "3", done.stderr


def test_a_damaged_newest_checkpoint_is_reported_and_an_older_one_drawn_from(
    model, capsys
):
    (model / "checkpoints/12/metadata/metadata.json").write_text("{")
    folder = sample(model, "num_images=1")
    captured = capsys.readouterr()
    assert "checkpoints/12 is damaged" in captured.err
    assert "parameters of step 9:" in captured.out
    assert request(folder)["checkpoint_step"] == 9
    older = sample(model, "num_images=1", "step=3")
    assert request(older)["checkpoint_step"] == 3


def test_parameters_are_read_once_and_only_those_that_are_asked_for(
    model, capsys, monkeypatch
):
    read, restore = [], checkpoint_reader.restore_item

    def noted(directory, name, *rest):
        read.append((directory.name, name))
        return restore(directory, name, *rest)

    monkeypatch.setattr(checkpoint_reader, "restore_item", noted)
    cut_short(model / "checkpoints/12/params")
    sample(model, "num_images=1")
    assert read == [("12", "ema_params")]
    assert "damaged" not in capsys.readouterr().err
    sample(model, "num_images=1", "ema=False")
    assert read[1:] == [("12", "params"), ("9", "params")]
    assert "checkpoints/12 is damaged" in capsys.readouterr().err


def test_images_that_are_not_finite_are_refused_and_not_drawn_black():
    def run(params, key, rows):
        indices, _ = rows
        images = jnp.zeros((len(indices), 2, 2, 1), jnp.uint8)
        return Checked((Made(images, None, None),), indices != 5)

    def images(num):
        asked, spec = Sample(num_images=num, batch_size=4), Diffusion()
        program, nothing = Program(run, data_mesh()), Conditions(None, None)
        return list(sample_batches(spec, asked, program, None, nothing))

    images(5)  # the batch is filled up, but not with image 5
    with pytest.raises(UserError, match="among 4 to 5 is not finite"):
        images(6)
