"""Models nobody trained, in the folder of a run: all that loading and sampling need."""

import jax
import numpy as np

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


def write_run(folder, cfg, info):
    """Write the run of a config, as if it had ended at step 0."""
    params = with_noise(assembly.init_params(cfg, assembly.model(cfg, info), info))
    state = init_state(params, assembly.optimizer(cfg))
    with store.open_checkpoints(folder) as checkpoints:
        store.save(checkpoints, state, about.metadata(cfg, info), wait=True)


def write_digits(folder):
    """Write a small run of the recipe configs/digits.py."""
    cfg, _ = load_recipe("digits")
    cfg.network.channels, cfg.network.num_groups = 8, 4
    cfg.network.channel_multipliers, cfg.network.num_res_blocks = (1,), 1
    cfg.network.attention_resolutions = ()
    names = tuple(map(str, range(10)))
    write_run(folder, cfg, assembly.DataInfo("digits", (8, 8, 1), names, "0" * 16))
