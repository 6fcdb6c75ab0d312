"""Diffusion in latents as a user meets it, trained for a moment on the digits."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import ROOT, TINY, TINY_UNET

from ddpm_jax import data
from ddpm_jax.assembly import autoencoder
from ddpm_jax.cli import main
from ddpm_jax.commands import encoding, image_sets
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.runtime import files
from ddpm_jax.runtime.images import save_png, to_float, to_uint8

OF_ENCODER = {
    "data.source": "digits",
    "data.pad_to": "None",
    "network.channels": "4",
    "network.channel_multipliers": "(1,1)",
    "network.num_res_blocks": "1",
    "network.num_groups": "4",
    "training.num_steps": "20",
    "training.batch_size": "32",
    "training.warmup_steps": "1",
    "training.learning_rate": "0.01",
    "discriminator_weight": "0.0",
}
OF_RUN = {
    "schedule.num_levels": "5",
    "training.num_steps": "4",
    "training.checkpoint_every": "2",
    "training.preview_every": "0",
    "preview_steps": "2",
    "sample.film_frames": "2",
    "sample.num_images": "4",
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(files.CACHE_VARIABLE, str(folder))
        yield folder / "latents"


def flags(options):
    return [f"--config.{name}={value}" for name, value in options.items()]


def of_latents(folder):
    """The codec of a model that works in the latents of the autoencoder there."""
    return {"codec.kind": "latents", "codec.run": str(folder)}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of an autoencoder: 8x8 pixels to latents of 4x4x4."""
    folder = tmp_path_factory.mktemp("latents") / "encoder"
    recipe = f"--config={ROOT / 'configs' / 'mnist_autoencoder.py'}"
    assert main([recipe, f"--workdir={folder}", *flags(OF_ENCODER)]) == 0
    return folder


def train(workdir, encoder, **options):
    known = OF_RUN | {name.replace("__", "."): v for name, v in options.items()}
    known |= of_latents(encoder) if encoder else {}
    return main([f"--config={TINY_UNET}", f"--workdir={workdir}", *flags(known)])


@pytest.fixture(scope="module")
def trained(encoder):
    workdir = encoder.parent / "run"
    assert train(workdir, encoder) == 0
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def sums(workdir, step=4):
    path = workdir / f"checkpoints/{step}/metadata/metadata.json"
    return json.loads(path.read_text())["checksums"]


def drawn(workdir):
    (found,) = (workdir / "samples").glob("*/samples.npz")
    return np.load(found)["arr_0"]


def test_the_moments_are_what_the_encoder_says_of_each_image_and_its_mirror(
    trained, encoder, cache
):
    (folder,) = cache.iterdir()
    found = np.load(folder / "moments.npy")
    images, labels = data.in_memory(data.load("digits"))
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), labels)
    ours = autoencoder.load(encoder)
    x = to_float(images)
    for view, start in ((x, 0), (x[:, :, ::-1], 8)):
        mean, log_variance = jax.jit(ours.posterior)(ours.params, view)
        std = np.exp(np.asarray(log_variance) / 2)
        kept = found[..., start : start + 4], found[..., start + 4 : start + 8]
        np.testing.assert_allclose(kept[0], mean, atol=2e-5)
        np.testing.assert_allclose(kept[1], std, rtol=2e-5)
    # Scaled by what the autoencoder measured: of all latents the deviation is 1.
    mean, std = np.float64(found[..., :4]), np.float64(found[..., 4:8])
    spread = np.sqrt(mean.var() + np.square(std).mean())
    assert spread == pytest.approx(1, abs=1e-4)


def test_a_run_that_stops_goes_on_bit_for_bit_and_encodes_no_more(
    trained, encoder, tmp_path, monkeypatch
):
    """Its first half is streamed from the host, the rest lies on the device."""
    run = tmp_path / "run"
    half = {"training__num_steps": "2", "data__on_device_mb": "0"}
    assert train(run, encoder, **half) == 0
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "map_images", None)  # would fail
        assert train(run, encoder) == 0
    assert sums(run) == sums(trained)


def test_a_workdir_is_enough_to_draw_from_and_to_go_on_wherever_it_lies(
    copy, trained, tmp_path, monkeypatch, capsys
):
    """Its autoencoder was named by a path that is no more."""
    for name in ("samples", "progress"):
        shutil.rmtree(copy / name, ignore_errors=True)
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "copy"]) == 0
    np.testing.assert_array_equal(drawn(copy), drawn(trained))
    assert drawn(copy).shape == (4, 8, 8, 1)
    options = flags(OF_RUN | of_latents("nowhere"))
    assert main([f"--config={TINY_UNET}", "--workdir=copy", *options]) == 0
    assert "is finished" in capsys.readouterr().out


def test_the_network_works_at_the_size_of_the_latents(trained):
    record = json.loads((trained / "checkpoints/4/metadata/metadata.json").read_text())
    leaves = record["leaves"]["params"]
    assert leaves["conv_in/kernel"][1] == [3, 3, 4, 8]
    assert leaves["conv_out/kernel"][1] == [3, 3, 8, 4]
    known = record["metadata"]["data"]["latents"]
    assert known["shape"] == [4, 4, 4]
    about = json.loads((trained / "autoencoder" / "result.json").read_text())
    assert known["fingerprint"] == about["fingerprint"]


