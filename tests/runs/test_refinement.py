"""A scene refined by its command: from a volume to the file of a mesh."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from untrained import write_run

import ddpm_jax
from ddpm_jax.assembly import DataInfo
from ddpm_jax.cli import load_recipe, main
from ddpm_jax.commands import refinement as command
from ddpm_jax.commands import scene
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    MLP,
    Cosine,
    Diffusion,
    Fit,
    Refinement,
    Scene,
    from_json,
    recipe,
)
from ddpm_jax.scenes import cameras
from ddpm_jax.tasks import views


def write_prior(folder, width=8):
    """An unconditional model of 4x4 images, which nobody trained."""
    network = MLP(width=width, depth=1)
    diffusion = Diffusion(network=network, schedule=Cosine(10), preview_steps=10)
    made = from_json(recipe(diffusion, Fit(batch_size=4)))
    write_run(folder, made, DataInfo("colors", (4, 4, 3), None, "0" * 16))
    return folder


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(scene, "SHOWN", {"num_views": 3, "size": 8})
    monkeypatch.setattr(views, "SHOWN_SIZE", 8)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """A prior, and a scene that has followed it for two steps."""
    folder = tmp_path_factory.mktemp("runs")
    prior = write_prior(folder / "colors")
    options = (
        *("--config.prompt=", f"--config.prior={prior}", "--config.guidance_scale=1"),
        *("--config.field.resolution=4", "--config.num_samples=4"),
        *("--config.training.num_steps=2", "--config.training.batch_size=2"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene, "SHOWN", {"num_views": 3, "size": 8})
        patch.setattr(views, "SHOWN_SIZE", 8)
        run = folder / "coarse"
        assert main(["--config=configs/dream.py", f"--workdir={run}", *options]) == 0
    return prior, run


def line(coarse, run, *options):
    return [
        f"--config=configs/refine.py:{coarse}",
        f"--workdir={run}",
        "--config.guidance_scale=1",
        "--config.num_cells=6",
        "--config.training.num_steps=4",
        "--config.training.report_every=1",
        "--config.training.preview_every=2",
        "--config.training.checkpoint_every=2",
        *options,
    ]


def test_a_scene_is_refined_goes_on_and_is_written(coarse, tmp_path, capsys):
    prior, volume = coarse
    run = tmp_path / "run"
    assert main(line(volume, run)) == 0
    out = capsys.readouterr().out
    assert "surface  '', 2,401 parameters, 2 views of 12x12 a step, as 4x4" in out
    assert str(volume) in out and str(prior) in out and "triangles" in out
    for ending in ("gif", "webp"):
        with Image.open(run / f"turntable.{ending}") as film:
            assert film.size == (24, 8) and film.n_frames == 3
    assert (run / "progress" / "step-0000002.png").exists()
    found = json.loads((run / "result.json").read_text())
    assert 0 < found["opacity"] < 1 and found["largest_piece"] > 0.5
    model = ddpm_jax.load(run)
    assert model.num_triangles == found["triangles"] == model.facts["triangles"]
    whole = {name: np.asarray(leaf) for name, leaf in model.params.items()}
    start = ddpm_jax.load(volume).to_surface(6)._asdict()
    assert all(np.abs(whole[name] - start[name]).max() > 1e-3 for name in whole)
    assert model.render(cameras.orbit(2), 8).color.shape == (2, 8, 8, 3)
    # From the checkpoint in the middle to the same end, bit for bit.
    shutil.rmtree(run / "checkpoints" / "4")
    (run / "result.json").unlink()
    assert main(line(volume, run)) == 0
    assert "step 2 of 4" in capsys.readouterr().out
    again = ddpm_jax.load(run).params
    for name, leaf in whole.items():
        np.testing.assert_array_equal(again[name], leaf)
    assert main(line(volume, run)) == 0
    assert "Nothing to do" in capsys.readouterr().out
    path = tmp_path / "thing.ply"
    assert main(["export-mesh", str(run), "--to", str(path)]) == 0
    mesh = model.to_mesh()
    assert f"{len(mesh.triangles):,} triangles" in capsys.readouterr().out
    assert f"element face {len(mesh.triangles)}".encode() in path.read_bytes()
    assert main(["export-mesh", str(run), "--cells=8"]) == 2
    error = capsys.readouterr().err
    assert "does nothing in a model of kind refinement" in error
    assert error.count("\n") == 1
    # Scene and prior may lie elsewhere, and have to be the same.
    (run / "result.json").unlink()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(volume, elsewhere)
    moved = (f"--config.prior={prior}", "--config.max_triangles=4000")
    assert main(line(elsewhere, run, *moved)) == 0
    (run / "result.json").unlink()
    other = write_prior(tmp_path / "other", width=9)
    capsys.readouterr()
    assert main(line(volume, run, f"--config.prior={other}")) == 2
    error = capsys.readouterr().err
    assert f"the refinement in {run} has followed the prior" in error
    assert error.count("\n") == 1
    assert main(line(volume, run, "--config.num_cells=8")) == 2
    assert "holds a run of another config (num_cells" in capsys.readouterr().err


def test_scenes_that_do_not_fit_are_refused_in_one_line(coarse, tmp_path):
    prior, _ = coarse
    for options, message in (
        ({"coarse": ""}, "config.coarse='' names no run"),
        ({"coarse": str(tmp_path / "none")}, "none"),
        ({"coarse": str(prior)}, "of kind diffusion; name the run of a scene"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            command.open_coarse(Refinement(**options))
        assert "\n" not in str(refused.value)


def test_what_is_left_open_is_as_in_the_scene():
    coarse = Scene(
        prior="runs/a", prompt="a car", negative_prompt="a tree", view_words=False
    )
    seen = command.scene_of(Refinement(guidance_scale=5.0), coarse)
    assert (seen.prior, seen.prompt, seen.negative_prompt) == coarse_words(coarse)
    assert seen.guidance_scale == 5.0 and not seen.view_words
    given = Refinement(prior="runs/b", prompt="", negative_prompt="", view_words=True)
    seen = command.scene_of(given, coarse)
    assert (seen.prior, seen.prompt, seen.negative_prompt) == ("runs/b", "", "")
    assert seen.view_words
    # Without guidance there is nothing that a negative prompt of the scene could do.
    assert not command.scene_of(Refinement(guidance_scale=1.0), coarse).negative_prompt
    with pytest.raises(UserError, match="negative_prompt does nothing"):
        command.scene_of(
            Refinement(guidance_scale=1.0, negative_prompt="a lamp"), coarse
        )


def coarse_words(spec):
    return spec.prior, spec.prompt, spec.negative_prompt


def test_the_recipe(tmp_path):
    made, _ = load_recipe(f"refine:{tmp_path / 'some'}")
    assert made.task.coarse == str(tmp_path / "some")
    assert made.kind == "refinement" and made.training.batch_size == 2
