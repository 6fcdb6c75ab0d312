"""VAE, GAN and flow through the program: trained, resumed, loaded, sampled, scored."""

import json
import shutil

import jax
import numpy as np
import pytest
from families import DIGITS, POINTS, TASKS, train, write

import ddpm_jax
from ddpm_jax.cli import main
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Fit, Flow, FlowTask, from_json, recipe, to_json
from ddpm_jax.training import checkpoints as store


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return what trains a kind on data, once; its folder."""
    base, known = tmp_path_factory.mktemp("families"), {}

    def trained(kind, data):
        if (kind, data) not in known:
            folder = base / f"{kind}-{data}"
            train(base, folder, TASKS[kind, data])
            known[kind, data] = folder
        return known[kind, data]

    return trained


def samples_of(folder):
    (found,) = folder.glob("samples/*/samples.npz")
    return np.load(found)["arr_0"]


@pytest.mark.parametrize(("kind", "data"), TASKS)
def test_it_resumes_bit_for_bit_and_samples_what_the_library_samples(
    run, tmp_path, kind, data
):
    folder, stopped = run(kind, data), tmp_path / "stopped"
    shutil.copytree(folder, stopped)  # as it was after the second step
    shutil.rmtree(stopped / "checkpoints" / "4")
    (stopped / "result.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        ddpm_jax.load(stopped)
    train(tmp_path, stopped, TASKS[kind, data])
    parts, whole = ddpm_jax.load(stopped), ddpm_jax.load(folder)
    jax.tree.map(np.testing.assert_array_equal, parts.params, whole.params)
    first = store.restore_params(folder, step=2)
    changed = jax.tree.map(lambda a, b: (a != b).any(), first, whole.params)
    assert any(jax.tree.leaves(changed))  # it had something to go on with
    assert main(["sample", str(folder), "--seed=3"]) == 0
    drawn = samples_of(folder)
    if data == "points":
        (figures,) = folder.glob("samples/*/figures.json")
        assert json.loads(figures.read_text())["num_modes"] == 8
    key = jax.random.fold_in(jax.random.key(3), 2)  # the stream of samples
    expected = parts.store(parts.sample(key, 6))
    np.testing.assert_array_equal(drawn, expected)
    # In whatever parts they are made.
    np.testing.assert_allclose(
        parts.sample(key, 2, first=4), parts.sample(key, 6)[4:], atol=1e-6
    )
    assert drawn.dtype == (np.uint8 if data == "digits" else np.float32)
    assert len(np.unique(drawn)) > 1


@pytest.mark.parametrize("kind", ["vae", "gan", "flow"])
def test_it_is_interpolated(run, capsys, kind):
    folder = run(kind, "points")
    model = ddpm_jax.load(folder)
    ends = model.latents(jax.random.key(0), 3)
    walks = model.interpolate(ends[:2], ends[1:], 5)
    assert walks.shape == (2, 5, 2)
    if kind == "flow":  # its ends are those of the latents, exactly
        np.testing.assert_allclose(walks[:, 0], model.decode(ends[:2]), atol=1e-4)
        np.testing.assert_allclose(walks[:, -1], model.decode(ends[1:]), atol=1e-4)
    command = ["edit", "interpolate", str(folder), "--num-points=3"]
    assert main(command) == 0
    of_data = [*command, "--image=data:0,data:1"]
    if kind == "gan":
        assert main(of_data) == 2
        assert "a gan has no encoder" in capsys.readouterr().err
        return
    assert main(of_data) == 0
    folders = sorted((folder / "edits").iterdir())
    assert len(folders) == 2
    shapes = {np.load(f / "samples.npz")["arr_0"].shape for f in folders}
    assert shapes == {(15, 2), (3, 2)}  # five walks between six samples, and one
    items = model.encode(np.float32([[0.5, 1.0], [1.0, -0.5]]))
    assert items.shape == (2, 2)


def test_the_latents_of_a_flow_are_those_of_its_items(run):
    model = ddpm_jax.load(run("flow", "digits"))
    z = model.latents(jax.random.key(1), 4)
    items = model._maps.decode(model.params, None, z)  # before clipping
    np.testing.assert_allclose(model.encode(items), z, atol=1e-3)


@pytest.mark.parametrize("kind", ["vae", "flow"])
def test_bits_of_digits_are_those_of_17_values(run, kind):
    """At first a model knows little: near the log2 17 = 4.09 bits of uniform levels."""
    model = ddpm_jax.load(run(kind, "digits"))
    source = DIGITS.open("test")
    items = np.stack([source.source[i]["image"] for i in range(16)])
    bits = model.bits_per_dim(jax.random.key(0), items)
    assert bits.shape == (16,) and 1.0 < float(bits.mean()) < 9.0
    with pytest.raises(UserError, match="no likelihood"):
        ddpm_jax.load(run("gan", "digits")).bits_per_dim(jax.random.key(0), items)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["sample", "--num-steps=5"], "does nothing in a model of kind gan"),
        (["sample", "--guidance-scale=2"], "--guidance-scale=2.0 does nothing"),
        (["sample", "--config.gamma=1"], "trained with other options"),
        (["sample", "--num-images=0"], "too small"),
        (["evaluate", "--features=x", "--resize=clean"], "--resize=clean does nothing"),
        (["plan"], "is for a diffusion model"),
        (["likelihood"], "is of kind gan, which has no likelihood; name a run of"),
        (["evaluate", "--scores=bits_per_dim"], "a model of kind gan has no likelih"),
        (["edit inpaint"], "is for a diffusion model"),
        (["edit interpolate", "--num-points=1"], "--num-points=1 is too small; use 2"),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(run, capsys, flags, message):
    folder = run("gan", "points")
    capsys.readouterr()
    command, *options = flags
    assert main([*command.split(), str(folder), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_only_its_recipe_sets_is_left_out(run, tmp_path, capsys):
    task = TASKS["gan", "points"]
    recipe = f"--config={write(tmp_path, task, eta=0.5, guidance_low=0.1)}"
    line = ["sample", str(run("gan", "points")), recipe, "--num-images=3"]
    assert main(line) == 0
    capsys.readouterr()
    assert main([*line, "--eta=0.5"]) == 2
    assert "--eta=0.5 does nothing in a model of kind gan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("vae", "training.ema_stds=0.05,"),
        ("flow", "training.ema_stds=0.05,"),
        ("gan", "training.ema_stds=0.05,"),
        ("gan", "training.accumulate=2"),
    ],
)
def test_what_its_training_does_not_look_at_is_refused(tmp_path, capsys, kind, option):
    line = [f"--config=configs/points_{kind}.py", f"--config.{option}"]
    assert main([*line, f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    name = option.partition("=")[0]
    assert f"config.{name}=" in error and error.count("\n") == 1
    assert f"does nothing in the training of kind {kind}; leave it out" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_was_asked_before_is_found_without_its_parameters(
    run, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(run("vae", "points"), tmp_path / "run")
    lines = (
        ["sample", str(folder), "--num-images=5"],
        ["edit", "interpolate", str(folder), "--num-points=3"],
    )
    assert [main(line) for line in lines] == [0, 0]
    monkeypatch.delattr(store, "restore_params")
    capsys.readouterr()
    for line in lines:
        assert main(line) == 0
        assert "is finished" in capsys.readouterr().out


def test_a_number_of_values_that_the_data_do_not_have_is_refused():
    task = FlowTask(DIGITS, network=Flow(num_scales=1), num_values=16)
    with pytest.raises(UserError, match="bytes between them"):
        task.start_of(DIGITS.open())
    with pytest.raises(UserError, match="is of bytes"):
        FlowTask(POINTS, num_values=17).start_of(POINTS.open())


def test_its_recipe_has_the_sections_of_its_commands():
    made = recipe(TASKS["gan", "points"], Fit(), sample={"num_images": 3})
    assert {"sample", "evaluate", "edit"} <= set(made) and "cascade" not in made
    stored = to_json(made)
    assert to_json(from_json(stored)) == stored
