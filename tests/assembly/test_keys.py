"""Seeds: each has a stream of its own, the same with and without 64-bit types."""

import jax
import numpy as np
import pytest

from ddpm_jax import assembly
from ddpm_jax.assembly import keys
from ddpm_jax.data.pipeline import permutation
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.frechet import fid_infinity
from ddpm_jax.evaluation.kernel_distance import kid
from ddpm_jax.limits import MAX_INT, check_ceilings
from ddpm_jax.recipe import (
    AutoencoderTask,
    ClassifierTask,
    ContrastiveTask,
    Diffusion,
    from_json,
    recipe,
)
from ddpm_jax.requests import Evaluate, Sample
from ddpm_jax.runtime.keys import root_key
from ddpm_jax.specs import kind_of

SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 3 * 2**40 + 5, 2**63 - 1]

# Every key that is made of a seed, and the number of its purpose.
PURPOSES = [
    (keys.init_key, 0),
    (assembly.train_key, 1),
    (assembly.sample_key, 2),
    (assembly.likelihood_key, 3),
    (lambda seed: keys.init_key(seed, kind_of(ClassifierTask)), 10),
    (lambda seed: keys.train_key(seed, kind_of(ClassifierTask)), 11),
    (lambda seed: keys.init_key(seed, kind_of(AutoencoderTask)), 20),
    (lambda seed: keys.train_key(seed, kind_of(AutoencoderTask)), 21),
    (lambda seed: keys.init_key(seed, kind_of(ContrastiveTask)), 30),
    (lambda seed: keys.train_key(seed, kind_of(ContrastiveTask)), 31),
]


def words(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_root_key_has_all_64_bits_of_its_seed(seed, wide):
    """The halves of the seed, as JAX's own key of 64-bit types has them."""
    with jax.enable_x64(wide):
        assert words(root_key(seed)) == [seed >> 32, seed % 2**32]
    with jax.enable_x64(True):
        assert words(root_key(seed)) == words(jax.random.key(seed))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("seed", [7, 2**32 + 7])
def test_a_root_key_of_another_generator(impl, seed):
    """Chosen by JAX's own setting; the expected words are those of 64-bit types."""
    with jax.enable_x64(True):
        expected = words(jax.random.key(seed, impl=impl))
    with jax.default_prng_impl(impl):
        assert words(root_key(seed)) == expected


@pytest.mark.parametrize(("key_of", "purpose"), PURPOSES)
def test_every_key_of_a_run(key_of, purpose):
    """Those of 32-bit seeds are what they were before wider seeds had their own."""
    for seed in (0, 1, 2**32 - 1):
        expected = jax.random.fold_in(jax.random.key(np.uint32(seed)), purpose)
        assert words(key_of(seed)) == words(expected)
    found = {tuple(words(key_of(seed))) for seed in SEEDS}
    assert len(found) == len(SEEDS)


def test_a_stream_is_pinned():
    """Threefry-2x32 words as JAX 0.10 gives them, of seed 1 folded with 2."""
    assert words(assembly.sample_key(1)) == [2441914641, 3819641963]


def test_orders_of_batches_take_the_whole_seed():
    orders = {tuple(permutation(seed, 0, 50)) for seed in [*SEEDS, 2**64 - 1]}
    assert len(orders) == len(SEEDS) + 1


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_without_a_stream_is_refused(seed):
    with pytest.raises(UserError, match=r"seed=.* is out of range; use 0 to 2\^63-1"):
        root_key(seed)
    said = r"^config\.seed(=-1 is too small; use 0|.* is out of range; use .* or less)"
    for task in (Diffusion(), ClassifierTask(), AutoencoderTask()):
        made = recipe(task)
        made.seed = seed
        with pytest.raises(UserError, match=said):
            from_json(made)
    said = r"config\.sample\.seed=.* is out of range; use 0 to 2\^63-1"
    with pytest.raises(UserError, match=said):
        Sample(seed=seed)


def test_what_the_refusal_of_a_number_says_is_accepted():
    """Seeds, and numbers without a ceiling of their own."""
    for path in ("config.seed", "config.training.num_steps"):
        check_ceilings(MAX_INT, path)
    said = rf"num_steps={2**63} is out of range; use {MAX_INT:,} or less"
    with pytest.raises(UserError, match=said):
        check_ceilings(2**63, "config.training.num_steps")
    with pytest.raises(UserError, match=rf"use {-MAX_INT:,} or more"):
        check_ceilings(-(2**63), "config.training.num_steps")
    with pytest.raises(UserError, match=r"config\.seed=-1 .* use 0 to 2\^63-1"):
        check_ceilings(-1, "config.seed")
    assert Sample(seed=MAX_INT).seed == Diffusion(seed=MAX_INT).seed == MAX_INT


def test_the_seed_of_a_request_is_its_own_or_that_of_the_run():
    spec = Diffusion(seed=3)
    assert assembly.seed_of(spec, Sample()) == 3
    assert assembly.seed_of(spec, Sample(seed=0)) == 0


def test_seeds_beyond_the_last_are_refused_before_the_first_is_drawn():
    spec = Diffusion()
    assembly.check_seeds(spec, Evaluate(seed=2**63 - 2, num_seeds=2))
    with pytest.raises(UserError, match="num_seeds=3, seed=9223372036854775808 is out"):
        assembly.check_seeds(spec, Evaluate(seed=2**63 - 2, num_seeds=3))


def test_subsets_of_a_negative_seed_are_refused():
    rows = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(UserError, match="seed=-1 is negative; use 0 or more"):
        kid(rows, rows + 1, seed=-1)
    with pytest.raises(UserError, match="seed=-1 is negative; use 0 or more"):
        fid_infinity(rows, np.zeros(2), np.eye(2), seed=-1)
    kid(rows, rows + 1, seed=2**70)  # NumPy's seeds have no end
