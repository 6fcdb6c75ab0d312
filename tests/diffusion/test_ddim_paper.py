"""DDIM's chains against the formulas of its paper, from betas, in float64 NumPy.

Song et al. 2021: T = 1000 and linear betas, sub-sequences of 10, 20, 50 and 100 steps
(section 5.1, table 1), both the linear and the quadratic one (appendix D.2), by
eq. (12) with the sigma of eq. (16). The paper's alpha is alpha_bar here.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import grids
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.generate import generate, image_keys
from ddpm_jax.diffusion.process import EPS, noise_like
from ddpm_jax.diffusion.samplers import Sampler, ddim
from ddpm_jax.diffusion.schedules import from_betas, linear_betas

KEYS = image_keys(jax.random.key(0), jnp.arange(6))
X_T = np.random.default_rng(0).standard_normal((6, 5))


def eps_of(xp, x, t):
    """Some smooth "network" near the truth for standard normal data: eps ~ x at T."""
    u = t / 1000.0
    return u**0.5 * x + 0.1 * xp.sin(3.0 * x + 7.0 * u)


def chain_of_the_paper(times, eta, noises):
    """Run eq. (12) over tau, given the noise of every step: float64 [6, 5]."""
    alphas = np.concatenate([[1.0], np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))])
    x = X_T
    for (t, s), z in zip(itertools.pairwise([*times[::-1], -1]), noises, strict=True):
        a_t, a_s = alphas[t + 1], alphas[s + 1]
        eps = eps_of(np, x, t)
        std = eta * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
        x0 = (x - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t)
        x = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s - std**2) * eps + std * z
    return x


def with_noise_shown(sampler):
    """The same sampler, whose Info carries its noise as x_t."""

    def step(keys, denoise, state, t, s):
        new, info = sampler.step(keys, denoise, state, t, s)
        return new, info._replace(x_t=noise_like(keys, state.x))

    return Sampler(sampler.init, step)


@pytest.mark.parametrize("spacing", [grids.leading_steps, grids.quadratic_steps])
@pytest.mark.parametrize("num_steps", [10, 20, 50, 100])
def test_chain_is_that_of_the_paper(num_steps, spacing):
    times = spacing(1000, num_steps)
    if spacing is grids.leading_steps:  # tau_i = floor(c i)
        np.testing.assert_array_equal(times, 1000 // num_steps * np.arange(num_steps))
    levels = grids.grid(from_betas(linear_betas(1000)), num_steps, spacing)
    denoise = from_network(
        lambda params, x, t, cond: eps_of(jnp, x, t[:, None]), None, EPS
    )
    sample = jax.jit(
        lambda eta: generate(
            KEYS,
            with_noise_shown(ddim(eta)),
            denoise,
            jnp.asarray(X_T, jnp.float32),
            levels,
            record=lambda info: info.x_t,
            num_records=num_steps,
        )
    )
    for eta in (0.0, 0.2, 0.5, 1.0):  # the etas of table 1
        x, noises = sample(eta)
        expected = chain_of_the_paper(times, eta, np.asarray(noises, np.float64))
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(x, expected, atol=1e-4 * scale)
