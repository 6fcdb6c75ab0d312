"""The picture of a condition: what training shows the network, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import default

from ddpm_jax import assembly
from ddpm_jax.conditioning.conditioner import null_condition, training_condition
from ddpm_jax.conditioning.low_res import resize
from ddpm_jax.diffusion.operators import average_pool
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample

INFO = assembly.DataInfo("made up", (8, 8, 3), ("a", "b"), "0")
KEY = jax.random.key(0)


LABELED = "conditioners.label.kind=label"


def recipe_of(*options):
    """A tiny network, with options."""
    small = ("channels=8", "num_groups=4", "channel_multipliers=1", "num_res_blocks=1")
    small += ("attention_resolutions=",)
    return default(*(f"network.{option}" for option in small), *options).task


def shown(kind, *options):
    """A tiny network that is conditioned on an image map, with options of that."""
    node = f"conditioners.{kind}"
    return recipe_of(f"{node}.kind={kind}", *(f"{node}.{option}" for option in options))


def condition_of(spec):
    """The function that conditions a training batch."""
    return training_condition(assembly.conditioners(spec, INFO), spec.condition_dropout)


def batch(size=4):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size, 8, 8, 3), np.uint8)
    return {"image": jnp.asarray(pixels), "label": jnp.arange(size) % 2}


def test_training_shows_the_image_that_is_to_be_drawn():
    """What reaches the network is made of the flipped image: seen through a network
    that says nothing but is asked, with every image flipped or not."""
    spec = recipe_of("conditioners.low_res.kind=low_res", "data.flip=True")
    seen = []

    class Spy:
        def apply(self, variables, x_t, t, cond, *, train, rngs):
            seen.append((x_t, cond))
            return jnp.zeros_like(x_t)

    objective = assembly.objective(spec, Spy(), INFO)
    given = batch(64)
    objective(None, KEY, given, ())
    ((x_t, cond),) = seen
    assert set(cond) == {"low_res"} and cond["low_res"].aug_level is None
    picture = np.asarray(cond["low_res"].map)
    x0 = given["image"] / 127.5 - 1.0
    low = average_pool(2).apply(x0)
    straight, mirrored = (resize(part, 8, 8) for part in (low, low[:, :, ::-1]))
    as_is = np.isclose(picture, straight, atol=1e-5).all(axis=(1, 2, 3))
    flipped = np.isclose(picture, mirrored, atol=1e-5).all(axis=(1, 2, 3))
    assert (as_is ^ flipped).all() and 10 < flipped.sum() < 54
    # And x_t is of the same image: correlated with it, and not with its mirror image.
    facing = np.where(flipped[:, None, None, None], x0[:, :, ::-1], x0)
    agree, disagree = (np.sum(x_t * side) for side in (facing, facing[:, :, ::-1]))
    assert agree > 2 * abs(disagree)


def test_labels_are_hidden_and_pictures_never():
    low_res = "conditioners.low_res.kind=low_res"
    spec = recipe_of(low_res, LABELED, "condition_dropout=0.5")
    given = batch(100)
    x0 = given["image"] / 127.5 - 1.0
    given_to = condition_of(spec)(KEY, given, x0)
    hidden = np.asarray(given_to["label"]) == 2
    assert 20 < hidden.sum() < 80
    low = resize(average_pool(2).apply(x0), 8, 8)
    np.testing.assert_allclose(given_to["low_res"].map, low, atol=1e-6)
    # Neither are they dropped by guidance.
    unet = assembly.model(spec, INFO)
    nothing = null_condition(unet.conditioners, given_to)
    np.testing.assert_array_equal(nothing["low_res"].map, given_to["low_res"].map)
    assert (np.asarray(nothing["label"]) == 2).all()


def test_labels_are_those_of_the_same_model_without_a_picture():
    """The key of labels is not touched by the picture's."""
    plain = recipe_of(LABELED)
    masked = recipe_of(LABELED, "conditioners.masked.kind=masked")
    given, x0 = batch(50), jnp.zeros((50, 8, 8, 3))
    labels = [condition_of(one)(KEY, given, x0)["label"] for one in (plain, masked)]
    np.testing.assert_array_equal(*labels)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ([], 3),
        (["conditioners.low_res.kind=low_res"], 6),
        (
            [
                "conditioners.low_res.kind=low_res",
                "conditioners.low_res.max_aug_level=0.5",
            ],
            6,
        ),
        (["conditioners.grey.kind=grey"], 4),
        (["conditioners.masked.kind=masked"], 7),
    ],
)
@pytest.mark.parametrize("self_conditioning", [False, True])
def test_the_network_has_a_place_for_the_picture(options, channels, self_conditioning):
    further = ["conditioners.self_conditioning.kind=self_conditioning"]
    spec = recipe_of(*options, *further[: int(self_conditioning)])
    unet = assembly.model(spec, INFO)
    params = jax.eval_shape(lambda: assembly.init_params(spec, unet, INFO))
    kernel = params["conv_in"]["kernel"]
    assert kernel.shape[2] == channels + 3 * self_conditioning
    assert ("low_res" in params) == any("max_aug_level" in one for one in options)


