"""Models nobody trained, in the folder of a run: all that loading and sampling need."""

import jax
import numpy as np
from settings import changed

from ddpm_jax import assembly
from ddpm_jax.cli import load_recipe
from ddpm_jax.commands import about
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.step import init_state


def with_noise(params, seed=0):
    """Add noise to parameters: last layers start at zero, and would hide conditions."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    noise = [0.1 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)])


def write_run(folder, recipe, info):
    """Write the run of a recipe, as if it had ended at step 0."""
    spec = recipe.task
    params = with_noise(assembly.init_params(spec, assembly.model(spec, info), info))
    state = init_state(params, recipe.training.transformation())
    with store.open_checkpoints(folder) as checkpoints:
        store.save(checkpoints, state, about.metadata(recipe, info), wait=True)


def write_digits(folder):
    """Write a small run of the recipe configs/digits.py."""
    recipe = changed(
        load_recipe("digits")[0],
        *("network.channels=8", "network.num_groups=4", "network.num_res_blocks=1"),
        *("network.channel_multipliers=1,", "network.attention_resolutions="),
    )
    names = tuple(map(str, range(10)))
    write_run(folder, recipe, assembly.DataInfo("digits", (8, 8, 1), names, "0" * 16))