def test_reconstructions_are_a_set_of_images_as_others_are(copy, tmp_path):
    spec = trained_recipe(copy).task
    known = image_sets.reconstructed_set(spec, copy, "test", 50)
    assert (known.num_images, known.image_shape) == (50, (8, 8, 1))
    assert known.described == "reconstructions of digits (test)"
    found = data.in_memory(known.load(tmp_path))
    images, labels = data.in_memory(data.load("digits", split="test"))
    ours = autoencoder.load(copy / "autoencoder")
    x = to_float(images)
    again = to_uint8(jnp.asarray(ours.decode(ours.params, ours.encode(ours.params, x))))
    places = [
        int(np.flatnonzero(np.abs(np.int32(again) - one).max((1, 2, 3)) <= 1)[0])
        for one in np.int32(found[0])
    ]
    assert len(set(places)) == 50, "each is of another image"
    np.testing.assert_array_equal(labels[places], found[1])
    with contextlib.closing(np.load(tmp_path / "samples.npz")) as kept:
        np.testing.assert_array_equal(kept["arr_0"], found[0])


@contextlib.contextmanager
def no_compile():
    def fails(*args, **kwargs):
        raise AssertionError("compiled before checking")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddpm_jax.assembly.parts.init_params", fails)
        patch.setattr("ddpm_jax.training.fit.compile_step", fails)
        patch.setattr("ddpm_jax.sampling.plan.run_stage", fails)
        patch.setattr("ddpm_jax.commands.encoding.map_images", fails)
        yield


def refusal(capsys, arguments):
    """Run, and return the one line of the refusal."""
    capsys.readouterr()
    with no_compile():
        assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def retold(folder, **changes):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_autoencoder_is_refused(copy, encoder, tmp_path, capsys):
    mine = copy / "autoencoder"
    other = shutil.copytree(encoder, tmp_path / "other")
    retold(other, fingerprint="0" * 16)
    line = [f"--config={TINY_UNET}", f"--workdir={copy}"]
    said = refusal(capsys, [*line, *flags(OF_RUN | of_latents(other))])
    assert "holds another autoencoder, weights 0000000000000000, than the run" in said
    retold(mine, fingerprint="1" * 16)
    said = refusal(capsys, ["sample", f"{copy}"])
    assert "holds another, 1111111111111111; copy the folder" in said
    shutil.rmtree(mine)
    for mode in ("sample", "edit image-to-image"):
        said = refusal(capsys, [*mode.split(), f"{copy}"])
        assert "copy/autoencoder holds none; copy the folder" in said
    said = refusal(capsys, [*line, *flags(OF_RUN | of_latents(encoder))])
    assert "holds none" in said


def test_an_autoencoder_that_is_not_there_or_takes_other_images_is_refused(
    encoder, tmp_path, capsys
):
    line = [f"--config={TINY_UNET}", f"--workdir={tmp_path / 'run'}"]
    said = refusal(capsys, [*line, *flags(of_latents("nowhere"))])
    assert "nowhere holds no autoencoder; train one with python main.py" in said
    said = refusal(capsys, [*line, "--config.codec.kind=latents"])
    assert "config.codec.run='' names no autoencoder; give the folder of one" in said
    latents = flags(of_latents(encoder))
    said = refusal(capsys, [*line, *latents, "--config.data.channels=3"])
    assert "8x8x3, and autoencoder of digits takes 1 channel(s)" in said
    assert not (tmp_path / "run").exists()
    said = refusal(
        capsys, [*line, *latents, "--config.network.channel_multipliers=(1,1,1,1)"]
    )
    assert "4x4 do not halve 3 times" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["sample", "RUN", "--config.codec.kind=as_stored"],
            "config.codec.kind='as_stored', but this model works in the latents of",
        ),
        (["sample", "RUN", "--dynamic-percentile=0.9"], "does nothing in latents"),
        (["likelihood", "RUN"], "bits per dimension is of pixels"),
        (["edit", "upscale", "RUN", "--image=data:0"], "edit upscale is of pixels"),
        (["edit", "colorize", "RUN", "--image=data:0"], "edit colorize is of pixels"),
        (["export", "RUN", "nowhere"], "a DDPMPipeline is of pixels"),
        (
            ["evaluate", "RUN", "--scores=frechet,bits_per_dim"],
            "--scores=bits_per_dim is of pixels",
        ),
    ],
)
def test_what_is_of_pixels_is_refused(trained, capsys, arguments, said):
    words = [str(trained) if word == "RUN" else word for word in arguments]
    assert said in refusal(capsys, words)


def test_a_model_of_pixels_does_not_become_one_of_latents(
    finished, encoder, tmp_path, capsys
):
    latents = flags(of_latents(encoder))
    for line in ([f"--config={TINY}", f"--workdir={finished}"], ["sample", finished]):
        said = refusal(capsys, [*map(str, line), *latents])
        assert "this model works in pixels; leave it out" in said
    line = ["evaluate", f"{finished}"]
    asked = "--images=reconstructions:test"
    said = refusal(capsys, [*line, asked])
    assert "name its folder: config.codec.kind=latents and config.codec.run=" in said


def test_the_plan_of_a_run_is_of_latents(encoder, capsys):
    line = ["plan", f"--config={TINY_UNET}", *flags(of_latents(encoder))]
    assert main(line) == 0
    assert "images of 8x8x1, in latents of 4x4x4" in capsys.readouterr().out


def test_pictures_are_edited_in_latents(copy, tmp_path):
    mask = np.zeros((8, 8, 1), np.uint8)
    mask[4:] = 255
    save_png(tmp_path / "mask.png", mask)
    line = ["edit", "inpaint", f"{copy}", "--image=data:3"]
    assert main([*line, f"--mask={tmp_path / 'mask.png'}"]) == 0
    (folder,) = (copy / "edits").iterdir()
    made = np.load(folder / "images.npz")["arr_0"]
    image = data.load("digits").source[3]["image"]
    np.testing.assert_array_equal(made[:, :4], image[None, :4].repeat(4, 0))
