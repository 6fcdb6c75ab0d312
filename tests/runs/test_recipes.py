"""Recipes build the networks they promise; options go through the whole program."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import TINY

from ddpm_jax import build
from ddpm_jax.build import features
from ddpm_jax.cli import main
from ddpm_jax.training.log import read_metrics

CIFAR = build.DataInfo("cifar10", (32, 32, 3), tuple("0123456789"), "")
MNIST = build.DataInfo("mnist", (32, 32, 1), tuple("0123456789"), "")
DIGITS = build.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")

# Parameters: of the first as in Ho et al.'s code; of the second as counted from Nichol
# and Dhariwal's; of the others as their docstrings say.
RECIPES = {
    "cifar": (CIFAR, 35_746_307),
    "cifar_cosine": (CIFAR, 52_546_438),
    "digits": (DIGITS, 1_003_137),
    "mnist": (MNIST, 687_473),
}
# Classifiers whose features judge images.
FEATURES = {
    "cifar_features": (CIFAR, 140_362),
    "digits_features": (DIGITS, 116_490),
    "mnist_features": (MNIST, 130_474),
}


def load(path):
    names = {}
    exec(compile(Path(path).read_text(), str(path), "exec"), names)
    return names["get_config"]()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_its_checks_and_has_its_parameters(name):
    info, count = RECIPES[name]
    cfg = load(f"configs/{name}.py")
    build.check(cfg, info)
    unet = build.model(cfg, info)
    x = jnp.zeros((1, *info.image_shape))
    shapes = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1))
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


@pytest.mark.parametrize("name", FEATURES)
def test_a_features_recipe_passes_its_checks_and_has_its_parameters(name):
    info, count = FEATURES[name]
    cfg = load(f"configs/{name}.py")
    features.check_features(cfg, info)
    net = features.classifier(cfg, info)
    x = jnp.zeros((1, *info.image_shape))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_all_recipes_are_tested():
    there = {path.stem for path in Path("configs").glob("*.py")}
    assert there == set(RECIPES | FEATURES)


@pytest.mark.parametrize(
    "options",
    [
        "diffusion.variance=learned diffusion.loss=hybrid diffusion.t_range=10 "
        "model.scale_shift=True",
        "diffusion.prediction=v diffusion.schedule=linear_logsnr sample.sampler=heun "
        "model.class_conditional=False sample.num_steps=4 diffusion.loss=weighted "
        "diffusion.times=stratified sample.clip=False",
        "diffusion.prediction=x0 diffusion.loss=bound model.dtype=bfloat16 "
        "model.remat=True training.decay=cosine sample.sampler=dpmpp_2m "
        "sample.num_steps=7 sample.spacing=linear",
        "model.self_conditioning=True diffusion.prediction=v diffusion.loss=p2 "
        "diffusion.times=antithetic sample.sampler=unipc sample.spacing=karras "
        "sample.num_steps=6 sample.guidance_scale=2.0",
        "diffusion.variance=learned diffusion.loss=bound diffusion.times=importance "
        "sample.spacing=sections:2,3 sample.classifier_scale=1.0",
        "diffusion.prediction=v diffusion.zero_terminal_snr=True sample.sampler=ddim "
        "diffusion.loss=truncated_snr sample.num_steps=5 sample.dynamic_percentile=0.9",
    ],
    ids=["hybrid", "weighted", "bound", "hints", "importance", "zero_snr"],
)
def test_options_train_and_sample(tmp_path, options):
    flags = [f"--config.{option}" for option in options.split()]
    short = ["--config.training.num_steps=2", "--config.training.sample_every=0"]
    line = [f"--config={TINY}", f"--workdir={tmp_path}", *short, *flags]
    assert main(line) == 0
    (folder,) = (tmp_path / "samples").iterdir()
    with np.load(folder / "samples.npz") as stored:
        images = stored["arr_0"]
    assert images.shape == (6, 8, 8, 1)
    assert len(np.unique(images)) > 1  # NaN would have become one flat value
    (record,) = read_metrics(tmp_path)
    assert 0 < record["loss"] < 1e4