def test_a_network_that_is_shown_a_picture_wants_one():
    spec = shown("grey")
    unet = assembly.model(spec, INFO)
    apply = assembly.network(unet)
    params = jax.eval_shape(lambda: assembly.init_params(spec, unet, INFO))
    x, t = jnp.zeros((2, 8, 8, 3)), jnp.zeros(2)
    with pytest.raises(UserError, match="give it as cond"):
        jax.eval_shape(lambda params: apply(params, x, t, None), params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["conditioners.low_res.kind=small"],
            r"config\.conditioners\.low_res\.kind='small' is not known; use .*low_res",
        ),
        (
            ["conditioners.small.kind=low_res"],
            r"config\.conditioners\.small is a LowRes; .* the name low_res: call it so",
        ),
        (
            ["conditioners.low_res.kind=low_res", "conditioners.low_res.factor=3"],
            r"config\.conditioners\.low_res\.factor=3 does not divide .*8x8",
        ),
        (
            ["conditioners.low_res.kind=low_res", "conditioners.low_res.factor=1"],
            r"low_res\.factor=1 is too small; use 2 or more",
        ),
        (
            [
                "conditioners.low_res.kind=low_res",
                "conditioners.low_res.max_aug_level=1.5",
            ],
            r"config\.conditioners\.low_res\.max_aug_level=1.5 is not in .0, 1",
        ),
        (
            ["conditioners.grey.kind=grey", "conditioners.grey.max_aug_level=0.5"],
            r"unknown option config\.conditioners\.grey\.max_aug_level; "
            r".* has condition_dropout\.",
        ),
        (
            ["conditioners.low_res.max_aug_level=0.5"],
            r"unknown option config\.conditioners\.low_res; .* has none",
        ),
        (
            ["conditioners.grey.kind=grey", "conditioners.masked.kind=masked"],
            r"config\.conditioners\.masked is an image map beside grey; use one",
        ),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        assembly.check(recipe_of(*options), INFO)


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        ([], {"picture": "data:test"}, "without pictures"),
        (["low_res"], {"picture": "a.png"}, r"use data:SPLIT, .* edit upscale for"),
        (["low_res"], {"picture_noise": 0.1}, r"picture_noise=0.1 is not in \[0, 0\]"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(options, asked, message):
    spec = recipe_of(*(f"conditioners.{one}.kind={one}" for one in options))
    with pytest.raises(UserError, match=message):
        assembly.check_sample(spec, INFO, Sample(**asked))


def test_grey_wants_colours():
    plain = assembly.DataInfo("made up", (8, 8, 1), None, "0")
    with pytest.raises(UserError, match=r"color images .* have 1; leave it out"):
        assembly.check(shown("grey"), plain)


def test_consistency_is_that_of_the_small_pictures():
    """Whatever the pixels of a block are, their mean counts: off by 3 of 255."""
    spec = shown("low_res")
    rng = np.random.default_rng(0)
    real = rng.integers(60, 190, (3, 8, 8, 3)).astype(np.uint8)
    signs = np.where(np.indices((8, 8)).sum(0) % 2, 1, -1)[..., None]
    drawn = (real + 3 + 20 * signs).astype(np.uint8)
    found = assembly.consistency(spec, drawn, real)
    assert found == pytest.approx(20 * np.log10(255 / 3), rel=1e-5)
    # Given the small pictures themselves, whose bytes are exact means here.
    small = rng.integers(60, 190, (3, 4, 4, 3)).astype(np.uint8)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    moved = (large + 3 + 20 * signs).astype(np.uint8)
    found = assembly.consistency(spec, moved, small)
    assert found == pytest.approx(20 * np.log10(255 / 3), rel=1e-5)
    assert assembly.consistency(spec, large, small) == pytest.approx(120.0)


def test_consistency_of_colouring_is_that_of_the_luma():
    spec = shown("grey")
    rng = np.random.default_rng(0)
    real = rng.integers(60, 190, (2, 8, 8, 3)).astype(np.uint8)
    drawn = real + np.array([0, 10, 0], np.uint8)  # more green
    found = assembly.consistency(spec, drawn, real)
    assert found == pytest.approx(20 * np.log10(255 / 5.87), rel=1e-4)


def test_what_is_known_exactly_has_no_consistency():
    real = np.zeros((1, 8, 8, 3), np.uint8)
    assert assembly.consistency(shown("masked"), real, real) is None
