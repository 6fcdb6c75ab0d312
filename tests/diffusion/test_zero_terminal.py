"""Rescaling a table to end in pure noise: the properties Lin et al. 2024 state."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.grids import grid, trailing_steps

TABLES = {
    "linear": schedules.linear_betas(1000),
    "quadratic": schedules.quadratic_betas(1000),
    "cosine": schedules.cosine_betas(1000),
    "short": schedules.linear_betas(2, 0.1, 0.2),
}


@pytest.mark.parametrize("name", TABLES)
def test_sqrt_alpha_bar_is_stretched_to_zero_from_the_same_first_level(name):
    old = np.sqrt(oracles.alpha_bars(TABLES[name])[1:])
    betas = schedules.zero_terminal_snr(TABLES[name])
    new = np.sqrt(oracles.alpha_bars(betas)[1:])
    assert betas.dtype == np.float64 and betas[-1] == 1 and new[-1] == 0
    assert new[0] == pytest.approx(old[0], rel=1e-12)
    assert np.all((betas[:-1] > 0) & (betas[:-1] < 1))
    # An affine map is fixed by two of its values, here the ends.
    slope = (new[0] - new[-1]) / (old[0] - old[-1])
    np.testing.assert_allclose(new, new[0] + slope * (old - old[0]), atol=1e-12)


def test_a_small_table_by_hand():
    """betas (0.19, 0.36): sqrt(alpha_bar) = (0.9, 0.72), which becomes (0.9, 0)."""
    betas = schedules.zero_terminal_snr(np.array([0.19, 0.36]))
    np.testing.assert_allclose(betas, [0.19, 1.0], rtol=1e-14)
    # And (0.9, 0.72, 0.36): (0.72 - 0.36) * 0.9 / (0.9 - 0.36) = 0.6.
    betas = schedules.zero_terminal_snr(np.array([0.19, 0.36, 0.75]))
    np.testing.assert_allclose(betas, [0.19, 1 - (0.6 / 0.9) ** 2, 1.0], rtol=1e-14)


def test_a_table_that_ends_in_pure_noise_stays_as_it_is():
    betas = schedules.jsd_betas(100)
    again = schedules.zero_terminal_snr(betas)
    np.testing.assert_allclose(again, betas, rtol=1e-10)


def test_its_levels_end_in_pure_noise_where_sampling_starts():
    schedule = schedules.from_betas(schedules.zero_terminal_snr(TABLES["linear"]))
    last = schedule.at(jnp.int32(999))
    assert (last.alpha, last.sigma) == (0, 1)
    first = grid(schedule, 10, trailing_steps)
    assert first.alpha[0] == 0 and first.alpha[1] > 0
    plain = schedules.from_betas(TABLES["linear"]).at(jnp.int32(0))
    np.testing.assert_allclose(schedule.at(jnp.int32(0)).alpha, plain.alpha, rtol=1e-7)
