"""Bits per dimension of a split: stopped and taken up again, the same numbers."""

import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image
from program import TINY_UNET, flags, start

from ddpm_jax import assembly
from ddpm_jax.cli import main
from ddpm_jax.runtime import plots
from ddpm_jax.runtime.images import save_png

QUICK = ("num_images=10", "batch_size=4", "ode_steps=5")


def arguments(workdir, *options):
    return ["likelihood", f"{workdir}", *flags("likelihood", *options)]


def folders(workdir):
    """The folder of each method: {"bound": ..., "ode": ...}."""
    found = (workdir / "likelihood").iterdir()
    return {
        json.loads((path / "request.json").read_text())["method"]: path
        for path in found
    }


def result(folder):
    return json.loads((folder / "likelihood.json").read_text())


def numbers(workdir):
    """All that was measured, bit for bit; not when and on what."""
    everything = {}
    for method, folder in folders(workdir).items():
        stored = result(folder)
        del stored["finished"], stored["device"]
        everything[method] = json.dumps(stored)
        for path in folder.glob("*.npz"):
            with np.load(path) as file:
                everything[path.name] = {k: file[k].tobytes() for k in file}
    assert {"bound", "ode", "terms.npz", "images.npz"} <= set(everything)
    return everything


@pytest.fixture
def model(finished, tmp_path):
    """A copy that holds nothing but checkpoints: they alone must be enough."""
    shutil.copytree(finished / "checkpoints", tmp_path / "model" / "checkpoints")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """A workdir that was measured by both methods, without interruption."""
    workdir = tmp_path_factory.mktemp("measured")
    shutil.copytree(finished / "checkpoints", workdir / "checkpoints")
    assert main(arguments(workdir, *QUICK)) == 0
    return workdir


def test_a_model_that_computes_in_bfloat16_is_measured_in_float32(
    tmp_path, monkeypatch
):
    """Rounding between its layers would be charged in bits."""
    options = ["training.num_steps=2", "training.preview_every=0"]
    options += ["training.warmup_steps=1", "network.dtype=bfloat16"]
    trained = [f"--config={TINY_UNET}", f"--workdir={tmp_path / 'run'}"]
    assert main([*trained, *(f"--config.{option}" for option in options)]) == 0
    measure, dtypes = assembly.measure, []

    def seen(spec, asked, network, method):
        dtypes.append((network.network.dtype, method))
        return measure(spec, asked, network, method)

    monkeypatch.setattr(assembly, "measure", seen)
    monkeypatch.setattr(assembly, "kept", lambda what, spec, info, make, **_: make())
    quick = ("num_images=10", "batch_size=4", "method=bound")
    assert main(arguments(tmp_path / "run", *quick)) == 0
    assert dtypes == [("float32", "bound")]


def test_numbers_and_picture_belong_together(measured):
    folder = folders(measured)["bound"]
    stored = result(folder)
    total, rate, decoder = (
        stored[name]["mean"] for name in ("bits_per_dim", "rate", "decoder")
    )
    assert total == pytest.approx(rate + decoder)
    assert stored["num_steps"] == 20
    assert stored["dimensions"] == 64
    with np.load(folder / "terms.npz") as terms:
        assert terms["t"].tolist() == list(range(20))
        assert terms["terms"].sum() + stored["prior"]["mean"] == pytest.approx(total)
        assert terms["rate"][0] == pytest.approx(rate)
        assert terms["distortion"][0] == pytest.approx(stored["rmse"]["mean"])
        each = terms["image_rate"] + terms["image_decoder"]
        assert len(each) == 10
    error = each.std(ddof=1) / 10**0.5
    assert stored["bits_per_dim"]["standard_error"] == pytest.approx(error)
    assert np.asarray(Image.open(folder / "bound.png")).std() > 10
    assert not (folder / "parts").exists()
    with np.load(folders(measured)["ode"] / "images.npz") as ode:
        mean = result(folders(measured)["ode"])["bits_per_dim"]["mean"]
        assert ode["bits"].mean() == pytest.approx(mean)
        assert set(ode["num_calls"]) == {20}


def test_finished_is_said_and_not_done_again(measured, capsys):
    before = numbers(measured)
    assert main(arguments(measured, *QUICK)) == 0
    out = capsys.readouterr().out
    bits = result(folders(measured)["bound"])["bits_per_dim"]["mean"]
    assert f"bits/dim at most {bits:.4f} ±" in out
    assert "by the probability-flow ODE, 20 network calls" in out
    assert "images of digits" not in out  # what is printed before a measurement
    assert numbers(measured) == before


def test_an_image_does_not_depend_on_the_batch(measured, model):
    """Float32 sums of another batch size are rounded otherwise, and no more."""
    one = ("num_images=10", "batch_size=10", "method=bound")
    assert main(arguments(model, *one)) == 0
    with (
        np.load(folders(model)["bound"] / "terms.npz") as one,
        np.load(folders(measured)["bound"] / "terms.npz") as four,
    ):
        np.testing.assert_allclose(one["image_rate"], four["image_rate"], rtol=2e-4)
        assert len(set(one["image_rate"])) == 10


