"""Recipes of tests: made of the defaults, and changed as a command line does it."""

from ddpm_jax import specs
from ddpm_jax.recipe import (
    ClassifierTask,
    Diffusion,
    Fit,
    UNet,
    from_json,
    recipe,
    to_json,
)


def default(*options):
    """The recipe of CIFAR-10, with `options` such as "network.channels=8" set."""
    made = recipe(Diffusion(network=UNet(dropout=0.1)), Fit())
    return changed(from_json(made), *options)


def changed(made, *options):
    """A new recipe, with options such as "conditioners.label.kind=label" set."""
    arguments = [f"--config.{option}" for option in options]
    return from_json(specs.override(to_json(made), arguments))


def classifier(*options):
    """The recipe of a classifier."""
    return changed(from_json(recipe(ClassifierTask(), Fit())), *options)
