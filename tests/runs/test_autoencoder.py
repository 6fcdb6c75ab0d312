"""The autoencoder as a user meets it, trained for a moment on the digits."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from program import ROOT, TINY, cut_short

from ddpm_jax import data
from ddpm_jax.assembly import autoencoder
from ddpm_jax.cli import main
from ddpm_jax.commands import autoencoder as command
from ddpm_jax.commands import fitting
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import to_float
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training import fit
from ddpm_jax.training.log import read_metrics
from ddpm_jax.training.state import TrainState

RECIPE = f"--config={Path(__file__).with_name('tiny_autoencoder.py')}"
EYES = f"--config={ROOT / 'configs' / 'digits_features.py'}"


def flags(*options):
    return [f"--config.{option}" for option in options]


def train(workdir, *options):
    return main([RECIPE, f"--workdir={workdir}", *flags(*options)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("autoencoder") / "digits"
    assert train(workdir) == 0
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def told(workdir):
    return json.loads((workdir / "result.json").read_text())


def test_what_it_says_of_itself_is_so(trained):
    about, ours = told(trained), autoencoder.load(trained)
    assert (ours.image_shape, ours.latent_shape, ours.factor) == (
        (8, 8, 1),
        (4, 4, 4),
        2,
    )
    assert ours.fingerprint == about["fingerprint"]
    images, _ = data.in_memory(data.load("digits", split="test"))
    x = to_float(images)
    mean, log_variance = jax.jit(ours.posterior)(ours.params, x)
    drawn = ours.encode(ours.params, x, jax.random.key(0))
    for split, least, most in (("train", 1.0, 1.0), ("test", 0.98, 1.02)):
        assert least - 1e-6 <= about["latents"][split]["std"] <= most + 1e-6
    # 4,784 numbers in dependent groups of 16: the error of their spread is about 1%.
    assert np.std(drawn) == pytest.approx(about["latents"]["test"]["std"], rel=0.04)
    noise = np.sqrt(np.exp(np.asarray(log_variance, np.float64)).mean())
    assert noise == pytest.approx(about["latents"]["test"]["noise"], rel=1e-4)
    assert np.mean(mean) == pytest.approx(about["latents"]["test"]["mean"], abs=1e-4)
    again = np.clip(ours.decode(ours.params, ours.encode(ours.params, x)), -1, 1)
    errors = ((again - x) ** 2).mean((1, 2, 3))
    assert np.mean(10 * np.log10(4 / errors)) == pytest.approx(
        about["psnr"]["test"], abs=1e-3
    )
    # Of the mean image of the digits, which needs no latents.
    flat = ((x.mean(0) - x) ** 2).mean((1, 2, 3))
    assert about["psnr"]["test"] > np.mean(10 * np.log10(4 / flat))


def test_the_sheet_shows_held_out_images_above_their_reconstructions(trained):
    images, _ = data.in_memory(data.load("digits", split="test"))
    ours = autoencoder.load(trained)
    decoded = ours.decode(ours.params, ours.encode(ours.params, to_float(images[:12])))
    with Image.open(trained / "reconstructions.png") as picture:
        sheet = np.asarray(picture)[2:, 2:]
    assert sheet.shape == (2 * 66, 12 * 66)
    for i in (0, 11):
        top, below = sheet[:64, 66 * i :][:, :64], sheet[66:130, 66 * i :][:, :64]
        np.testing.assert_array_equal(top[4::8, 4::8], images[i, ..., 0])
        pixels = np.clip((np.asarray(decoded[i, ..., 0]) + 1) * 127.5, 0, 255)
        np.testing.assert_allclose(below[4::8, 4::8], pixels, atol=0.51)


def test_it_lies_in_the_folder_of_any_run(trained):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "config.json",
        "loss.png",
        "metrics.jsonl",
        "reconstructions.png",
        "result.json",
        "tensorboard",
    }
    # The adversary joins at step 30, counted from 0: its loss is there from then on.
    records = read_metrics(trained)
    assert [r["step"] for r in records if "hinge" in r] == [40]
    assert {"loss", "kl", "absolute_error", "learning_rate"} <= set(records[0])


@contextlib.contextmanager
def stop_at(monkeypatch, step):
    """Press Ctrl-C at a step of a run."""

    @contextlib.contextmanager
    def pressed(start):
        asked = [0] * start

        def ask():
            asked.append(0)
            return 2 if len(asked) >= step else 0

        yield ask

    with monkeypatch.context() as patch:
        patch.setattr(fit, "catch_interrupts", pressed)
        yield


@pytest.mark.parametrize("step", [17, 35])  # before the discriminator, and with it
def test_a_run_that_is_interrupted_goes_on_bit_for_bit(
    trained, tmp_path, monkeypatch, capsys, step
):
    run = tmp_path / "run"
    with stop_at(monkeypatch, step):
        assert train(run) == 130
    assert f"Interrupted at step {step} of 40; saved" in capsys.readouterr().out
    assert not (run / "result.json").exists()
    with pytest.raises(UserError, match="an autoencoder that is not finished"):
        autoencoder.load(run)
    assert train(run, "network.num_res_blocks=2") == 2
    assert "network.num_res_blocks: 1 -> 2" in capsys.readouterr().err
    assert train(run, "training.report_every=5") == 0
    assert f"from step {step}" in capsys.readouterr().out
    assert told(run)["fingerprint"] == told(trained)["fingerprint"]
    for ema in (True, False):  # the adversary's too
        jax.tree.map(
            np.testing.assert_array_equal,
            store.restore_params(run, ema=ema),
            store.restore_params(trained, ema=ema),
        )


def test_one_that_dies_while_it_is_measured_need_not_train_again(tmp_path, monkeypatch):
    short = ("training.num_steps=3", "training.warmup_steps=1")

    def fails(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_measured", fails)
        assert train(tmp_path / "run", *short) == 130
    monkeypatch.setattr(fit, "train_loop", None)  # would fail
    assert train(tmp_path / "run", *short) == 0


def test_a_begun_run_whose_config_is_damaged_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "checkpoints" / "3").mkdir(parents=True)
    (run / "config.json").write_text("{")
    assert train(tmp_path / "run") == 2
    assert "config.json cannot be read" in capsys.readouterr().err


def test_a_finished_one_is_left_alone(copy, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "fit_auxiliary", None)  # would fail
    assert train(copy) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert train(copy, "kl_weight=1e-5") == 2
    assert "kl_weight: 1e-06 -> 1e-05" in capsys.readouterr().err


def test_the_perceptual_term_looks_through_a_features_network(tmp_path, capsys):
    eyes = tmp_path / "eyes"
    short = ("training.num_steps=2", "training.warmup_steps=1")
    small = flags("network.channels=4", "network.num_groups=2", *short)
    assert main([EYES, f"--workdir={eyes}", *small]) == 0
    capsys.readouterr()
    short = (*short, f"perceptual={eyes}", "discriminator_weight=0.0")
    assert train(tmp_path / "run", *short) == 0
    out = capsys.readouterr().out
    assert re.search(r", perceptual \d", out) and "discriminator" not in out
    # Its weight is felt; where that is zero no such network is opened.
    unused = ("perceptual=nowhere", "perceptual_weight=0.0")
    assert train(tmp_path / "other", *short, *unused) == 0
    folders = [told(tmp_path / name)["fingerprint"] for name in ("run", "other")]
    assert folders[0] != folders[1]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("network.num_groups=3", "config.network.num_groups=3 does not divide"),
        ("network.channel_multipliers=(1,1,1,1,1)", "multiples of 16"),
        ("discriminator.num_layers=2", "too small for a discriminator"),
        ("discriminator.num_groups=3", "config.discriminator.num_groups=3 does not"),
        ("training.learning_rate=0.0", "training.learning_rate=0.0 must be positive"),
        ("training.num_steps=0", "num_steps=0 is too small; use 1 or more"),
        ("kl_weight=-1.0", "config.kl_weight=-1.0 is too small; use 0 or more"),
        ("training.optimizer.b1=1.0", "optimizer.b1=1.0 is not in [0, 1)"),
        ("network.dtype=float16", "use float32, bfloat16"),
        ("training.accumulate=2", "training.accumulate=2 does nothing in the"),
        ("training.ema_stds=0.1,", "does nothing in the training of kind autoencoder"),
        ("perceptual_weight=2.0", "does nothing without perceptual"),
        ("perceptual=nowhere", "nowhere holds no features network"),
        ("perceptual=lpips:vgg16.pth", "does not name two files"),
        ("perceptual=lpips:a.pth,b.pth", "needs 16 pixels a side"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, option, said):
    assert train(tmp_path / "run", option) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "run").exists()


def test_a_features_network_of_other_images_is_refused(tmp_path, capsys, monkeypatch):
    about = {"image_shape": [32, 32, 1]}
    monkeypatch.setattr(
        "ddpm_jax.assembly.features._open", lambda workdir: (None, None, about)
    )
    assert train(tmp_path / "run", "perceptual=eyes") == 2
    assert "takes images of 32x32x1, and these are 8x8x1" in capsys.readouterr().err


def test_the_folder_of_a_diffusion_model_is_left_alone(finished, capsys):
    assert train(finished) == 2
    assert "holds a model of another kind (diffusion)" in capsys.readouterr().err


def test_a_diffusion_model_leaves_the_folder_alone(trained, capsys):
    assert main([f"--config={TINY}", f"--workdir={trained}"]) == 2
    assert "holds a model of another kind (autoencoder)" in capsys.readouterr().err


def test_a_folder_of_the_first_version_is_refused(tmp_path, capsys):
    (tmp_path / "weights.npz").write_bytes(b"")
    (tmp_path / "autoencoder.json").write_text("{}")
    assert train(tmp_path) == 2
    assert "that ddpm_jax 0.1 wrote (weights.npz)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"that ddpm_jax 0\.1 wrote"):
        autoencoder.load(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "another", "gone"])
def test_damaged_weights_are_refused(copy, damage):
    item = copy / "checkpoints" / "40" / "ema_params"
    if damage == "truncated":
        cut_short(item)
    elif damage == "another":  # whole, and of another step
        params = jax.tree.map(lambda leaf: leaf + 1, store.restore_params(copy))
        shutil.rmtree(item.parent)
        state = TrainState(np.int32(40), params, params, ())
        with store.open_checkpoints(copy) as checkpoints:
            store.save(checkpoints, state, {"kind": "autoencoder"}, wait=True)
    else:
        shutil.rmtree(item.parents[1])
    with pytest.raises(UserError, match=r"autoencoder|no checkpoint|damaged"):
        autoencoder.load(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: {"step": 40}, "it lacks factor, fingerprint"),
        (lambda about: {}, "does not describe an autoencoder"),
        (lambda about: [about], "it holds a list, not an object"),
        (lambda about: about | {"scale": 2.0}, "are not those that its result"),
        (lambda about: about | {"scale": 0.0}, "do not fit"),
        (lambda about: about | {"image_shape": [8, 7, 1]}, "do not fit"),
        (lambda about: about | {"network": {"width": 3}}, "do not fit"),
    ],
)
def test_a_description_of_something_else_is_refused(copy, change, said):
    path = copy / "result.json"
    path.write_text(json.dumps(change(told(copy))))
    with pytest.raises(UserError, match=said):
        autoencoder.load(copy)


def test_a_missing_folder_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"main.py --config=.*nowhere"):
        autoencoder.load(tmp_path / "nowhere")


def test_it_needs_a_recipe(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}"]) == 2
    assert "needs a recipe" in capsys.readouterr().err
