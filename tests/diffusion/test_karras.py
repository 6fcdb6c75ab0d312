"""Euler and Heun, with churn and without, against exact flows and exact laws.

With Gaussian data a step with churn is an affine map of y plus noise, so that the law
of what is sampled follows from a float64 recursion in r; statistical tests allow four
standard errors of it.
"""

import functools
import itertools

import flows
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import karras, schedules
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid, karras_grid
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.diffusion.samplers import State, ddim
from ddpm_jax.diffusion.schedules import from_betas

SCHEDULE = from_betas(schedules.linear_betas(100, 1e-3, 0.2))
SAMPLERS = {"euler": karras.euler, "heun": karras.heun}
TWO_MODES = oracles.mixture([0.3, 0.7], [[-0.8, 0.4], [0.6, -0.2]], [0.01, 0.02])


def churn(amount, num_steps, **options):
    return karras.Churn(SCHEDULE, amount, num_steps, **options)


def sample(sampler, denoise, levels, num, dims, seed=0):
    def run(keys):
        return generate(keys, sampler, denoise, initial_noise(keys, (dims,)), levels)[0]

    return jax.jit(run)(image_keys(jax.random.key(seed), jnp.arange(num)))


# --- Without churn --------------------------------------------------------------------


@pytest.mark.parametrize("data", flows.DENOISERS)
@pytest.mark.parametrize(
    ("name", "expected", "at_80"), [("euler", 1, 0.015), ("heun", 2, 5e-4)]
)
def test_order_of_convergence(name, expected, at_80, data):
    counts = [20, 40, 80]
    errors = flows.errors_by_steps(SAMPLERS[name](), data, counts)
    assert abs(flows.fitted_order(errors, counts) - expected) < 0.25, errors
    assert errors[-1] < at_80


def test_euler_is_deterministic_ddim():
    """Karras et al., appendix C.2: two derivations of one step."""
    levels = grid(SCHEDULE, 20)
    one = sample(karras.euler(), TWO_MODES, levels, 20, 2)
    other = sample(ddim(0.0), TWO_MODES, levels, 20, 2)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.max(np.abs(one - sample(karras.heun(), TWO_MODES, levels, 20, 2))) > 1e-3


@pytest.mark.parametrize(
    ("name", "amount", "calls"),
    [("euler", None, 10), ("heun", None, 19), ("heun", 5.0, 19)],
)
def test_calls_of_the_network(name, amount, calls):
    """Heun's rule 2 N - 1; never at the clean end."""
    seen = []

    def denoise(x, level, cond):
        jax.debug.callback(lambda sigma: seen.append(float(sigma)), level.sigma)
        return TWO_MODES(x, level, cond)

    made = SAMPLERS[name](None if amount is None else churn(amount, 10))
    x = sample(made, denoise, grid(SCHEDULE, 10), 3, 2)
    jax.effects_barrier()
    assert len(seen) == calls
    assert min(seen) > 0 and np.all(np.isfinite(x))


# --- Churn ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_churn_0_is_the_deterministic_sampler_to_the_last_bit(name):
    """Operation by operation; compiled, the longer program may be rounded otherwise."""
    levels = grid(SCHEDULE, 5)
    keys = image_keys(jax.random.key(2), jnp.arange(4))
    plain = churned = outside = some = State(initial_noise(keys, (2,)))
    for i in range(5):
        t, s = (jax.tree.map(lambda leaf, j=j: leaf[j], levels) for j in (i, i + 1))
        step = functools.partial(one_step, name, keys, t, s)
        plain = step(plain, None)
        churned = step(churned, churn(0.0, 5))
        outside = step(outside, churn(3.0, 5, low=222.0))  # the largest r is 221.5
        some = step(some, churn(3.0, 5))
        np.testing.assert_array_equal(churned.x, plain.x)
        np.testing.assert_array_equal(outside.x, plain.x)
    assert np.max(np.abs(some.x - plain.x)) > 0.01


def one_step(name, keys, t, s, state, amount):
    return SAMPLERS[name](amount).step(keys, TWO_MODES, state, t, s)[0]


def test_what_a_step_with_churn_asks_the_network():
    """gamma = 4 / 20 = 0.2: the level at 1.2 r, and x there; by hand, for data N(0, 1)
    at a single point, S_noise = 0."""
    told = []

    def denoise(x, level):
        told.append((x, level))
        return Prediction(jnp.zeros_like(x), x / level.sigma)

    t, s = (SCHEDULE.at(jnp.array(step)) for step in (60, 40))
    keys = image_keys(jax.random.key(0), jnp.arange(2))
    made = karras.euler(churn(4.0, 20, noise=0.0))
    state, info = made.step(keys, denoise, State(jnp.full((2, 1), 0.5)), t, s)
    [(x, level)] = told
    r = float(t.sigma / t.alpha)
    np.testing.assert_allclose(level.sigma / level.alpha, 1.2 * r, rtol=1e-6)
    np.testing.assert_allclose(level.sigma**2 + level.alpha**2, 1, rtol=1e-6)
    np.testing.assert_allclose(x / level.alpha, 0.5 / t.alpha, rtol=1e-6)
    t_hat = float(level.t)  # between the table's entries, where 1.2 r is
    around = SCHEDULE.at(jnp.array([int(t_hat), int(t_hat) + 1]))
    low, high = around.sigma / around.alpha
    assert t_hat > 60 and low < 1.2 * r < high
    # x_0 = 0, so y falls with r: y_s = y r_s / (1.2 r).
    r_s = float(s.sigma / s.alpha)
    expected = s.alpha * (0.5 / t.alpha) * r_s / (1.2 * r)
    np.testing.assert_allclose(state.x, np.full((2, 1), expected), rtol=1e-5)
    assert (info.t.t, info.s.t) == (60, 40) and info.x_t[0, 0] == 0.5


