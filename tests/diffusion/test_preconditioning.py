"""EDM's preconditioning against the formulas of the paper, in float64 and in y and r.

The paper's coordinates are y = x_t / alpha, r = sigma / alpha and its table 1; nothing
here shares a line with `preconditioning.edm`, which is written in alpha and sigma.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import losses, process, schedules
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.preconditioning import edm
from ddpm_jax.diffusion.schedules import Level

# The ends of the paper's noise levels, r = 0.002 and 80, as log-SNRs.
ENDS = (-2 * np.log(0.002), -2 * np.log(80.0))
SCHEDULES = {
    "linear_logsnr": schedules.linear_logsnr(*ENDS),
    "cosine": schedules.from_betas(schedules.cosine_betas(1000)),
    "straight": schedules.straight(alpha_min=1 / 81),
}
R = np.array([0.002, 0.05, 0.5, 3.0, 80.0])


def weights(x):
    """A network F, the same in NumPy and JAX: of its input and its time."""
    return 0.9 * x**2 - 0.4 * x


def network(params, x, t, cond):
    del params, cond
    return weights(x) + t[:, None]


def denoised(y, r, s):
    """D(y; r), Karras et al. 2022, eq. (7) with table 1: float64."""
    r = r[:, None]
    skip, out = s**2 / (r**2 + s**2), r * s / np.sqrt(r**2 + s**2)
    into, noise = 1 / np.sqrt(r**2 + s**2), np.log(r) / 4
    return skip * y + out * (weights(into * y) + noise)


def normal(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("s", [0.5, 1.7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_denoiser_is_that_of_the_paper_on_any_schedule(name, s):
    level = SCHEDULES[name].at_logsnr(jnp.asarray(-2 * np.log(R), jnp.float32))
    y = 0.5 * normal(0, (5, 6)) + R[:, None].astype(np.float32) * normal(1, (5, 6))
    x_t = level.alpha[:, None] * y
    found = jax.jit(from_network(network, None, edm(s)))(x_t, level)
    expected = denoised(y.astype(np.float64), R, s)
    np.testing.assert_allclose(found.x0, expected, rtol=2e-5, atol=2e-5)
    again = process.add_noise(found.x0, found.eps, level)
    np.testing.assert_allclose(again, x_t, rtol=1e-5, atol=1e-5)


def test_the_exploding_process_of_the_paper_is_a_schedule_like_others():
    level = Level(jnp.zeros(5), jnp.ones(5), jnp.asarray(R, jnp.float32))
    y = normal(2, (5, 6)) * R[:, None].astype(np.float32)
    found = from_network(network, None, edm())(y, level)
    expected = denoised(y.astype(np.float64), R, 0.5)
    np.testing.assert_allclose(found.x0, expected, rtol=1e-5, atol=1e-5)


def test_the_mean_square_of_the_output_is_the_loss_of_the_paper():
    """lambda(r) |D - y|^2, lambda = (r^2 + s^2) / (r s)^2, of the same draws; and the
    network sees in training what it sees in sampling."""
    schedule, s = SCHEDULES["linear_logsnr"], 0.5
    x0 = jnp.asarray(0.5 * normal(3, (64, 6)))
    kind = edm(s)
    found, noised = losses.training_loss(
        jax.random.key(0),
        network,
        None,
        x0,
        schedule=schedule,
        loss=losses.simple_loss(kind),
        network_input=kind.network_input,
    )
    alpha, sigma = (np.asarray(a, np.float64) for a in noised.t[1:])
    r = sigma / alpha
    off = denoised(np.asarray(noised.x_t, np.float64) / alpha[:, None], r, s) - x0
    expected = (r**2 + s**2) / (r * s) ** 2 * np.mean(np.asarray(off) ** 2, axis=1)
    # x_0 is a difference of numbers as large as r: float32 draws, float64 formula.
    np.testing.assert_allclose(found, expected, rtol=5e-3)


def test_input_and_target_have_unit_variance():
    """What the scales are for: 20,000 numbers of N(0, s^2) at each level."""
    s, schedule = 0.3, SCHEDULES["straight"]
    x0, eps = normal(4, (2, 5, 20_000))
    level = schedule.at_logsnr(jnp.asarray(-2 * np.log(R), jnp.float32))
    x_t = process.add_noise(s * x0, eps, level)
    kind = edm(s)
    for values in (kind.network_input(x_t, level)[0], kind.target(s * x0, eps, level)):
        np.testing.assert_allclose(np.var(values, axis=1), 1, atol=5 * 0.01)


def test_with_unit_data_it_is_minus_v_of_a_path_that_preserves_variance():
    level = SCHEDULES["cosine"].at(jnp.array([0, 300, 700, 998]))
    x0, eps = normal(5, (2, 4, 3))
    kind = edm(1.0)
    x_t = process.add_noise(x0, eps, level)
    target = kind.target(x0, eps, level)
    np.testing.assert_allclose(
        target, -process.v_from_x0_eps(x0, eps, level), atol=1e-6
    )
    np.testing.assert_allclose(kind.network_input(x_t, level)[0], x_t, atol=1e-6)


def test_it_is_finite_at_both_ends():
    level = Level(jnp.float32([999, -1]), jnp.float32([0, 1]), jnp.float32([1, 0]))
    x0, eps = normal(6, (2, 2, 3))
    kind = edm()
    x_t = jnp.asarray([eps[0], x0[1]])
    found = kind.predict(kind.target(x0, eps, level), x_t, level)
    np.testing.assert_allclose(found.x0, x0, atol=1e-6)
    np.testing.assert_allclose(found.eps, eps, atol=1e-6)
    _, time = kind.network_input(x_t, level)
    np.testing.assert_array_equal(time, [10, -10])
