"""Keys by purpose, each from the root key of a seed, never stored."""

import jax

from ddpm_jax.recipe import TaskSpec
from ddpm_jax.requests import Likelihood
from ddpm_jax.requests.options import Chain
from ddpm_jax.runtime.keys import root_key

_INIT, _TRAIN, _SAMPLE, _LIKELIHOOD, _PRIOR = 0, 1, 2, 3, 4
# Kinds with streams of their own, apart from those of the model that they serve.
_FIRST = {"classifier": 10, "autoencoder": 20, "contrastive": 30}


def init_key(seed: int, kind: str = "") -> jax.Array:
    """Return the key of the initial parameters of a model of a kind."""
    return jax.random.fold_in(root_key(seed), _FIRST.get(kind, 0) + _INIT)


def train_key(seed: int, kind: str = "") -> jax.Array:
    """Return the key of training noise, levels, flips and dropout."""
    return jax.random.fold_in(root_key(seed), _FIRST.get(kind, 0) + _TRAIN)


def seed_of(spec: TaskSpec, asked: Chain | Likelihood) -> int:
    """Return the seed of a request: its own, or that of the run."""
    return spec.seed if asked.seed is None else asked.seed


def sample_key(seed: int) -> jax.Array:
    """Return the key that the keys of samples are derived from."""
    return jax.random.fold_in(root_key(seed), _SAMPLE)


def prior_key(seed: int) -> jax.Array:
    """Return the key of the embeddings that a decoder's samples are made of.

    Apart from that of the samples: the first numbers of their noise would be the same.
    """
    return jax.random.fold_in(root_key(seed), _PRIOR)


def likelihood_key(seed: int) -> jax.Array:
    """Return the key that the keys of measured images are derived from."""
    return jax.random.fold_in(root_key(seed), _LIKELIHOOD)
