"""Clips are made longer in blocks, and the new frames follow the known ones."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.codecs import Params
from ddpm_jax.codecs.codec import unencoded
from ddpm_jax.diffusion import samplers, schedules
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Extend
from ddpm_jax.sampling.edits import METHODS, Edit, edit_plan
from ddpm_jax.sampling.extend import Block, blocks_of
from ddpm_jax.sampling.plan import Model, run_stage

# --- The layout of blocks -------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((8, 20, 8, 4), [Block(4, 4)] * 3),
        ((8, 12, 8, 4), [Block(4, 4)]),
        ((8, 13, 8, 4), [Block(4, 4), Block(4, 1)]),
        ((1, 8, 8, 4), [Block(1, 7)]),
        ((1, 12, 8, 4), [Block(1, 7), Block(4, 4)]),
        ((30, 31, 8, 7), [Block(7, 1)]),
    ],
)
def test_blocks(numbers, expected):
    assert blocks_of(*numbers) == expected
    given, wanted, length, _ = numbers
    assert given + sum(block.new for block in expected) == wanted
    assert all(block.known + block.new <= length for block in expected)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((8, 8, 8, 4), "frames=8 is no more than the 8"),
        ((8, 9, 8, 8), "known=8 does not fit blocks of 8 frames; use 1 to 7"),
        ((8, 9, 8, 0), "known=0"),
    ],
)
def test_what_does_not_fit(numbers, said):
    with pytest.raises(UserError, match=said):
        blocks_of(*numbers)


# --- The seam, exactly ----------------------------------------------------------------
# Clips of 8 numbers x_1 .. x_8, a stationary Gaussian chain: x_{i+1} = rho x_i + noise.
# Of the conditional law E (x_5 - rho x_4)^2 = 1 - rho^2: a seam of 1 is exact.

RHO, FRAMES, KNOWN, NUM = 0.95, 8, 4, 4096
COVARIANCE = RHO ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))


def seam(method, weight, sampler, num_steps=50, **options):
    codec = unencoded((FRAMES, 1, 1, 1))
    denoise = oracles.gaussian(np.zeros(FRAMES), COVARIANCE)
    model = Model(
        codec,
        grid(schedules.Cosine(1000).build(), num_steps),
        lambda: sampler,
        lambda params: denoise,
        lambda params, given: None,
    )
    (stage,) = edit_plan(Edit("extend", method, weight=weight, **options), model)
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(COVARIANCE)
    clips = (rng.standard_normal((NUM, FRAMES)) @ root.T).astype(np.float32)
    mask = np.zeros_like(clips)
    mask[:, :KNOWN] = 1
    given = {
        name: jnp.asarray(rows).reshape(NUM, FRAMES, 1, 1, 1)
        for name, rows in (("image", clips * mask), ("mask", mask))
    }
    keys = image_keys(jax.random.key(1), jnp.arange(NUM))
    run = jax.jit(lambda keys: run_stage(stage, Params(None, None), keys, given, None))
    made = np.asarray(run(keys).items, np.float64).reshape(NUM, FRAMES)
    np.testing.assert_array_equal(made[:, :KNOWN], clips[:, :KNOWN])
    return np.mean((made[:, KNOWN] - RHO * made[:, KNOWN - 1]) ** 2) / (1 - RHO**2)


def test_the_default_follows_what_is_known_and_others_less():
    """8,192 clips gave 2.50, 2.02 and 1.08; a mean of 4,096 is within 2%."""
    asked = Extend()
    assert (asked.method, asked.weight, asked.sampler) == (None, 2.0, "ancestral")
    assert METHODS["extend"][0] == "guidance"  # where no method is named
    chain = samplers.ancestral()
    default = seam("guidance", asked.weight, chain)
    weaker = seam("guidance", 1.0, chain)
    replaced = seam("replace", 1.0, chain)
    assert 0.95 <= default <= 1.3
    assert default < 0.7 * weaker < 0.7 * replaced
    # A deterministic chain hardly follows, which is why it is not the default.
    assert seam("guidance", 1.0, samplers.ddim(0.0)) > 3


def test_repaint_is_exact_as_well_at_five_times_the_calls():
    found = seam("repaint", 1.0, samplers.ancestral(), jump_length=2, num_resamples=5)
    assert 0.9 <= found <= 1.2


def test_only_clips_are_made_longer():
    with pytest.raises(UserError, match="items are 8x8x1; name a model of clips"):
        Edit("extend", "guidance").check_shape((8, 8, 1))
    Edit("extend", "guidance").check_shape((8, 8, 8, 1))
