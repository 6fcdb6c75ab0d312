"""A trained model in a program of one's own: `ddpm_jax.load`, and what it gives."""

import dataclasses
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import changed
from untrained import with_noise, write_run

import ddpm_jax
from ddpm_jax import assembly
from ddpm_jax.assembly import autoencoder as autoencoder_folder
from ddpm_jax.assembly import auxiliary, features, retrieval
from ddpm_jax.cli import load_recipe, main
from ddpm_jax.conditioning import Words
from ddpm_jax.diffusion import generate, grids, samplers
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.errors import UserError
from ddpm_jax.networks.kl_autoencoder import KLAutoencoder
from ddpm_jax.recipe import (
    Classifier,
    ClassifierTask,
    ContrastiveTask,
    WordsText,
    recipe,
    to_json,
)
from ddpm_jax.runtime.images import to_float, to_uint8
from ddpm_jax.training import checkpoints as store

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "runs" / "tiny_unet.py"
SHAPE = (8, 8, 1)
SMALL = Classifier(channels=4, num_groups=4, num_features=6, channel_multipliers=(1,))
TEXTS = ("a red cat", "a blue dog", "a green bird")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a diffusion model of digits, trained for 12 steps."""
    folder = tmp_path_factory.mktemp("load") / "digits"
    assert main([f"--config={TINY}", f"--workdir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(run):
    return ddpm_jax.load(run)


def drawn(run, out, *flags):
    """What the command makes: uint8 [N, H, W, C]."""
    assert main(["sample", f"{run}", f"--out={out}", *flags]) == 0
    with np.load(out / "samples.npz") as stored:
        return stored["arr_0"]


def small_autoencoder():
    net = KLAutoencoder(
        image_channels=1, latent_channels=2, channels=4, channel_multipliers=(1, 1),
        num_res_blocks=1, num_groups=4,
    )  # fmt: skip
    params = with_noise(
        net.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"], 1
    )
    return autoencoder_folder.make("small", net, params, SHAPE, scale=2.0, shift=0.5)


class Compilations:
    """Counts the programs that are compiled while it is open."""

    def __enter__(self):
        self.count, self.is_open = 0, True
        jax.monitoring.register_event_duration_secs_listener(self._notice)
        return self

    def __exit__(self, *_):
        self.is_open = False

    def _notice(self, event, duration, **_):
        self.count += self.is_open and "backend_compile" in event


# --- The package ----------------------------------------------------------------------


def test_importing_it_is_immediate_and_loads_no_jax():
    code = "import ddpm_jax, sys; assert ddpm_jax.load and 'jax' not in sys.modules"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert time.perf_counter() - started < 2


# --- Sampling -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, ()),
        (
            {"label": 7, "num_steps": 5, "seed": 3},
            ("--label=7", "--num-steps=5", "--seed=3"),
        ),
        (
            {"label": [7, "3"], "sampler": "ddim", "eta": 0.5, "guidance_scale": 3},
            ("--label=7,3", "--sampler=ddim", "--eta=0.5", "--guidance-scale=3"),
        ),
    ],
)
def test_images_are_those_of_the_command_to_the_bit(
    run, model, tmp_path, options, flags
):
    images = model.sample(6, **options)
    assert images.dtype == np.float32 and np.abs(images).max() <= 1
    wanted = drawn(run, tmp_path / "out", "--num-images=6", *flags)
    np.testing.assert_array_equal(to_uint8(images), wanted)


def test_raw_parameters_of_a_step_are_those_of_the_command(run, tmp_path):
    model = ddpm_jax.load(run, step=6, ema=False)
    assert model.step == 6
    wanted = drawn(run, tmp_path / "out", "--step=6", "--no-ema", "--num-images=4")
    np.testing.assert_array_equal(to_uint8(model.sample(4)), wanted)


def test_a_second_call_compiles_nothing(model):
    first = model.sample(4, label=7, num_steps=5, seed=0)
    with Compilations() as counted:
        other = model.sample(4, label="3", num_steps=5, seed=1)
        again = model.sample(4, label=np.asarray([7]), num_steps=5, seed=0)
    assert counted.count == 0
    np.testing.assert_array_equal(again, first)
    assert np.abs(other - first).max() > 0.1
    with Compilations() as counted:  # it would be noticed
        model.sample(4, label=7, num_steps=6, seed=0)
    assert counted.count > 0


def test_labels_are_indices_names_and_none(model):
    by_index = model.sample(3, label=[1, 2, 1])
    np.testing.assert_array_equal(by_index, model.sample(3, label=("1", "2")))
    nothing = model.sample(3, label="none")
    unguided = model.sample(3, label=5, guidance_scale=0.0)  # as two evaluations
    np.testing.assert_allclose(nothing, unguided, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_step": 5}, r"sample has no option 'num_step'; did you mean num_steps\?"),
        (
            {"colour": 5},
            r"'colour'; the options are .*sampler, num_steps.*seed",
        ),
        ({"num_steps": 21}, r"^num_steps=21 is not in 1..T; use 1 to 20"),
        ({"num_steps": 2.5}, r"^num_steps=2.5 is not a whole number"),
        ({"eta": "much"}, r"^eta='much' is not a number"),
        ({"clip": 1}, r"^clip=1 is not True or False"),
        ({"sampler": "magic"}, r"^sampler='magic' is not known; use ancestral"),
        ({"eta": 0.5}, r"^eta=0.5 does nothing but with sampler ddim"),
        ({"label": 10}, r"label '10' in label is not a class; use 0 to 9"),
        ({"label": [1.5]}, r"label=\[1.5\] is not a class"),
        ({"label": []}, r"label is an empty sequence"),
        (
            {"prompt": "a cat"},
            r"^prompt='a cat', but this model .* without text",
        ),
        ({"num_images": 0}, r"^num_images=0 is too small"),
        ({"step": 3}, r"^step chooses the parameters; give it to ddpm_jax.load"),
        ({"num_images": -2}, r"^num_images=-2 is too small; use 1 or more"),
        ({"num_images": jax.random.key(0)}, r"^num_images=.* is not a whole number"),
        ({"num_images": 10**30}, r"^num_images=1000.* is out of range; use 2,147"),
        ({"batch_size": 0}, r"^batch_size=0 is too small; use 1 or more"),
        ({"seed": -1}, r"^seed=-1 is out of range; use 0 to 2\^63-1"),
        ({"eta": 10**400}, r"^eta=1000.* is not a number"),
        ({"eta": 10**5000}, r"^eta=a number of thousands of digits is not a number"),
        ({"eta": float("nan")}, r"^eta=nan is not finite"),
        ({"sampler": None}, r"^sampler=None is not text"),
        ({"prompt": 3}, r"^prompt=3 is not text, or several texts"),
        ({"label": object()}, r"^label=<object .*> is not a class"),
        ({"label": np.zeros((2, 2), int)}, r"^label=array.*is not a class"),
        ({"label": {1, 2}}, r"^label=\{1, 2\} is not a class"),
        ({"cond": "size=3"}, r"^cond has 'size=3'; write NAME=VALUE, .* on label"),
        ({"cond": {"size": 3}}, r"^cond=\{'size': 3\} is not text"),
    ],
)
def test_wrong_options_are_one_line_in_keywords(model, options, said):
    with pytest.raises(UserError, match=said) as raised:
        model.sample(**{"num_images": 2, **options})
    text = str(raised.value)
    assert "\n" not in text and "--" not in text and "config." not in text


# --- The denoiser ---------------------------------------------------------------------


def test_the_denoiser_in_a_jit_of_ones_own_samples_the_same(model):
    denoise = model.denoiser(label=[7, 3], guidance_scale=2)

    @jax.jit
    def sample(key):
        keys = generate.image_keys(key, jnp.arange(4))
        x_t = generate.initial_noise(keys, SHAPE)
        levels = grids.grid(model.schedule, 5)
        return generate.generate(keys, samplers.ddim(0.0), denoise, x_t, levels)[0]

    asked = {"label": [7, 3], "guidance_scale": 2, "sampler": "ddim", "num_steps": 5}
    np.testing.assert_allclose(
        sample(assembly.sample_key(2)), model.sample(4, seed=2, **asked), atol=1e-5
    )


def test_a_denoiser_takes_parameters_and_conditions_of_the_call(model):
    x_t = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    level = model.schedule.at(jnp.asarray(9))
    wanted = model.denoiser(label=4)(x_t, level)
    assert isinstance(wanted, Prediction)

    @jax.jit
    def predict(params):
        return model.denoiser(label=4, params=params)(x_t, level)

    np.testing.assert_allclose(predict(model.params).eps, wanted.eps, atol=1e-5)
    other = jax.tree.map(jnp.zeros_like, model.params)
    assert not np.allclose(predict(other).eps, wanted.eps, atol=1e-2)
    given = model.denoiser(label=5)(x_t, level, {"label": jnp.full(3, 4)})
    np.testing.assert_array_equal(given.eps, wanted.eps)
    with pytest.raises(UserError, match="denoiser has no option 'num_steps'"):
        model.denoiser(num_steps=5)
    with pytest.raises(UserError, match="label 'x' in label is not a class"):
        model.denoiser(label="x")


def test_what_a_denoiser_cannot_be_given_is_one_line(model):
    denoise = model.denoiser(label=4)
    x_t, level = jnp.zeros((3, *SHAPE)), model.schedule.at(jnp.asarray(9))
    threes = model.schedule.at(jnp.arange(3))
    assert denoise(x_t, threes).eps.shape == x_t.shape
    two = {"label": jnp.zeros(2, jnp.int32)}
    for given, said in (
        ((None, level), "x_t is None, of which no array"),
        ((x_t[0], level), r"x_t is of shape \[8, 8, 1\]; want \[B, 8, 8, 1\]"),
        ((jnp.zeros((3, 8, 8, 3)), level), r"x_t is of shape \[3, 8, 8, 3\]"),
        ((x_t.astype(jnp.int32), level), "x_t is of type int32; want floating"),
        ((x_t, 9), r"level=9 is no Level; take one of the model's schedule"),
        ((x_t[:2], threes), "beside 2 rows of x_t; want one level, or one of each"),
        ((x_t, level, 4), "cond=4 is no condition"),
        ((x_t, level, {"size": jnp.zeros(3)}), "condition 'size', and this network"),
        ((x_t, level, two), r"condition 'label' is of shape \[2\] beside 3 rows"),
        ((x_t, level, {"negative": two}), r"'label' is of shape \[2\] beside 3"),
        ((x_t, level, {"label": 4}), r"condition 'label' is of shape \[\] beside 3"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            denoise(*given)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"params\[.* is absent, and the model's is of"):
        model.denoiser(params={})
    with pytest.raises(
        UserError, match=r"params\[.* is of shape \[\], and the model's"
    ):
        model.denoiser(params=jax.tree.map(lambda leaf: leaf.sum(), model.params))


# --- Items ----------------------------------------------------------------------------


def test_items_that_cannot_be_are_one_line(model):
    for call, said in (
        (lambda: model.encode(None), "items is None, of which no array"),
        (lambda: model.encode([[1], [2, 3]]), "items is a list, of which no array"),
        (lambda: model.decode(None), "z is None, of which no array"),
        (lambda: model.decode(np.zeros(SHAPE)), r"z is of .* want \[N, ..., ..., 1\]"),
        (lambda: model.decode(np.zeros((2, 8, 8, 3))), r"z is of shape \[2, 8, 8, 3\]"),
        (lambda: model.show(None), "items is None, of which no array"),
        (lambda: model.show(np.zeros((0, *SHAPE))), r"items of shape \[0, 8, 8, 1\]"),
        (lambda: model.show(np.zeros(8)), r"want \[N, 8, 8, 1\], or one of them"),
        (lambda: model.show(np.zeros(SHAPE), 0), "columns=0 is too small"),
        (lambda: model.show(np.full(SHAPE, np.nan)), "items: "),
        (lambda: model.show(np.zeros(SHAPE, np.int32)), "items: .* int32"),
        (lambda: model.interpolate(None, None, 3), "items is None"),
        (
            lambda: model.interpolate(*[np.zeros((0, *SHAPE))] * 2, 3),
            "as many of .* of each, one or more",
        ),
    ):
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_pixels_are_encoded_and_decoded_exactly(model):
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    z = model.encode(images)
    np.testing.assert_allclose(z, to_float(images), atol=1e-7)
    np.testing.assert_array_equal(to_uint8(model.decode(z)), images)
    with pytest.raises(UserError, match=r"want 4 axes"):
        model.encode(images[0])
    with pytest.raises(UserError, match=r"int32; want uint8"):
        model.encode(images.astype(np.int32))
    with pytest.raises(UserError, match=r"this model is of \[8, 8, 1\]"):
        model.encode(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"strength": 1, "num_steps": 4}, ("--strength=1", "--num-steps=4")),
        ({"label": 3, "method": "noise"}, ("--label=3", "--method=noise")),
    ],
)
def test_walks_are_those_of_the_command_to_the_bit(
    run, model, tmp_path, options, flags
):
    source = model.spec.data.open()
    items = np.stack([source.source[i]["image"] for i in (7, 8, 9)])
    walks = model.interpolate(items[:2], items[1:], 3, **options)
    assert walks.shape == (2, 3, *SHAPE) and walks.dtype == np.float32
    line = [f"--image={','.join(f'data:{i}' for i in (7, 8, 9))}", "--num-points=3"]
    out = tmp_path / "out"
    assert main(["edit", "interpolate", f"{run}", f"--out={out}", *line, *flags]) == 0
    with np.load(out / "images.npz") as stored:
        wanted = stored["arr_0"]
    np.testing.assert_array_equal(to_uint8(walks).reshape(wanted.shape), wanted)
    as_floats = model.interpolate(
        to_float(items[:2]), to_float(items[1:]), 3, **options
    )
    np.testing.assert_allclose(as_floats, walks, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_points": 1}, "num_points=1 is too small"),
        ({"strength": 2}, "strength=2.0 is not in"),
        ({"method": "straight"}, "method='straight' is not known; use encode, noise"),
        ({"sampler": "heun"}, "^sampler='heun' does nothing in mode interpolate by me"),
        ({"num_images": 4}, "interpolate has no option 'num_images'"),
    ],
)
def test_walks_that_cannot_be_are_one_line(model, given, said):
    items = np.zeros((2, *SHAPE), np.uint8)
    with pytest.raises(UserError, match=said) as caught:
        model.interpolate(items, items, **{"num_points": 3, **given})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="want as many of"):
        model.interpolate(items, items[:1], 3)


def test_images_are_shown_as_the_codec_shows_them(model):
    images = np.full((3, *SHAPE), -1, np.float32)
    images[1] = 1
    sheet = np.asarray(model.show(images, columns=3))
    # Enlarged to 64 pixels, with 2 around each.
    assert sheet.shape == (68, 3 * 66 + 2)
    assert [sheet[30, 30], sheet[30, 96], sheet[30, 162], sheet[0, 0]] == [
        0,
        255,
        0,
        255,
    ]
    np.testing.assert_array_equal(model.show(to_uint8(images), columns=3), sheet)
    assert model.show(images[0]).size == (68, 68)


def test_what_it_says_of_itself(run, model):
    assert model.step == 12
    assert model.spec.network.channels == 8 and model.spec is model.recipe.task
    assert model.info.label_names == tuple("0123456789")
    assert "DiffusionModel of" in repr(model) and "step 12" in repr(model)
    stored = store.restore_params(run, ema=True, step=12)
    jax.tree.map(np.testing.assert_array_equal, model.params, stored)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.spec.seed = 2


# --- Other layouts and kinds ----------------------------------------------------------


def test_a_folder_of_diffusers_is_read_and_nothing_is_written(run, model, tmp_path):
    folder = tmp_path / "pipeline"
    assert main(["export", f"{run}", f"{folder}"]) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    exported = ddpm_jax.load(folder)
    asked = {"label": 7, "num_steps": 5, "seed": 3}
    np.testing.assert_array_equal(exported.sample(4, **asked), model.sample(4, **asked))
    (folder / "ddpm_jax.json").unlink()  # as another program would write it
    foreign = ddpm_jax.load(folder)
    np.testing.assert_array_equal(foreign.sample(4, **asked), model.sample(4, **asked))
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {path for path in before if after.get(path) != before[path]} == {
        folder / "ddpm_jax.json"
    }
    assert set(after) < set(before)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """A text-to-image model with random parameters."""
    folder = tmp_path_factory.mktemp("load") / "text"
    cfg, _ = load_recipe(f"{TINY}")
    text = {"kind": "words", "width": 8, "depth": 1, "num_heads": 1}
    cfg = changed(
        cfg,
        *("conditioners.label=None", "network.attention_resolutions=8"),
        *(f"conditioners.text.{name}={value}" for name, value in text.items()),
    )
    tokenizer = Words.learn(TEXTS, None).to_json()
    info = assembly.DataInfo("texts", SHAPE, None, "0" * 16, tokenizer, TEXTS)
    write_run(folder, cfg, info)
    return folder


def test_a_latent_model_encodes_decodes_and_samples_images(tmp_path):
    folder = tmp_path / "latent"
    first_stage = small_autoencoder()
    assembly.keep_copies({assembly.AUTOENCODER: first_stage}, folder)
    cfg, _ = load_recipe(f"{TINY}")
    latents = ("codec.kind=latents", "codec.run=elsewhere")
    cfg = changed(cfg, "conditioners.label=None", *latents)
    known = assembly.LatentInfo("small", first_stage.fingerprint, (4, 4, 2))
    write_run(
        folder, cfg, assembly.DataInfo("digits", SHAPE, None, "0" * 16, latents=known)
    )
    model = ddpm_jax.load(folder)
    images = model.sample(3, num_steps=4)
    assert images.shape == (3, *SHAPE) and np.abs(images).max() <= 1
    wanted = drawn(folder, tmp_path / "out", "--num-images=3", "--num-steps=4")
    np.testing.assert_array_equal(to_uint8(images), wanted)
    z = model.encode(images)
    mean, _ = first_stage.posterior(first_stage.params, jnp.asarray(images))
    np.testing.assert_allclose(z, mean, atol=1e-5)
    back = first_stage.decode(first_stage.params, z)
    np.testing.assert_allclose(model.decode(z), np.clip(back, -1, 1), atol=1e-5)


def test_prompts_are_texts_or_sequences(text_run):
    model = ddpm_jax.load(text_run)
    red, blue = (model.sample(4, prompt=text, num_steps=4) for text in TEXTS[:2])
    both = model.sample(4, prompt=TEXTS[:2], num_steps=4)
    np.testing.assert_array_equal(both[::2], red[::2])
    np.testing.assert_array_equal(both[1::2], blue[1::2])
    assert np.abs(red - blue).max() > 0.1
    x_t = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    level = model.schedule.at(jnp.asarray(9))
    wanted = [model.denoiser(prompt=text)(x_t, level).eps for text in TEXTS[:2]]
    found = jax.jit(model.denoiser(prompt=TEXTS[:2]))(x_t, level).eps
    np.testing.assert_allclose(found[0], wanted[0][0], atol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1][1], atol=1e-5)
    for prompt, said in (
        ("a red fish", "fish"),
        (["a red cat", "a red fish"], "fish"),
        (["a red cat", " "], "a prompt is blank"),
        ([7], "is not text"),
        (["file:prompts.txt"], "give it alone"),
    ):
        with pytest.raises(UserError, match=said):
            model.sample(2, prompt=prompt)


def auxiliary_folder(folder, kind, net, inputs, facts):
    """Write a small network with random parameters as a finished run."""
    params = with_noise(net.init(jax.random.key(0), *inputs)["params"], 1)
    fingerprint = auxiliary.fingerprint(auxiliary.flat_params(params))
    result = {"name": "small", "fingerprint": fingerprint, **facts}
    auxiliary.write(folder, kind, params, {}, result)
    return params


def test_a_classifier_gives_features_and_logits(tmp_path):
    spec = ClassifierTask(network=SMALL)
    info = assembly.DataInfo("two", SHAPE, ("a", "b"), "0" * 16)
    net = features.classifier(spec, info)
    images = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    facts = {
        **{"data_fingerprint": "", "image_shape": SHAPE, "label_names": ["a", "b"]},
        **{"accuracy": {}, "num_images": {}, "config": to_json(recipe(spec))},
    }
    params = auxiliary_folder(tmp_path, features.KIND, net, (to_float(images),), facts)
    model = ddpm_jax.load(tmp_path)
    logits = net.apply({"params": params}, to_float(images))[1]
    np.testing.assert_allclose(model.logits(images), logits, atol=1e-5)
    seen = model.features(images)
    assert model.label_names == ("a", "b")
    np.testing.assert_array_equal(model.features(to_float(images)), seen)
    with pytest.raises(UserError, match="images are 4x4x1, and small takes 8x8x1"):
        model.features(images[:, :4, :4])
    for given, said in (
        (None, "images is None, of which no array"),
        ([[1], [2, 3]], "images is a list, of which no array"),
        (images[:0], "there are no images"),
        (images.astype(np.int32), "images are int32"),
        (np.full((1, *SHAPE), np.nan), "images: "),
    ):
        for method in (model.features, model.logits):
            with pytest.raises(UserError, match=said):
                method(given)
    with pytest.raises(UserError, match="step, ema and ema_std choose among"):
        ddpm_jax.load(tmp_path, ema=False)


def test_an_autoencoder_encodes_and_decodes(tmp_path):
    made = small_autoencoder()
    net, params = made.net, made.params
    autoencoder_folder.write(tmp_path, made, {})
    model = ddpm_jax.load(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    mean, _ = net.apply({"params": params}, to_float(images), method="encode")
    z = model.encode(images)
    np.testing.assert_allclose(z, (mean - 0.5) * 2.0, atol=1e-5)
    back = net.apply({"params": params}, mean, method="decode")
    np.testing.assert_allclose(model.decode(z), np.clip(back, -1, 1), atol=1e-4)
    with pytest.raises(UserError, match="sides that 2 divides"):
        model.encode(images[:, :7])
    with pytest.raises(UserError, match="items is None, of which no array"):
        model.encode(None)
    with pytest.raises(UserError, match=r"z is of shape .*; want \[N, ..., ..., 2\]"):
        model.decode(z[..., :1])


def test_a_dual_encoder_encodes_images_and_texts(tmp_path):
    spec = ContrastiveTask(network=SMALL, text=WordsText(width=8, depth=1, num_heads=1))
    words = Words.learn(TEXTS, None)
    info = assembly.DataInfo("texts", SHAPE, None, "0" * 16, words.to_json(), TEXTS)
    net = retrieval.match_network(spec, info)
    images = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    inputs = (to_float(images), words.read(TEXTS))
    facts = {
        **{"data_fingerprint": "", "image_shape": SHAPE, "tokenizer": words.to_json()},
        **{"captions": TEXTS[:1], "found": {}, "num_images": {}},
    }
    params = auxiliary_folder(
        tmp_path,
        retrieval.KIND,
        net,
        inputs,
        {**facts, "config": to_json(recipe(spec))},
    )
    model = ddpm_jax.load(tmp_path)
    for found, given, method in (
        (model.encode_images(images), inputs[0], "encode_images"),
        (model.encode_texts(TEXTS), inputs[1], "encode_texts"),
    ):
        wanted = net.apply({"params": params}, given, method=method)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for texts in (None, 3, [], [3]):
        with pytest.raises(UserError, match="is not text, or several texts"):
            model.encode_texts(texts)
    with pytest.raises(UserError, match="images is None, of which no array"):
        model.encode_images(None)
    one = model.encode_texts(TEXTS[1])
    np.testing.assert_allclose(one, model.encode_texts(TEXTS)[1:2], atol=1e-6)


# --- Folders that hold no model -------------------------------------------------------


def refusal(folder, **options):
    with pytest.raises(UserError) as raised:
        ddpm_jax.load(folder, **options)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_a_folder_without_a_model_is_one_line(run, tmp_path):
    assert "is not a folder" in refusal(tmp_path / "missing")
    assert "is not a folder" in refusal("x" * 5000)
    assert "is not a folder" in refusal("~nobody-of-this-name/run")
    for run_name in (None, 3, b"runs", "", " "):
        assert "names no folder; give that of a run" in refusal(run_name)
    assert "holds no model" in refusal(tmp_path)
    (tmp_path / "weights.npz").touch()
    assert "ddpm_jax 0.1" in refusal(tmp_path)
    assert "999" in refusal(run, step=999)
    assert refusal(run, step="last") == "step='last' is not a whole number."
    assert refusal(run, ema_std=0.1).startswith("ema_std=0.1 is built from")
    assert "does nothing beside ema=False" in refusal(run, ema_std=0.1, ema=False)


def test_a_damaged_model_is_one_line(run, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    for path in folder.rglob("d/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is damaged" in refusal(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert "damaged" in refusal(folder)


def test_a_model_of_a_kind_to_come_is_refused(run, tmp_path):
    params = store.restore_params(run, ema=True, step=12)
    kind = auxiliary.Kind("wizard", "", "a wizard", "", set())
    auxiliary.write(tmp_path, kind, params, {}, {})
    assert "of kind 'wizard', which this version" in refusal(tmp_path)
