"""Editing tasks run with an exact denoiser in the place of the network."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from settings import default

from ddpm_jax.assembly import (
    check_edit,
    idle_fields,
    plan_of,
    plans,
    sample_key,
    seed_of,
)
from ddpm_jax.codecs import Params, pixels
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Colorize, Encode, Inpaint, Interpolate, Upscale
from ddpm_jax.sampling.plan import Record, run_plan

SHAPE = (4, 4, 3)
CHAIN = {"film_frames": 3, "clip": False}


@pytest.fixture
def spec(monkeypatch):
    """A model whose network is that of Gaussian data, small enough never to be cut."""
    variances = np.linspace(0.001, 0.02, 48)
    exact = oracles.gaussian(np.zeros(48), variances)
    monkeypatch.setattr(plans, "denoiser", lambda *_: exact)
    return default("schedule.num_levels=50", "preview_steps=10").task


def given(seed=0):
    values = jax.random.normal(jax.random.key(seed), (2, *SHAPE))
    return {"image": 0.1 * values}


def run(spec, asked, rows, keys=None):
    unconditional = SimpleNamespace(conditioners={})
    model = SimpleNamespace(spec=spec, unet=unconditional, codec=pixels(SHAPE))
    plan = plan_of(model, asked)
    record = Record(asked.film_frames, with_start=False)
    task = jax.jit(partial(run_plan, plan, record=record))
    if keys is None:
        keys = image_keys(jax.random.key(3), jnp.arange(2))
    return jax.tree.map(np.asarray, task(Params(None), keys, rows))


def test_colours_agree_with_the_grey_picture(spec):
    image = np.asarray(given()["image"])
    edited = run(spec, Colorize(**CHAIN), given())
    grey = image.mean(-1, keepdims=True)
    np.testing.assert_allclose(
        edited.condition_preview, np.repeat(grey, 3, -1), atol=1e-6
    )
    np.testing.assert_allclose(edited.items.mean(-1, keepdims=True), grey, atol=1e-5)
    assert np.abs(edited.items - image).max() > 0.05, "its colours are its own"
    np.testing.assert_allclose(edited.trajectory.x_t[-1], edited.items, atol=1e-6)


def test_means_over_blocks_agree_with_the_small_picture(spec):
    def pooled(x):
        return x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))

    edited = run(spec, Upscale(**CHAIN), given())
    image = np.asarray(given()["image"])
    np.testing.assert_allclose(pooled(edited.items), pooled(image), atol=1e-5)


# An option of a chain, and a value that is not its default.
OTHER = {
    **{"sampler": "heun", "variance": "large", "eta": 0.5, "rtol": 0.01, "atol": 0.01},
    **{"churn": 4.0, "churn_low": 0.1, "churn_high": 9.0, "churn_noise": 1.1},
    **{"clip": False, "dynamic_percentile": 0.1, "seed": 5},
    **{"num_steps": 4, "spacing": "quadratic", "strength": 0.9, "iterations": 1},
}


@pytest.mark.parametrize("name", OTHER)
def test_an_encoding_refuses_what_changes_nothing_of_it(spec, name):
    """And looks at the rest. The data are large enough to be clipped."""
    rows = {"image": 30.0 * given()["image"]}

    def made(asked):
        key = sample_key(seed_of(spec, asked))
        return run(spec, asked, rows, image_keys(key, jnp.arange(2))).items

    plain = Encode(num_steps=3, film_frames=2)
    asked = dataclasses.replace(plain, **{name: OTHER[name]})
    changes = bool((made(asked) != made(plain)).any())
    assert changes != (name in idle_fields(spec, asked))


@pytest.mark.parametrize("name", ["clip", "dynamic_percentile", "weight"])
def test_guided_edits_refuse_what_changes_nothing_of_them(spec, name):
    rows = {"image": 30.0 * given()["image"]}
    plain = Colorize(method="guidance", weight=500.0, num_steps=3, film_frames=2)
    other = {**OTHER, "weight": 0.5}[name]
    asked = dataclasses.replace(plain, **{name: other})
    one, two = (run(spec, part, rows).items for part in (asked, plain))
    assert (one != two).any() != (name in idle_fields(spec, asked))


def test_guidance_comes_near_the_small_picture_and_nearer_with_more_weight(spec):
    def miss(weight):
        asked = Colorize(method="guidance", weight=weight, **CHAIN)
        edited = run(spec, asked, given())
        return np.mean(
            (edited.items.mean(-1) - np.asarray(given()["image"]).mean(-1)) ** 2
        )

    assert miss(1.0) < 0.8 * miss(0.1)


def test_decoding_an_encoding_gives_the_picture_back(spec):
    edited = run(spec, Encode(iterations=30, **CHAIN), given())
    np.testing.assert_allclose(edited.items, given()["image"], atol=1e-4)


@pytest.mark.parametrize(
    ("request_of", "option", "value", "wanted"),
    [
        (Interpolate, "num_points", 1, "use 2 or more"),  # a walk has two ends
        (Interpolate, "iterations", 0, "use 1 or more"),
        (Inpaint, "num_images", 0, "use 1 or more"),
        (Inpaint, "weight", 1e30, "up to 1000"),
        (Inpaint, "method", "magic", "use repaint, replace, project, guidance"),
    ],
)
def test_an_option_out_of_range_is_refused(spec, request_of, option, value, wanted):
    with pytest.raises(UserError, match=rf"config\.edit\.{option}=.*{wanted}"):
        check_edit(spec, request_of(**{option: value}), SHAPE)


def test_repaint_that_does_not_fit_the_chain_is_refused(spec):
    asked = Inpaint(num_steps=10, jump_length=10)
    with pytest.raises(UserError, match=r"jump_length=10 does not fit .* 10 steps"):
        check_edit(spec, asked, SHAPE)