def test_a_signal_saves_and_the_same_command_goes_on(model, measured):
    process = start(*arguments(model, *QUICK))
    deadline = time.monotonic() + 200
    while not list(model.glob("likelihood/*/parts/*.npz")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    if process.returncode == 0:
        pytest.fail("it ended before the signal came; make it longer")
    assert process.returncode == 128 + signal.SIGTERM, err
    assert re.search(r"Interrupted after \d+ of 10 images; saved", out)
    assert "Traceback" not in err
    assert main(arguments(model, *QUICK)) == 0
    assert numbers(model) == numbers(measured)


def test_a_kill_at_any_batch_costs_that_batch(model, measured, monkeypatch, capsys):
    """The third write of parts dies, half done: what is whole is kept."""
    from ddpm_jax.runtime import files

    real, calls = files.os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 4:  # the request, two parts, and then
            raise SystemExit(137)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(SystemExit):
            main(arguments(model, *QUICK))
    assert len(list(model.glob("likelihood/*/parts/*.npz"))) == 2
    assert main(arguments(model, *QUICK)) == 0
    assert "going on after 8" in capsys.readouterr().out
    assert numbers(model) == numbers(measured)


def test_parts_behind_a_gap_are_measured_again(model, measured):
    parts = folders_of_parts(model)
    (parts / "00000004-00000008.npz").unlink()
    assert main(arguments(model, *QUICK)) == 0
    assert numbers(model) == numbers(measured)


def folders_of_parts(model):
    """Measure the bound all but to the end, and return where its parts are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ddpm_jax.commands.likelihood_files.finish", lambda *rest: exit(1)
        )
        with pytest.raises(SystemExit):
            main(arguments(model, *QUICK))
    (parts,) = model.glob("likelihood/*/parts")
    assert len(list(parts.iterdir())) == 3
    return parts


def test_parts_of_other_data_are_not_gone_on_with(model, measured):
    """Such as were begun before the data were changed: they have another request."""
    parts = folders_of_parts(model)
    path = parts.parent / "request.json"
    request = json.loads(path.read_text())
    path.write_text(json.dumps({**request, "fingerprint": "0" * 16}))
    assert main(arguments(model, *QUICK)) == 0
    assert len(list(parts.iterdir())) == 3
    shutil.rmtree(parts.parent)
    assert numbers(model) == numbers(measured)


def test_options_change_what_they_say(model):
    """Fewer steps are a looser bound; other parameters and seeds other numbers."""
    one = ("method=bound", "num_images=2", "batch_size=2")

    def bits(*options):
        before = set(model.glob("likelihood/*"))
        assert main([*arguments(model, *one), *options]) == 0
        (new,) = set(model.glob("likelihood/*")) - before
        return result(new)["bits_per_dim"]["mean"]

    whole = bits()
    assert bits("--num-steps=2") > whole
    others = [
        bits("--seed=1"),
        bits("--no-ema", "--split=train"),
        bits("--variance=small", "--no-clip"),
    ]
    assert len({whole, *others}) == 4


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("split=dev", "use train, test or all"),
        ("num_images=300", "split 'test' of digits has 299"),
        ("num_images=0", "too small; use 1"),
        ("batch_size=0", "too small; use 1"),
        ("method=exact", "use bound, ode, both"),
        ("variance=learned", "predicts none"),
        ("variance=medium", "use small, large, learned"),
        ("num_steps=21", "use 2 to 20"),
        ("num_steps=1", "use 2 to 20"),
        ("ode_steps=0", "too small; use 1"),
        ("num_probes=-1", "too small; use 0"),
        ("rtol=0.0", "out of reach"),
        ("seed=-1", "out of range"),
        ("--splits=test", "unknown flag --splits; did you mean --split?"),
    ],
)
def test_what_cannot_work_is_one_line(finished, capsys, monkeypatch, option, message):
    def no_compile(*rest):
        raise AssertionError("compiled before checking")

    monkeypatch.setattr("ddpm_jax.assembly.measure", no_compile)
    assert main(arguments(finished, option)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]


def test_images_kept_aside_in_a_folder(model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for digit in range(10):
        image = rng.integers(0, 256, (8, 8, 1), np.uint8)
        save_png(tmp_path / "aside" / str(digit) / "a.png", image)
    source = f"source=folder:{tmp_path}/aside"
    one = ("method=ode", "ode_steps=5", "batch_size=4", source)
    assert main(arguments(model, *one)) == 2
    assert "is one split" in capsys.readouterr().err
    assert main(arguments(model, *one, "split=all")) == 0
    assert "note:" not in capsys.readouterr().err
    stored = result(folders(model)["ode"])
    assert stored["num_images"] == 10
    # Noise in 64 dimensions has 8 bits each, and no digits model beats that.
    assert stored["bits_per_dim"]["mean"] > 8


def test_an_empty_workdir(tmp_path, capsys):
    assert main(arguments(tmp_path)) == 2
    assert "no checkpoint in" in capsys.readouterr().err


def test_the_picture_shows_terms_rate_and_distortion(tmp_path):
    """Other terms, another first panel; the dot of the decoder is drawn at the left."""
    times = np.arange(30)
    terms = 1.0 / (1 + times)
    rate = np.cumsum(terms[::-1])[::-1]
    path = tmp_path / "bound.png"
    plots.plot_bound(path, times, terms, rate, 5.0 + times, title="a")
    one = np.asarray(Image.open(path))
    terms[3] = 0.0  # has no logarithm, and is left out
    plots.plot_bound(path, times, terms, rate, 5.0 + times, title="a")
    other = np.asarray(Image.open(path))
    third = one.shape[1] // 3
    assert (one[:, :third] != other[:, :third]).any()
    np.testing.assert_array_equal(one[:, 2 * third :], other[:, 2 * third :])
