"""Inpainting of a coordinate against the conditional law of a mixture, in the plane.

Of Gaussians of one deviation the law of y given x is a mixture on the line, of the same
deviation: center k has the weight N(x; c_kx, s^2).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ddpm_jax.data.points import MIXTURES
from ddpm_jax.diffusion.editing import inpaint, repaint_grid
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import small_variance
from ddpm_jax.diffusion.samplers import ancestral
from ddpm_jax.diffusion.schedules import cosine_betas, from_betas

NUM, RING = 2000, MIXTURES["ring"]


def distance_to_the_law(y, x):
    """Return the largest difference of the distribution functions of y given x."""
    weight = norm.pdf(x, RING.centers[:, 0], RING.std)
    cumulative = norm.cdf(np.sort(y)[:, None], RING.centers[:, 1], RING.std)
    exact = cumulative @ (weight / weight.sum())
    return np.abs(exact - (np.arange(NUM) + 0.5) / NUM).max()


@functools.cache
def sampler_of(visits):
    """Compile (key, x) -> points of the ring [NUM, 2] whose first coordinate is x."""
    levels = repaint_grid(grid(from_betas(cosine_betas(1000)), 50), 1, visits)
    denoise = mixture_denoiser(RING.centers, RING.std)

    @jax.jit
    def sampled(key, x):
        sampler = inpaint(
            ancestral(small_variance), jnp.array([x, 0.0]), jnp.array([1.0, 0.0])
        )
        keys = image_keys(key, jnp.arange(NUM))
        return generate(keys, sampler, denoise, initial_noise(keys, (2,)), levels)[0]

    return sampled


@pytest.mark.parametrize("x", [0.0, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_coordinate_of_the_ring_is_drawn_given_the_other(seed, x):
    """Two centers have this x. Exact draws differ by 0.036 in one of 100.

    The small variance makes the spread too small, by 0.06 of the distribution function
    in 50 steps; the law of the other x differs by more than 0.2.
    """
    made = np.asarray(sampler_of(10)(jax.random.key(seed), x))
    np.testing.assert_array_equal(made[:, 0], np.full(NUM, x, np.float32))
    y = made[:, 1]
    assert distance_to_the_law(y, x) < 0.13 < distance_to_the_law(y, 1.0 - x) - 0.07
    assert abs(np.mean(y > 0) - 0.5) < 5 * 0.5 / np.sqrt(NUM)


def test_more_visits_bring_more_to_a_center_that_stands_alone():
    """On x = sqrt(2) the ring has one: 44% end there with one visit, 70% with ten."""
    x, share = float(np.sqrt(2)), {}
    for visits in (1, 10):
        y = np.asarray(sampler_of(visits)(jax.random.key(0), x))[:, 1]
        share[visits] = np.mean(np.abs(y) < 3 * RING.std)
    assert 0.35 < share[1] < share[10] - 0.15
