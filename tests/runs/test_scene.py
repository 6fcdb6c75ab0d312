"""A scene by its command: from a prior nobody trained to a turntable."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from settings import changed
from untrained import write_digits, write_run

import ddpm_jax
from ddpm_jax.assembly import DataInfo
from ddpm_jax.cli import load_recipe, main
from ddpm_jax.commands import scene as command
from ddpm_jax.conditioning import Words
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import MLP, Cosine, Diffusion, Fit, Scene, from_json, recipe
from ddpm_jax.scenes import cameras
from ddpm_jax.tasks import views


def write_prior(folder, width=8):
    """An unconditional model of 4x4 images, which nobody trained."""
    network = MLP(width=width, depth=1)
    diffusion = Diffusion(network=network, schedule=Cosine(10), preview_steps=10)
    made = from_json(recipe(diffusion, Fit(batch_size=4)))
    write_run(folder, made, DataInfo("colors", (4, 4, 3), None, "0" * 16))
    return folder


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return write_prior(tmp_path_factory.mktemp("priors") / "colors")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(command, "SHOWN", {"num_views": 3, "size": 8})
    monkeypatch.setattr(views, "SHOWN_SIZE", 8)


def line(prior, run, *options):
    return [
        "--config=configs/dream.py",
        f"--workdir={run}",
        f"--config.prior={prior}",
        "--config.prompt=",
        "--config.guidance_scale=1",
        "--config.field.resolution=4",
        "--config.num_samples=4",
        "--config.training.num_steps=4",
        "--config.training.batch_size=2",
        "--config.training.report_every=1",
        "--config.training.preview_every=2",
        "--config.training.checkpoint_every=2",
        *options,
    ]


def test_a_scene_trains_goes_on_and_is_loaded(prior, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(line(prior, run)) == 0
    out = capsys.readouterr().out
    assert "256 parameters, 2 views of 4x4 a step" in out and "turntable" in out
    for ending in ("gif", "webp"):
        with Image.open(run / f"turntable.{ending}") as film:
            assert film.size == (24, 8) and film.n_frames == 3
    assert (run / "progress" / "step-0000002.png").exists()
    found = json.loads((run / "result.json").read_text())
    assert 0 < found["opacity"] < 1
    model = ddpm_jax.load(run)
    assert repr(model) == "<SceneModel of '', VoxelGrid>"
    whole = np.asarray(model.params["grid"])
    seen = model.render(cameras.orbit(2), 8, 4)
    assert seen.color.shape == (2, 8, 8, 3)
    # From the checkpoint in the middle to the same end, bit for bit.
    shutil.rmtree(run / "checkpoints" / "4")
    (run / "result.json").unlink()
    assert main(line(prior, run)) == 0
    assert "step 2 of 4" in capsys.readouterr().out
    np.testing.assert_array_equal(ddpm_jax.load(run).params["grid"], whole)
    assert main(line(prior, run)) == 0
    assert "Nothing to do" in capsys.readouterr().out
    # With another prior it does not go on.
    shutil.rmtree(run / "checkpoints" / "4")
    (run / "result.json").unlink()
    other = write_prior(tmp_path / "other", width=9)
    assert main(line(other, run)) == 2
    error = capsys.readouterr().err
    assert f"the scene in {run} has followed the prior" in error
    assert error.count("\n") == 1


def test_priors_that_do_not_fit_are_refused_in_one_line(prior, tmp_path):
    digits = tmp_path / "digits"
    write_digits(digits)
    for options, message in (
        ({"prior": ""}, "config.prior='' names no run"),
        ({"prior": str(tmp_path / "none")}, "none"),
        ({"prior": str(digits)}, "name one of RGB images"),
        ({"prior": str(prior), "prompt": "a car"}, "knows no text"),
        ({"prior": str(prior), "guidance_scale": 3.0}, "guidance_scale"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            command.open_prior(Scene(**{"guidance_scale": 1.0, **options}))
        assert "\n" not in str(refused.value)


def test_data_do_nothing(prior, tmp_path, capsys):
    assert main(line(prior, tmp_path / "run", "--config.data.source=digits")) == 2
    assert "config.data does nothing for a scene" in capsys.readouterr().err


def test_a_prior_of_text_reads_the_prompt_from_each_side(tmp_path):
    small = changed(
        load_recipe("shapes")[0],
        *("network.channels=8", "network.num_groups=4", "network.num_heads=1"),
        *("network.channel_multipliers=1", "network.attention_resolutions=16"),
        *("conditioners.text.width=8", "conditioners.text.depth=1"),
        "conditioners.text.num_heads=1",
    )
    texts = tuple(f"a car, {cameras.seen_from(view)}" for view in range(5))
    tokenizer = Words.learn(texts, None).to_json()
    info = DataInfo("shapes", (16, 16, 3), None, "0" * 16, tokenizer, texts)
    write_run(tmp_path / "text", small, info)
    spec = Scene(prior=str(tmp_path / "text"), prompt="a car")
    opened = command.open_prior(spec).prior
    rows = np.concatenate(
        [np.asarray(leaf).reshape(5, -1) for leaf in jax.tree.leaves(opened.cond)], 1
    )
    assert len(np.unique(rows, axis=0)) == len(cameras.VIEWS)
    blind = command.open_prior(
        Scene(prior=spec.prior, prompt="a car", view_words=False)
    )
    for leaf in jax.tree.leaves(blind.prior.cond):
        rows = np.asarray(leaf, np.float32)
        np.testing.assert_allclose(rows[1:], rows[:-1], atol=1e-5)
    with pytest.raises(UserError, match="is conditioned on text"):
        command.open_prior(Scene(prior=spec.prior))


@pytest.mark.parametrize("name", ["voxels", "fourier", "hash"])
def test_the_recipe_has_its_fields(name):
    made, _ = load_recipe(f"dream:{name}")
    spec = made.task
    assert spec.prior == "runs/solids" and spec.prompt == "a snowman"
    wanted = {"voxels": 55_296, "fourier": 6_596, "hash": 93_754}[name]
    shapes = jax.eval_shape(spec.field.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == wanted
    assert made.training.batch_size == 8


def test_a_field_that_is_none():
    with pytest.raises(UserError, match="use voxels, fourier, hash"):
        load_recipe("dream:mesh")


def test_its_surface_is_written_as_a_mesh(prior, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(line(prior, run)) == 0
    path = tmp_path / "thing.obj"
    capsys.readouterr()
    assert main(["export-mesh", str(run), "--to", str(path), "--cells=8"]) == 0
    out = capsys.readouterr().out
    assert "% of the area in one piece" in out
    lines = path.read_text().splitlines()
    assert f"{sum(one.startswith('f ') for one in lines):,} triangles" in out
    assert main(["export-mesh", str(run), "--cells=8"]) == 0
    assert (run / "mesh.glb").read_bytes()[:4] == b"glTF"
    for words, said in {
        ("--to", str(tmp_path / "a.stl")): "end it in .glb",
        ("--cells=3",): "--cells=3 is out of range; use 4 to 128",
    }.items():
        capsys.readouterr()
        assert main(["export-mesh", str(run), *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert main(["export-mesh", str(prior)]) == 2
    assert "diffusion, which has no surface" in capsys.readouterr().err
