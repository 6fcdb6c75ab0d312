"""Families on images in small, and the bits of diffusion where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import families_images
from benchmarks.families_images import Images, Recipe, chain_levels, diffusion_bits
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.diffusion.schedules import from_betas, linear_betas
from ddpm_jax.runtime import files


@pytest.mark.parametrize("noise", [0.02, 0.04])
def test_bits_of_a_finite_set_are_the_logarithm_of_its_size(noise):
    """Of five items, equally likely, each has log2 5 bits: 0.58 a dimension of four.

    The chain's steps are Gaussians, which costs it, less the more there are.
    """
    levels = np.random.default_rng(0).integers(0, 17, (5, 4))
    items = jnp.asarray(levels / 8.0 - 1.0, jnp.float32)
    exact, schedule = (
        mixture_denoiser(np.asarray(items)),
        from_betas(linear_betas(1000)),
    )
    keys = image_keys(jax.random.key(0), jnp.arange(500))
    found = [
        diffusion_bits(
            exact,
            chain_levels(schedule, noise, num_steps),
            keys,
            jnp.tile(items, (100, 1)),
            num_values=17,
            width=0.005,
        )
        for num_steps in (100, 900)
    ]
    gaps = [float(bits.mean()) - np.log2(5) / 4 for bits in found]
    errors = [float(bits.std()) / 500**0.5 for bits in found]
    assert -3 * errors[1] < gaps[1] < 0.03 + 3 * errors[1]
    assert gaps[1] < gaps[0] < 0.3


def test_a_family_is_timed_trained_and_scored_once(tmp_path, capsys, monkeypatch):
    tiny = Images(
        {
            "flow": Recipe(
                "digits_glow",
                (
                    *("network.num_scales=1", "network.num_steps=1"),
                    "network.width=4",
                ),
            )
        },
        Recipe(
            "digits_features",
            (
                *("training.num_steps=2", "training.warmup_steps=0"),
                *("network.num_features=4", "network.channels=4"),
                *("network.num_groups=4", "network.channel_multipliers=(1,)"),
            ),
        ),
        batch_size=8,
        num_values=17,
        num_images=12,
        num_bits=4,
    )
    monkeypatch.setitem(families_images.SETS, "digits", tiny)
    for name, value in {"_TIMED": 2, "_WINDOW": 1, "_SPEED_BATCH": 4}.items():
        monkeypatch.setattr(families_images, name, value)
    folder = tmp_path / "digits"
    folder.mkdir()
    files.write_json(folder / "steps.json", {"flow": [0.5]})
    line = [
        *("--families=flow", "--seconds=2", "--seeds=1", "--repeats=2"),
        f"--workdir={tmp_path}",
    ]
    assert families_images.start(line) == 0
    steps = files.read_json(folder / "steps.json")
    assert len(steps["flow"]) == 2
    found = files.read_json(folder / "flow-0.json")
    assert found["num_steps"] == max(2, round(2 / min(steps["flow"])))
    assert found["finite"] and 0 <= found["recall"] <= 1 and found["bits"] > 0.1
    assert found["frechet_distance"] > 0 and found["images_per_second"] > 0
    first = capsys.readouterr().out
    assert "| flow |" in first and "of 1 |" in first
    assert families_images.start(line) == 0  # nothing is done again
    again = capsys.readouterr().out
    assert first.splitlines()[-3:] == again.splitlines()[-3:]
