"""Diffusion in latents of an exact autoencoder: what is known of images holds there."""

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import patchwork
import pytest
from settings import changed, default

from ddpm_jax import assembly
from ddpm_jax.assembly import plans
from ddpm_jax.assembly.editing import method_of
from ddpm_jax.assembly.source import LatentInfo
from ddpm_jax.codecs import Params, latents, pixels
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.diffusion import karras
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.schedules import cosine_logsnr
from ddpm_jax.errors import UserError
from ddpm_jax.requests import (
    COMMANDS,
    Colorize,
    Evaluate,
    Inpaint,
    Likelihood,
    Sample,
    Upscale,
)
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.sampling.plan import Model, Record, compile_plan, run_plan, sample_plan

SHAPE = (4, 4, 1)
SIZE = 16
TURNED = patchwork.autoencoder(SHAPE, matrix=patchwork.orthogonal(4))
SAMPLER, LEVELS = karras.heun(), grid(cosine_logsnr(1000), 40)
IN_LATENTS = ("codec.kind=latents", "codec.run=somewhere")
IN_PIXELS = ("codec.kind=as_stored",)
INFO = assembly.DataInfo(
    "d", SHAPE, None, "", latents=LatentInfo("squares", "squares", (2, 2, 4))
)


def gaussian_images():
    """Mean and covariance of images [4, 4, 1], flat, far from black and white."""
    rng = np.random.default_rng(1)
    root = 0.1 * rng.standard_normal((SIZE, SIZE)) / 2
    return 0.2 * rng.standard_normal(SIZE), root @ root.T


def of_latents(mean, covariance):
    """The law of the latents: those of the unit images are the columns of a matrix."""
    unit = jnp.eye(SIZE).reshape(SIZE, *SHAPE)
    turn = np.asarray(TURNED.encode(TURNED.params, unit), np.float64)
    turn = turn.reshape(SIZE, SIZE).T
    return turn @ mean, turn @ covariance @ turn.T


def draw_from(denoise, codec, count):
    model = Model(
        codec,
        LEVELS,
        sampler=lambda: SAMPLER,
        denoiser=lambda params: denoise,
        condition=lambda params, given: None,
    )
    program = compile_plan(sample_plan(model), data_mesh(), Record(3, 2))
    rows = np.arange(count, dtype=np.int32), {}
    return program.run(Params((), codec.params), jax.random.key(0), rows)


def test_samples_of_latents_decode_to_the_law_of_the_images():
    mean, covariance = gaussian_images()
    denoise = oracles.gaussian(*of_latents(mean, covariance))
    (made,), finite = draw_from(denoise, latents(TURNED, SHAPE), 8192)
    images = made.items
    assert finite["a row"].all()
    x = (np.asarray(images, np.float64) - 127.5).reshape(-1, SIZE) / 127.5
    # Standard errors of mean and covariance of 8192 draws.
    variances = np.diag(covariance)
    error = np.sqrt(variances / len(x))
    assert np.all(np.abs(x.mean(0) - mean) < 4.5 * error)
    spread = np.sqrt((np.outer(variances, variances) + covariance**2) / len(x))
    assert np.all(
        np.abs(np.cov(x.T) - covariance) < 5 * spread + 1e-4 * variances.max()
    )
    # And it is no law of uncorrelated pixels that would pass as well.
    assert np.abs(covariance - np.diag(variances)).max() > 20 * spread.max()


def test_the_program_decodes_as_one_does_outside_of_it():
    mean, covariance = gaussian_images()
    denoise = oracles.gaussian(*of_latents(mean, covariance))
    codec, key, indices = latents(TURNED, SHAPE), jax.random.key(0), jnp.arange(5)
    (made,), _ = draw_from(denoise, codec, 5)
    images, trajectory = made.items, made.trajectory  # rows first

    @jax.jit
    def chain():
        keys = image_keys(key, indices)
        noise = initial_noise(keys, codec.shape)
        return noise, generate(keys, SAMPLER, denoise, noise, LEVELS)[0]

    noise, z = (to_uint8(codec.decode(codec.params, part)) for part in chain())
    same_but_for_rounding(z, images)
    same_but_for_rounding(trajectory.x_t[:, 0], noise[:2])
    same_but_for_rounding(trajectory.x_t[:, -1], images[:2])
    same_but_for_rounding(trajectory.x0[:, -1], images[:2])


