"""The features network as a user meets it, trained for a moment on the digits."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from program import ROOT, cut_short

from ddpm_jax import data
from ddpm_jax.assembly.features import classifier_features
from ddpm_jax.cli import main
from ddpm_jax.commands import fitting
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import extract
from ddpm_jax.training import fit

RECIPE = f"--config={ROOT / 'configs' / 'digits_features.py'}"
QUICK = [
    "--config.training.num_steps=60",
    "--config.training.warmup_steps=5",
    "--config.network.channels=8",
    "--config.training.learning_rate=0.01",
    "--config.training.ema_decay=0.9",
    "--config.training.batch_size=64",
]


def train(workdir, *arguments):
    return main([RECIPE, f"--workdir={workdir}", *QUICK, *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("features") / "digits"
    assert train(workdir) == 0
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_what_it_says_of_itself_is_so(trained):
    about = json.loads((trained / "result.json").read_text())
    seen = classifier_features(trained)
    assert seen.name == "classifier of digits"
    assert seen.fingerprint == about["fingerprint"]
    for split in ("train", "test"):
        images, labels = data.in_memory(data.load("digits", split=split))
        outputs = extract(seen, images)
        assert outputs.features.shape == (len(images), seen.num_features)
        right = (outputs.logits.argmax(1) == labels).mean()
        assert right == pytest.approx(about["accuracy"][split], abs=1e-9)
    assert about["accuracy"]["test"] > 0.5  # of ten classes, after 60 steps


def test_the_same_seed_gives_the_same_weights_and_another_others(trained, tmp_path):
    def weights(workdir):
        return json.loads((workdir / "result.json").read_text())["fingerprint"]

    assert train(tmp_path / "again") == 0
    assert weights(tmp_path / "again") == weights(trained)
    assert train(tmp_path / "other", "--config.seed=1") == 0
    assert weights(tmp_path / "other") != weights(trained)


def test_a_finished_one_is_left_alone(copy, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "fit_auxiliary", None)  # would fail
    before = (copy / "result.json").stat().st_mtime_ns
    assert train(copy) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert (copy / "result.json").stat().st_mtime_ns == before


def test_a_folder_of_another_config_is_refused(copy, capsys):
    assert train(copy, "--config.network.num_features=7") == 2
    assert "network.num_features: 64 -> 7" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_damaged_weights_are_refused(copy, damage):
    item = copy / "checkpoints" / "60" / "ema_params"
    if damage == "truncated":
        cut_short(item)
    else:
        shutil.rmtree(item.parents[1])
    with pytest.raises(UserError, match=r"is damaged|no checkpoint"):
        classifier_features(copy)


def test_other_weights_than_described_are_refused(copy):
    path = copy / "result.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "fingerprint": "0" * 16}))
    with pytest.raises(UserError, match="are not those that its result describes"):
        classifier_features(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: {"step": 60}, "it lacks accuracy, fingerprint"),
        (lambda about: {}, "does not describe a features network"),
        (lambda about: [about], "it holds a list, not an object"),
        (lambda about: about.pop("label_names") and about, "it lacks label_names"),
        (lambda about: about | {"label_names": ["0"]}, "do not fit"),
        (lambda about: about | {"image_shape": "8x8"}, "do not fit"),
        (lambda about: about | {"config": {"network": {"channels": "x"}}}, "not fit"),
    ],
)
def test_a_description_of_something_else_is_refused(copy, change, said):
    path = copy / "result.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=said):
        classifier_features(copy)


def test_a_missing_folder_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"main.py --config=.*nowhere"):
        classifier_features(tmp_path / "nowhere")


def test_a_run_that_is_interrupted_goes_on_bit_for_bit(
    trained, tmp_path, monkeypatch, capsys
):
    @contextlib.contextmanager
    def pressed(start):
        asked = [0] * start

        def ask():
            asked.append(0)
            return 2 if len(asked) >= 23 else 0

        yield ask

    with monkeypatch.context() as patch:
        patch.setattr(fit, "catch_interrupts", pressed)
        assert train(tmp_path / "run") == 130
    assert "Interrupted at step 23 of 60; saved" in capsys.readouterr().out
    with pytest.raises(UserError, match="a features network that is not finished"):
        classifier_features(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    fingerprints = {
        json.loads((workdir / "result.json").read_text())["fingerprint"]
        for workdir in (tmp_path / "run", trained)
    }
    assert len(fingerprints) == 1


def paint(folder, count):
    """Write dark and light pictures of 8x8 pixels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 90, (8, 8)) + 150 * (folder.name == "light")
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")


def test_own_pictures_hold_out_every_tenth(tmp_path):
    for name in ("dark", "light"):
        paint(tmp_path / "own" / name, 30)
    source = f"--config.data.source=folder:{tmp_path / 'own'}"
    steps = "--config.training.num_steps=20"
    small = "--config.training.batch_size=8"
    assert train(tmp_path / "run", source, steps, small) == 0
    about = json.loads((tmp_path / "run" / "result.json").read_text())
    assert about["label_names"] == ["dark", "light"]
    assert about["num_images"] == {"train": 54, "every 10th image, held out": 6}
    assert about["accuracy"]["every 10th image, held out"] == 1.0


def test_too_few_pictures_to_hold_one_out_are_refused(tmp_path, capsys):
    for name in ("dark", "light"):
        paint(tmp_path / "own" / name, 4)
    source = f"--config.data.source=folder:{tmp_path / 'own'}"
    assert train(tmp_path / "run", source) == 2
    assert "has 8 images and no test split" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["test", "all"])
def test_images_to_be_tested_on_are_not_learnt_from(tmp_path, capsys, split):
    assert train(tmp_path / "run", f"--config.data.split={split}") == 2
    assert f"config.data.split='{split}' holds the test" in capsys.readouterr().err


def test_the_folder_of_a_diffusion_model_is_left_alone(finished, capsys):
    before = sorted(path.name for path in finished.iterdir())
    assert train(finished) == 2
    assert "holds a model of another kind (diffusion)" in capsys.readouterr().err
    assert sorted(path.name for path in finished.iterdir()) == before


def test_pictures_without_classes_are_refused(tmp_path, capsys):
    paint(tmp_path / "own", 12)
    source = f"--config.data.source=folder:{tmp_path / 'own'}"
    assert train(tmp_path / "run", source) == 2
    assert "has no labels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("network.num_groups=5", "config.network.num_groups=5 does not divide the 8 "),
        ("label_smoothing=1.0", "config.label_smoothing=1.0 is not in [0, 1)"),
        (
            "training.learning_rate=0.0",
            "config.training.learning_rate=0.0 must be positive",
        ),
        ("training.num_steps=0", "config.training.num_steps=0 is too small; use 1"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, option, said):
    assert train(tmp_path / "run", f"--config.{option}") == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_says_too_little_or_the_wrong_thing_is_refused(copy):
    path = copy / "result.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in about.items() if k != "accuracy"}))
    with pytest.raises(UserError, match="it lacks accuracy"):
        classifier_features(copy)
    path.write_text("[]")
    with pytest.raises(UserError, match="it holds a list, not an object"):
        classifier_features(copy)
    path.write_text(json.dumps(about | {"label_names": ["0", "1"]}))
    with pytest.raises(UserError, match="do not fit its network"):
        classifier_features(copy)


def test_learning_from_the_test_images_is_refused(tmp_path, capsys):
    assert train(tmp_path / "run", "--config.data.split=all") == 2
    assert "holds the test images" in capsys.readouterr().err