@pytest.mark.parametrize(
    ("name", "num_steps", "options"),
    [
        ("euler", 40, {"amount": 8.0}),
        ("heun", 160, {"amount": 8.0}),
        ("heun", 40, {"amount": 1e3}),  # gamma at its bound, sqrt(2) - 1
        ("heun", 40, {"amount": 10.0, "low": 0.5, "high": 1.0, "noise": 1.2}),
    ],
)
def test_churn_samples_the_law_it_must(name, num_steps, options):
    """Mean and covariance of 20,000 draws; with 160 steps they are those of the data.

    With 40 steps of Heun's rule, and without churn, the larger variance is 2 % off;
    the law knows that.
    """
    num = 20000
    root = np.array([[0.7, 0.0], [-0.5, 0.3]])
    mean, covariance = np.array([0.3, -0.2]), root @ root.T
    levels = karras_grid(SCHEDULE, num_steps)
    sampler = SAMPLERS[name](churn(num_steps=num_steps, **options))
    x = sample(sampler, oracles.gaussian(mean, covariance), levels, num, 2)
    x = np.asarray(x, np.float64)
    values, basis = np.linalg.eigh(covariance)
    m, v = law_with_churn(name, basis.T @ mean, values, levels, **options)
    for left_out in {"low", "high", "noise"} & set(options):
        # Ten standard errors: none of them could be lost unnoticed.
        less = {key: value for key, value in options.items() if key != left_out}
        _, other = law_with_churn(name, basis.T @ mean, values, levels, **less)
        assert np.abs(other / v - 1).max() > 10 * np.sqrt(2 / num), left_out
    laws = [(basis @ m, basis @ np.diag(v) @ basis.T)]
    if num_steps == 160:
        laws.append((mean, covariance))
    for m, expected in laws:
        diagonal = np.diag(expected)
        standard_error = np.sqrt((np.outer(diagonal, diagonal) + expected**2) / num)
        assert np.all(np.abs(np.cov(x.T) - expected) < 4 * standard_error)
        assert np.all(np.abs(x.mean(0) - m) < 4 * np.sqrt(diagonal / num))


def law_with_churn(name, mean, values, levels, amount, low=0.0, high=np.inf, noise=1.0):
    """Mean and variance of y at r = 0: Karras et al., Algorithm 2, line by line.

    For N(mean, values) the slope is d(y, r) = r (y - mean) / (values + r^2), so every
    line multiplies y - mean by a number or adds noise to it.
    """
    alpha, sigma = (np.asarray(leaf, np.float64) for leaf in levels[1:])
    r = sigma / alpha
    m, v = -mean + 0.0 * values, np.full_like(mean, 1 / alpha[0] ** 2)
    for t, s in itertools.pairwise(r):
        gamma = min(amount / (len(r) - 1), np.sqrt(2) - 1) if low <= t <= high else 0
        up = t + gamma * t
        v = v + noise**2 * (up**2 - t**2)
        first = up / (values + up**2)
        factor = 1 + (s - up) * first
        if name == "heun" and s > 0:
            second = factor * s / (values + s**2)
            factor = 1 + (s - up) * 0.5 * (first + second)
        m, v = factor * m, factor**2 * v
    return mean + m, v


def test_churn_keeps_the_weights_of_a_mixture():
    num = 10000
    made = karras.heun(churn(20.0, 40))
    x = np.asarray(sample(made, TWO_MODES, karras_grid(SCHEDULE, 40), num, 2))
    left = x[:, 0] < -0.1
    assert abs(left.mean() - 0.3) < 4 * np.sqrt(0.21 / num)
    for side, mean, variance in (
        (left, [-0.8, 0.4], 0.01),
        (~left, [0.6, -0.2], 0.02),
    ):
        standard_error = np.sqrt(variance / side.sum())
        np.testing.assert_allclose(x[side].mean(0), mean, atol=4 * standard_error)


def test_one_program_serves_every_churn_and_seed():
    traces = []
    levels = grid(SCHEDULE, 10)

    @jax.jit
    def run(seed, amount, low, high, noise):
        traces.append(seed)
        keys = image_keys(jax.random.key(seed), jnp.arange(3))
        made = karras.heun(churn(amount, 10, low=low, high=high, noise=noise))
        x_init = initial_noise(keys, (2,))
        return generate(keys, made, TWO_MODES, x_init, levels)[0]

    results = [
        run(0, 0.0, 0.0, jnp.inf, 1.0),
        run(0, 2.0, 0.0, jnp.inf, 1.0),
        run(1, 2.0, 0.0, jnp.inf, 1.0),
        run(0, 2.0, 0.1, 5.0, 1.01),
    ]
    assert len(traces) == 1
    for one, other in itertools.combinations(results, 2):
        assert not np.allclose(one, other)
    np.testing.assert_allclose(
        results[0], sample(karras.heun(), TWO_MODES, levels, 3, 2), atol=1e-6
    )
