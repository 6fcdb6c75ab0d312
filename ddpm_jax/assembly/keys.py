"""Keys of a config: one per purpose, each from the root key of a seed, never stored."""

import jax
from ml_collections import ConfigDict

from ddpm_jax.runtime.keys import root_key

_INIT, _TRAIN, _SAMPLE = 0, 1, 2  # `likelihood` has 3


def init_key(seed: int) -> jax.Array:
    """Return the key of the initial parameters."""
    return jax.random.fold_in(root_key(seed), _INIT)


def train_key(seed: int) -> jax.Array:
    """Return the key of training noise, levels, flips and dropout."""
    return jax.random.fold_in(root_key(seed), _TRAIN)


def sample_seed(config: ConfigDict) -> int:
    """Return the seed of a drawing: its own, or that of the run."""
    return config.seed if config.sample.seed is None else config.sample.seed


def sample_key(config: ConfigDict) -> jax.Array:
    """Return the key that the images' keys are derived from."""
    return jax.random.fold_in(root_key(sample_seed(config)), _SAMPLE)
