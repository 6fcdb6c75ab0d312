"""With 64-bit types enabled (JAX_ENABLE_X64) nothing fails, and nothing changes.

Parameters, states and images stay float32, and keys draw what they draw without. What
is computed is traced, which is quick, and searched for arrays of float64; a few
programs are run both ways.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn
from settings import default

from ddpm_jax import assembly
from ddpm_jax.assembly import autoencode, features, sampling
from ddpm_jax.codecs import from_moments
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioner import drop
from ddpm_jax.conditioning.label import Label
from ddpm_jax.conditioning.low_res import LowRes
from ddpm_jax.conditioning.masks import random_mask
from ddpm_jax.conditioning.text import Text
from ddpm_jax.diffusion import ode_likelihood, schedules, time_sampling
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.multistep import dpmpp_2m, pndm, unipc
from ddpm_jax.networks.dual_encoder import DualEncoder
from ddpm_jax.networks.layers import Dropout
from ddpm_jax.networks.text import TextTransformer
from ddpm_jax.recipe import (
    AutoencoderTask,
    Classifier,
    ClassifierTask,
    Fit,
    KLAutoencoder,
    PatchDiscriminator,
)
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.tasks.augment import shift_and_flip
from ddpm_jax.training.step import init_state, make_train_step

INFO = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")
SELF_CONDITIONED = "conditioners.self_conditioning.kind=self_conditioning"
KEYS = image_keys(jax.random.key(3), jnp.arange(3))


def recipe_of(*options):
    """A small network on 40 levels."""
    return default(
        *("network.channels=8", "network.num_groups=4", "network.num_res_blocks=1"),
        *("network.channel_multipliers=1", "network.attention_resolutions="),
        *("schedule.num_levels=40", "preview_steps=10", *options),
    )


def wide(program):
    """List the operations of a traced program that make arrays of float64."""
    found = []

    def search(jaxpr):
        for equation in jaxpr.eqns:
            for made in equation.outvars:
                if (
                    getattr(made.aval, "dtype", None) == np.float64
                    and made.aval.size > 1
                ):
                    found.append(str(equation.primitive))
            for inner in jax.tree.leaves(
                list(equation.params.values()),
                is_leaf=lambda part: hasattr(part, "eqns") or hasattr(part, "jaxpr"),
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    search(inner)

    search(program.jaxpr)
    return found


def zeros_of(make):
    """Zeros of the shapes and types that a function would return."""
    shapes = jax.eval_shape(make)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def dtypes_of(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


# --- Types ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_every_sampler_draws_float32(name):
    churn = {"churn": 4.0} if name in ("euler", "heun") else {}
    spec, asked = recipe_of().task, Sample(sampler=name, num_steps=6, **churn)
    denoise = oracles.gaussian(np.zeros(4), np.ones(4))

    def draw(keys):
        x, _ = generate(
            keys,
            assembly.sampler(spec, asked),
            denoise,
            initial_noise(keys, (4,)),
            assembly.levels(spec, asked),
            record=lambda info: info.prediction.x0,
            num_records=2,
        )
        return x

    with jax.enable_x64(True):
        program = jax.make_jaxpr(draw)(KEYS)
    assert [out.dtype for out in program.out_avals] == [np.float32]
    if name != "adaptive":  # diffrax computes its steps' lengths in float64
        assert wide(program) == []


@pytest.mark.parametrize(
    "options",
    [
        ["conditioners.label.kind=label", "network.scale_shift=True"],
        ["times.kind=importance", "loss.kind=bound"],
        ["times.kind=stratified", "schedule.kind=cosine_logsnr"],
        [
            "times.kind=antithetic",
            "conditioners.self_conditioning.kind=self_conditioning",
        ],
        ["conditioners.masked.kind=masked", "training.decay=cosine"],
    ],
)
def test_a_step_of_training_keeps_float32(options):
    recipe = recipe_of(*options)
    spec, fit = recipe.task, recipe.training
    with jax.enable_x64(True):
        net = assembly.model(spec, INFO)
        params = zeros_of(lambda: assembly.init_params(spec, net, INFO))
        assert dtypes_of(params) == {"float32"}
        sampler = spec.build_times()
        state = init_state(params, fit.transformation(), sampler.init(), 1)
        step = make_train_step(
            assembly.objective(spec, net, INFO),
            fit.transformation(),
            ema_target=0.99,
            mesh=data_mesh(),
            ema_stds=(0.1,),
        )
        batch = {"image": np.zeros((4, 8, 8, 1), np.uint8)}
        batch["label"] = np.zeros(4, np.int32)
        program = jax.make_jaxpr(step)(state, assembly.train_key(spec.seed), batch)
    assert dtypes_of(state) == {"float32", "int32"}
    assert {str(out.dtype) for out in program.out_avals} == {"float32", "int32"}
    assert wide(program) == []


def test_parameters_of_other_networks_are_float32():
    small = {"channels": 8, "num_groups": 8}
    adversarial = AutoencoderTask(
        network=KLAutoencoder(**small),
        discriminator=PatchDiscriminator(**small),
        discriminator_start=0,
    )
    task = autoencode.autoencode_task(adversarial, Fit(), INFO)
    spec = ClassifierTask(network=Classifier(**small))
    classifier = features.classifier(spec, INFO)
    text = TextTransformer(11, 5, 8, 1, 2)
    ids, x = jnp.zeros((1, 5), jnp.int32), jnp.zeros((1, 8, 8, 1), jnp.float32)
    told = (ids, ids > 0)
    with jax.enable_x64(True):
        for make in (
            lambda: task.start(task.draw()),
            features.classifier_task(spec, Fit(), INFO, data_mesh()).draw,
            lambda: DualEncoder(classifier, text).init(KEYS[0], x, told),
            lambda: Conditioned(
                assembly.model(recipe_of().task, INFO).network,
                {"text": Text(3, 5), "low_res": LowRes(2, 0.5)},
            ).init(KEYS[0], x, jnp.zeros((1,), jnp.float32)),
        ):
            assert dtypes_of(jax.eval_shape(make)) <= {"float32", "int32"}


# --- Values ---------------------------------------------------------------------------


def both(function):
    """Run a function without 64-bit types and with them."""
    found = []
    for is_wide in (False, True):
        with jax.enable_x64(is_wide):
            found.append(jax.tree.map(np.asarray, function()))
    return found


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.float32)
MOMENTS = np.random.default_rng(1).normal(size=(6, 2, 2, 4)).astype(np.float32)
LABELS = {"label": np.arange(6, dtype=np.int32)}


def history():
    """Of losses that rise with the level, complete."""
    losses = np.ones((8, 10), np.float32) * np.arange(8)[:, None].astype(np.float32)
    return time_sampling.History(jnp.asarray(losses), jnp.full(8, 10, jnp.int32))


DRAWS = {
    "uniform": lambda key: time_sampling.uniform_times(key, 5),
    "stratified": lambda key: time_sampling.stratified_times(key, 5),
    "antithetic": lambda key: time_sampling.antithetic_times(key, 5),
    "importance": lambda key: time_sampling.importance(8).draw(key, 5, history()),
    "flips and shifts": lambda key: shift_and_flip(key, IMAGES, max_shift=2, flip=True),
    "latents": lambda key: from_moments(1)(key, MOMENTS),
    "views": lambda key: from_moments(2)(key, np.tile(MOMENTS, 2)),
    "hidden labels": lambda key: drop({"label": Label(10)}, key, LABELS, 0.4),
    "masks": lambda key: random_mask(key, (8, 8)),
    "augmentation": lambda key: LowRes(2, 0.5).from_images(
        jax.random.split(key, 6), IMAGES
    ),
    "probes": lambda key: ode_likelihood.sign_probes(
        jax.random.split(key, 6), IMAGES, 2
    ),
    "dequantization": lambda key: ode_likelihood.dequantize(
        jax.random.split(key, 6), IMAGES
    ),
    "dropout": lambda key: Dropout(0.3).apply(
        {}, IMAGES, deterministic=False, rngs={"dropout": key}
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_key_draws_the_same(name):
    narrow, wide_one = both(lambda: DRAWS[name](jax.random.key(7)))
    assert dtypes_of(narrow) == dtypes_of(wide_one)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        narrow,
        wide_one,
    )


def test_dropout_is_that_of_flax():
    """Whose masks trained the runs there are."""
    layers = (Dropout(0.3), nn.Dropout(0.3))
    found = [
        layer.apply({}, IMAGES, deterministic=False, rngs={"dropout": KEYS[0]})
        for layer in layers
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "pndm"])
def test_multistep_samplers_draw_the_same(name):
    sampler = {"dpmpp_2m": dpmpp_2m, "unipc": unipc, "pndm": pndm}[name]()

    def draw():
        denoise = oracles.gaussian([0.2, -0.3], [0.5, 0.1])
        levels = grid(schedules.from_betas(schedules.linear_betas(1000)), 6)
        x = initial_noise(KEYS, (2,))
        return generate(KEYS, sampler, denoise, x, levels)[0]

    narrow, wide_one = both(draw)
    assert wide_one.dtype == np.float32
    np.testing.assert_allclose(wide_one, narrow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [8, None])
def test_the_likelihood_of_the_flow_is_the_same(steps):
    data = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    schedule = schedules.linear_logsnr(10.0, -10.0)
    start, end = (schedule.at(jnp.float32(t)) for t in (0.0, 999.0))

    @jax.jit
    def follow(data):
        return ode_likelihood.follow_flow(
            oracles.gaussian([0.2, -0.3], [0.5, 0.1]),
            data,
            start,
            end,
            schedule=schedule,
            probes=ode_likelihood.exact_probes(data),
            solve=ode_likelihood.runge_kutta(steps)
            if steps
            else ode_likelihood.adaptive(),
        )

    narrow, wide_one = both(lambda: follow(data))
    assert wide_one.log_density.dtype == wide_one.x_T.dtype == np.float32
    np.testing.assert_allclose(
        wide_one.log_density, narrow.log_density, rtol=2e-4, atol=2e-4
    )