def same_but_for_rounding(one, other):
    """Hold bytes that two programs decoded: few are at the edge between two levels."""
    off = np.abs(np.asarray(one, int) - np.asarray(other, int))
    assert off.max() <= 1 and off.mean() < 0.05


def test_latents_that_are_the_images_are_drawn_alike():
    same = patchwork.autoencoder(SHAPE, factor=1)
    denoise = oracles.gaussian(*gaussian_images())
    found = draw_from(denoise, latents(same, SHAPE), 4)
    plain = draw_from(denoise, pixels(SHAPE), 4)
    jax.tree.map(same_but_for_rounding, found, plain)


def test_latents_that_are_the_images_are_trained_on_alike():
    """The same loss and gradient, to rounding, with the same keys."""
    images = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), np.uint8)
    x = (images.astype(np.float32) - 127.5) / 127.5
    info = assembly.DataInfo("d", SHAPE, None, "")
    same = LatentInfo("squares", "squares", SHAPE)
    found = []
    for place, about, image in (
        (IN_PIXELS, info, images),
        (IN_LATENTS, dataclasses.replace(info, latents=same), of_moments(x, 0.0)),
    ):
        small = ("network.channels=8", "network.num_groups=4")
        spec = with_options(*place, "data.flip=False", *small)
        unet = assembly.model(spec, about)
        objective = assembly.objective(spec, unet, about)
        params = assembly.init_params(spec, unet, about)
        descend = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (loss, _), gradient = descend(params, jax.random.key(2), {"image": image}, ())
        found.append((loss, gradient))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(found[0][1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        *(gradient for _, gradient in found),
    )


def of_moments(mean, std):
    return np.concatenate([mean, np.full_like(mean, std)], axis=-1)


# --- Editing --------------------------------------------------------------------------


@pytest.fixture
def spec(monkeypatch):
    """A model whose network is that of Gaussian latents."""
    denoise = oracles.gaussian(*of_latents(*gaussian_images()))
    monkeypatch.setattr(plans, "denoiser", lambda *_: denoise)
    return default("schedule.num_levels=40", "preview_steps=10", *IN_LATENTS).task


def given(mode, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    rows = {"image": 0.3 * jax.random.normal(keys[0], (2, *SHAPE))}
    if mode == "inpaint":
        known = np.ones((2, *SHAPE), np.float32)
        known[:, 2:, 1:3] = 0
        rows["mask"] = jnp.asarray(known)
    if mode == "interpolate":
        rows["other"] = 0.3 * jax.random.normal(keys[1], (2, *SHAPE))
        rows["share"] = jnp.array([0.0, 0.4])
    return rows


def edit(spec, asked, rows, codec):
    assembly.check_edit(spec, asked, SHAPE)
    unconditional = SimpleNamespace(conditioners={})
    model = SimpleNamespace(spec=spec, unet=unconditional, codec=codec)
    plan = assembly.plan_of(model, asked)
    record = Record(asked.film_frames, with_start=False)
    task = jax.jit(partial(run_plan, plan, record=record))
    keys = image_keys(jax.random.key(3), jnp.arange(2))
    return jax.tree.map(np.asarray, task(Params(None, codec.params), keys, rows))


ONE_WAY = ("image-to-image", "encode")
MODES = [
    ("image-to-image", "sdedit"),
    ("encode", "ddim"),
    ("interpolate", "encode"),
    ("interpolate", "noise"),
    ("inpaint", "repaint"),
    ("inpaint", "guidance"),
]


@pytest.mark.parametrize(("mode", "method"), MODES)
def test_an_edit_of_latents_is_that_of_the_images_they_are(spec, mode, method):
    """In another basis of each square, with the same noise in that basis."""
    given_method = {} if mode in ONE_WAY else {"method": method}
    asked = COMMANDS[f"edit {mode}"](film_frames=3, **given_method)
    assert method_of(spec, asked) == method
    rows = given(mode)
    if mode == "inpaint":  # whole squares, so that the mask loses nothing
        known = np.ones((2, *SHAPE), np.float32)
        known[:, 2:, :2] = 0
        rows["mask"] = jnp.asarray(known)
    in_latents = edit(spec, asked, rows, latents(TURNED, SHAPE))
    # The same by hand: images are handed over as latents, and taken back.
    codec = latents(TURNED, SHAPE)
    brought = {
        name: codec.encode(codec.params, part) if part.ndim == 4 else part
        for name, part in rows.items()
    }
    if "mask" in rows:
        brought["mask"] = codec.reduce(rows["mask"])
        hidden = rows["mask"] * rows["image"]
        brought["image"] = codec.encode(codec.params, hidden)
    by_hand = edit(spec, asked, brought, pixels((2, 2, 4)))
    for found, made in (
        (in_latents.items, by_hand.items),
        (in_latents.trajectory.x_t, by_hand.trajectory.x_t),
        (in_latents.trajectory.x0, by_hand.trajectory.x0),
    ):
        flat = jnp.asarray(made.reshape(-1, 2, 2, 4))
        decoded = np.asarray(codec.decode(codec.params, flat))
        np.testing.assert_allclose(found, decoded.reshape(found.shape), atol=2e-5)


@pytest.mark.parametrize("method", ["replace", "project"])
def test_what_is_known_of_a_picture_is_kept_and_the_hole_is_not_looked_into(
    spec, method
):
    asked = Inpaint(method=method, film_frames=3)
    rows, codec = given("inpaint"), latents(TURNED, SHAPE)
    known = np.asarray(rows["mask"]) > 0
    edited = edit(spec, asked, rows, codec)
    np.testing.assert_array_equal(edited.items[known], np.asarray(rows["image"])[known])
    np.testing.assert_array_equal(edited.condition_preview[~known], 0)
    painted_over = {**rows, "image": jnp.where(known, rows["image"], 0.9)}
    other = edit(spec, asked, painted_over, codec)
    np.testing.assert_array_equal(other.items, edited.items)


def test_a_latent_is_known_where_all_its_pixels_are():
    reduce = latents(TURNED, SHAPE).reduce
    mask = np.ones((1, *SHAPE), np.float32)
    mask[0, 3, 0] = 0
    found = np.asarray(reduce(jnp.asarray(mask)))
    assert found.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(found[0, :, :, 0], [[1, 1], [0, 1]])
    np.testing.assert_array_equal(found, found[..., :1].repeat(4, -1))
    colours = np.ones((1, 4, 4, 3), np.float32)
    colours[0, 0, 0, 2] = 0  # of one pixel one colour is not known
    of_colours = latents(patchwork.autoencoder((4, 4, 3)), (4, 4, 3)).reduce
    assert np.asarray(of_colours(jnp.asarray(colours)))[0, 0, 0].max() == 0


# --- What a recipe says ---------------------------------------------------------------


def with_options(*options):
    network = ("network.channel_multipliers=1", "network.attention_resolutions=")
    return changed(default(*network, *IN_LATENTS), *options).task


def check(spec, info=INFO, **asked):
    assembly.check(spec, info)
    assembly.check_sample(spec, info, Sample(**asked))


def test_latents_are_not_clamped():
    """A network that says 3 everywhere is believed, as it is not in pixels."""

    class SaysThree:
        def apply(self, variables, x_t, t, cond, *, train, rngs):
            return 3 + 0 * x_t

    for place, said in ((IN_LATENTS, 3.0), (IN_PIXELS, 1.0)):
        spec = with_options(*place, "prediction=x0")
        denoise = assembly.denoiser(spec, Sample(), SaysThree(), None)
        level = spec.schedule.build().at(jnp.asarray(5))
        assert denoise(jnp.ones((1, 2, 2, 4)), level).x0.max() == said


def test_the_network_has_the_size_of_the_latents():
    spec = with_options(
        "network.channel_multipliers=1,1", "network.attention_resolutions=2"
    )
    check(spec)
    unet = assembly.model(spec, INFO)
    params = jax.eval_shape(lambda: assembly.init_params(spec, unet, INFO))
    assert params["conv_in"]["kernel"].shape[2] == 4
    assert params["conv_out"]["kernel"].shape[3] == 4
    with_attention = {name for name in params if "attention" in name}
    assert len(with_attention) == 6, "2 on the way down, 3 up, 1 in the middle"


@pytest.mark.parametrize(
    ("options", "asked", "said"),
    [
        (
            IN_PIXELS,
            {},
            "codec.kind='as_stored', but this model works in the latents of sq",
        ),
        (
            [],
            {"dynamic_percentile": 0.99},
            "does nothing in latents, which are never clipped",
        ),
        ([], {"classifier_scale": 1.0}, "use guidance_scale"),
        (["network.channel_multipliers=1,1,1"], {}, "2x2 do not halve 2 times"),
        (["schedule.kind=cosine"], {}, "ends in a signal of 5e-05.*prediction v"),
    ],
)
def test_what_cannot_work_in_latents_is_refused(options, asked, said):
    with pytest.raises(UserError, match=said):
        check(with_options(*options), **asked)


@pytest.mark.parametrize(
    "options",
    [
        ["schedule.kind=linear"],
        ["schedule.kind=cosine", "prediction=v"],
        ["schedule.kind=cosine", "prediction=x0"],
    ],
)
def test_what_can_work_in_latents_is_not(options):
    check(with_options(*options))


def test_latents_of_a_model_of_pixels_are_refused():
    with pytest.raises(UserError, match="this model works in pixels; leave it out"):
        check(with_options(), dataclasses.replace(INFO, latents=None))


@pytest.mark.parametrize("asked", [Colorize(), Upscale()])
def test_what_is_measured_in_pixels_is_refused(asked):
    with pytest.raises(UserError, match=f"edit {asked.mode} is of pixels"):
        assembly.check_edit(with_options(), asked, (4, 4, 3))


def test_bits_per_dimension_are_refused():
    with pytest.raises(UserError, match="bits per dimension is of pixels"):
        assembly.check_likelihood(with_options(), INFO, Likelihood())
    made = default(*IN_LATENTS)
    asked = Evaluate(scores="frechet,bits_per_dim")
    with pytest.raises(UserError, match="scores=bits_per_dim is of pixels"):
        evaluate(made, asked, Path("none"))


@pytest.mark.parametrize(
    ("shape", "said"),
    [((4, 4, 3), r"4x4x3, and squares takes 1 channel"), ((4, 5, 1), "2 divides")],
)
def test_images_that_the_autoencoder_does_not_take_are_refused(shape, said):
    with pytest.raises(UserError, match=said):
        TURNED.shape_of(shape)


def test_images_that_are_not_square_have_latents_of_their_own_proportions():
    shape = (4, 6, 1)
    codec = latents(patchwork.autoencoder(shape, matrix=patchwork.orthogonal(4)), shape)
    assert codec.shape == (2, 3, 4)
    images = np.random.default_rng(0).uniform(-0.5, 0.5, (2, *shape))
    x = jnp.asarray(images, jnp.float32)
    again = codec.decode(codec.params, codec.encode(codec.params, x))
    np.testing.assert_allclose(again, x, atol=1e-6)
    mask = np.ones((1, *shape), np.float32)
    mask[0, 1, 4] = 0  # an unknown pixel in the third square of the first row
    expected = np.ones((2, 3))
    expected[0, 2] = 0
    found = np.asarray(codec.reduce(jnp.asarray(mask)))
    np.testing.assert_array_equal(found[0], np.repeat(expected[..., None], 4, -1))
