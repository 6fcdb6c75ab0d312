"""Configs of tests: made of the defaults, and changed as a command line does it."""

from ddpm_jax import specs
from ddpm_jax.recipe import ClassifierTask, Diffusion, Fit, UNet, recipe


def default(*options):
    """The recipe of CIFAR-10, with `options` such as "network.channels=8" set."""
    cfg = recipe(Diffusion(network=UNet(dropout=0.1)), Fit())
    return changed(cfg, *options)


def changed(cfg, *options):
    """A new config, with options such as "conditioners.label.kind=label" set."""
    return specs.override(cfg, [f"--config.{option}" for option in options])


def classifier(*options):
    """The recipe of a classifier."""
    return changed(recipe(ClassifierTask(), Fit()), *options)
