"""What memory cannot hold is refused before it is allocated, with what would fit."""

import dataclasses

import pytest
from settings import default

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo, sizes
from ddpm_jax.cli import override
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Evaluate, Likelihood, Sample
from ddpm_jax.runtime import capacity

INFO = DataInfo("pictures", (8, 8, 3), None, "0")


SMALL = default(
    *("network.channels=32", "network.channel_multipliers=1,2"),
    *("network.attention_resolutions=", "network.num_res_blocks=3"),
).task


def test_the_least_that_an_image_needs_on_its_way():
    # Inputs of three blocks at 8x8 of 32 channels, and at 4x4 of 64, of 4 bytes each.
    assert sizes.least_bytes(SMALL, INFO) == 4 * 3 * (8 * 8 * 32 + 4 * 4 * 64)
    patched = dataclasses.replace(SMALL, network=SMALL.network.clone(patch=2))
    assert sizes.least_bytes(patched, INFO) == 4 * 3 * (4 * 4 * 32 + 2 * 2 * 64)


@pytest.mark.parametrize(
    ("sample", "memory", "fits"),
    [
        # 192 bytes an image.
        (
            {"num_images": 1001, "batch_size": 1},
            192_000,
            "num_images=1001 .* use 1,000",
        ),
        # 36,864 bytes on the way of each.
        ({"batch_size": 11, "num_images": 64}, 400_000, "batch_size=11 .* use 10"),
        # x_t and x0 of 4 + 1 bytes a value: 1,920 bytes in each of 20 frames.
        (
            {"film_images": 8, "film_frames": 20, "num_images": 8, "batch_size": 8},
            300_000,
            "film_images=8 .* use 7",
        ),
    ],
)
def test_what_is_beyond_memory_is_refused_with_what_fits(
    sample, memory, fits, monkeypatch
):
    asked = Sample(**sample)
    monkeypatch.setattr(sizes, "memory_here", lambda: memory)
    with pytest.raises(UserError, match=f"config.sample.{fits} or fewer"):
        assembly.check_sample(SMALL, INFO, asked)
    monkeypatch.setattr(sizes, "memory_here", lambda: 2 * memory)
    assembly.check_sample(SMALL, INFO, asked)
    monkeypatch.setattr(sizes, "memory_here", lambda: None)  # not known
    assembly.check_sample(SMALL, INFO, asked)


def test_a_batch_to_be_measured_has_to_fit_as_well(monkeypatch):
    monkeypatch.setattr(sizes, "memory_here", lambda: 4 * 192 * 10)
    assembly.check_likelihood(SMALL, INFO, Likelihood(batch_size=10))
    said = r"config\.likelihood\.batch_size=11 .* use 10 or fewer"
    with pytest.raises(UserError, match=said):
        assembly.check_likelihood(SMALL, INFO, Likelihood(batch_size=11))


def test_an_image_that_no_memory_holds_is_to_be_smaller():
    with pytest.raises(UserError, match=r"takes 2.00 GB .* 1.00 GB .* smaller images"):
        capacity.check("config.sample.num_images", 1, 2 * 10**9, 10**9)


@pytest.mark.parametrize("option", ["schedule.num_levels", "evaluate.num_seeds"])
def test_a_number_beyond_any_use_is_refused(option):
    said = rf"config\.{option}=1000000000 is out of range"
    with pytest.raises(UserError, match=said):
        override(default(), [f"--config.{option}=1000000000"])


def test_a_request_beyond_any_use_is_refused():
    with pytest.raises(UserError, match=r"config\.evaluate\.num_seeds=10001 is out of"):
        Evaluate(num_seeds=10_001)
