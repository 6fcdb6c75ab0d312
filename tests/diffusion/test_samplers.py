"""Samplers run with exact denoisers, against what they must then produce.

With Gaussian data every step of every sampler is an affine map of x plus noise, so the
mean and variance of what it samples follow from a float64 recursion that starts from
betas. It is that law, and not the law of the data, which a chain of finitely many
steps has; statistical tests allow four standard errors.
"""

import itertools

import flows
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import grids, process, schedules
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.karras import euler, heun
from ddpm_jax.diffusion.multistep import dpmpp_2m
from ddpm_jax.diffusion.samplers import State, ancestral, ddim
from ddpm_jax.diffusion.schedules import from_betas

MEAN = np.array([0.0, 0.5, -0.8, 0.2])
VALUES = np.array([1.0, 0.25, 0.01, 0.0])  # variances; the last is a single point
BETAS = schedules.linear_betas(100, 1e-3, 0.2)
SCHEDULE = from_betas(BETAS)
VARIANCES = {"small": process.small_variance, "large": process.large_variance}


def sample(sampler, denoise, levels, num, dims, seed=0):
    """Draw `num` points [num, dims], jitted whole."""

    def run(keys):
        x_init = initial_noise(keys, (dims,))
        return generate(keys, sampler, denoise, x_init, levels)[0]

    x = jax.jit(run)(image_keys(jax.random.key(seed), jnp.arange(num)))
    return np.asarray(x, np.float64)


def chain_of_bars(num_steps):
    """alpha_bar at the levels of the grid, noisiest first, and the grid: [N + 1]."""
    times = np.append(grids.trailing_steps(len(BETAS), num_steps)[::-1], -1)
    return oracles.alpha_bars(BETAS)[times + 1], grid(SCHEDULE, num_steps)


def exact_law(mean, values, bars, stds):
    """Mean and variance of x_0 under the reverse chain: the affine recursion, float64.

    Ho et al. 2020, eq. (7), with E[x_0 | x_t] of N(mean, values) in the place of x_0;
    `stds` (beta, beta_tilde) -> standard deviation of the noise.
    """
    m, v = np.zeros_like(mean), np.ones_like(mean)
    for bar_t, bar_s in itertools.pairwise(bars):
        beta = 1 - bar_t / bar_s
        of_x0 = np.sqrt(bar_s) * beta / (1 - bar_t)
        of_x_t = np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t)
        slope = np.sqrt(bar_t) * values / (bar_t * values + 1 - bar_t)
        offset = mean - slope * np.sqrt(bar_t) * mean
        factor = of_x_t + of_x0 * slope
        std = 0.0 if bar_s == 1 else stds(beta, (1 - bar_s) / (1 - bar_t) * beta)
        m, v = factor * m + of_x0 * offset, factor**2 * v + std**2
    return m, v


# --- Ancestral sampling ---------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [100, 10])
@pytest.mark.parametrize("name", VARIANCES)
def test_algorithm_2_samples_the_law_it_must(name, num_steps):
    """Mean and variance of 20,000 draws, for the full chain and a respaced one."""
    num = 20000
    bars, levels = chain_of_bars(num_steps)
    m, v = exact_law(
        MEAN,
        VALUES,
        bars,
        lambda beta, tilde: np.sqrt(tilde if name == "small" else beta),
    )
    denoise = oracles.gaussian(MEAN, VALUES)
    x = sample(ancestral(VARIANCES[name]), denoise, levels, num, 4)
    error = np.abs(x.mean(0) - m)
    assert np.all(error < 4 * np.sqrt(v / num) + 1e-6), (error, np.sqrt(v / num))
    error = np.abs(x.var(0) - v)
    assert np.all(error < 4 * v * np.sqrt(2 / num) + 1e-6), (x.var(0), v)


def test_each_variance_is_exact_for_the_data_it_is_right_for():
    """Ho et al. 2020, section 3.2: beta for N(0, I), beta_tilde for a single point.

    The law of `exact_law`, which the test above holds the sampler to, is the law of
    the data themselves; the wrong variance misses the standard normal by a tenth.
    """
    bars, _ = chain_of_bars(100)
    normal, point = np.array([0.0]), np.array([0.7])
    _, v = exact_law(normal, np.ones(1), bars, lambda beta, tilde: np.sqrt(beta))
    np.testing.assert_allclose(v, 1, atol=1e-3)  # less the last step's beta_1
    _, v = exact_law(normal, np.ones(1), bars, lambda beta, tilde: np.sqrt(tilde))
    assert 0.5 < v < 0.95
    m, v = exact_law(point, np.zeros(1), bars, lambda beta, tilde: np.sqrt(tilde))
    np.testing.assert_allclose([m, v], [point, [0]], atol=1e-12)


def test_the_optimal_variance_samples_the_data_in_few_steps():
    """With the exact reverse kernels, the last one included, five steps are enough.

    What is left is that x_T is drawn from N(0, 1) and not from the noised data; it
    fades by the factor alpha_bar_T = 2e-5.
    """
    num = 20000
    mean, values = MEAN[:3], VALUES[:3]
    sampler = ancestral(oracles.gaussian_variance(values))
    x = sample(sampler, oracles.gaussian(mean, values), grid(SCHEDULE, 5), num, 3)
    error = np.abs(x.var(0) - values)
    assert np.all(error < 4 * values * np.sqrt(2 / num) + 1e-4), error
    error = np.abs(x.mean(0) - mean)
    assert np.all(error < 4 * np.sqrt(values / num) + 1e-4), error


def test_covariance_of_correlated_data():
    """N(mean, R R^T) in three dimensions; each eigendirection runs its own chain."""
    root = np.array([[0.7, 0.0, 0.0], [0.5, 0.3, 0.0], [-0.4, 0.2, 0.1]])
    values, basis = np.linalg.eigh(root @ root.T)
    mean = np.array([0.3, -0.2, 0.5])
    num = 20000
    bars, levels = chain_of_bars(100)
    m, v = exact_law(basis.T @ mean, values, bars, lambda beta, tilde: np.sqrt(tilde))
    x = sample(ancestral(), oracles.gaussian(mean, root @ root.T), levels, num, 3)
    expected = basis @ np.diag(v) @ basis.T
    error = np.abs(np.cov(x.T) - expected)
    diagonal = np.diag(expected)
    standard_error = np.sqrt((np.outer(diagonal, diagonal) + expected**2) / num)
    assert np.all(error < 4 * standard_error), (np.cov(x.T), expected)
    assert np.all(np.abs(x.mean(0) - basis @ m) < 4 * np.sqrt(diagonal / num))
    assert abs(expected[0, 1]) > 0.2  # the correlation is there to be missed


@pytest.mark.parametrize("sampler", [ancestral(), ddim(0.0)], ids=["ancestral", "ddim"])
def test_weights_of_a_mixture(sampler):
    """30 % of the data lie left: so do 30 % of the samples, about the right centres;
    four standard errors and 1 % for the finite number of steps."""
    num = 10000
    weights, means, variances = [0.3, 0.7], [[-0.8, 0.4], [0.6, -0.2]], [0.01, 0.02]
    denoise = oracles.mixture(weights, means, variances)
    x = sample(sampler, denoise, grid(SCHEDULE, 100), num, 2)
    left = x[:, 0] < -0.1
    assert abs(left.mean() - 0.3) < 4 * np.sqrt(0.21 / num) + 0.01
    for side, mean in zip((left, ~left), means, strict=True):
        np.testing.assert_allclose(x[side].mean(0), mean, atol=0.015)


def test_deterministic_ddim_lands_on_the_data_points():
    points = np.array([[-0.9, 0.1], [0.3, 0.8], [0.5, -0.6]])
    x = sample(ddim(0.0), oracles.finite(points), grid(SCHEDULE, 50), 3000, 2)
    distance = np.linalg.norm(x[:, None] - points, axis=-1)
    assert np.quantile(distance.min(1), 0.99) < 1e-5
    share = np.bincount(distance.argmin(1), minlength=3) / 3000
    np.testing.assert_allclose(share, 1 / 3, atol=0.05)


# --- Identities -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_modes():
    return oracles.mixture([0.3, 0.7], [[-0.8, 0.4], [0.6, -0.2]], [0.01, 0.02])


def test_ancestral_with_the_small_variance_is_ddim_with_eta_one(two_modes):
    levels = grid(SCHEDULE, 30)
    one = sample(ancestral(process.small_variance), two_modes, levels, 50, 2)
    other = sample(ddim(1.0), two_modes, levels, 50, 2)
    np.testing.assert_allclose(one, other, atol=2e-5)
    large = sample(ancestral(process.large_variance), two_modes, levels, 50, 2)
    assert np.max(np.abs(one - large)) > 0.01  # the comparison can fail


def test_ddim_with_eta_zero_is_the_first_order_dpm_solver(two_modes):
    """Lu et al. 2022, "DPM-Solver++", Algorithm 1 of order one, in float64:
    x_s = (sigma_s/sigma_t) x_t - alpha_s (exp(-h) - 1) x_0, h = lambda_s - lambda_t,
    lambda = log(alpha/sigma)."""
    levels = grid(SCHEDULE, 20)
    x = np.asarray(
        initial_noise(image_keys(jax.random.key(3), jnp.arange(9)), (2,)), np.float64
    )
    keys = image_keys(jax.random.key(4), jnp.arange(9))
    step = jax.jit(
        lambda x, t, s: ddim(0.0).step(
            keys, lambda x, t: two_modes(x, t, None), State(x), t, s
        )
    )
    for i in range(19):  # lambda of the clean end is infinite
        t, s = (jax.tree.map(lambda leaf, j=j: leaf[j], levels) for j in (i, i + 1))
        x_t = jnp.asarray(x, jnp.float32)
        state, info = step(x_t, t, s)
        alpha_t, sigma_t, alpha_s, sigma_s = (
            float(leaf) for leaf in (t.alpha, t.sigma, s.alpha, s.sigma)
        )
        h = np.log(alpha_s / sigma_s) - np.log(alpha_t / sigma_t)
        x0 = np.asarray(info.prediction.x0, np.float64)
        x = sigma_s / sigma_t * np.asarray(x_t) - alpha_s * np.expm1(-h) * x0
        np.testing.assert_allclose(state.x, x, atol=1e-6)
        np.testing.assert_array_equal(info.x_t, x_t)
        np.testing.assert_array_equal(info.x_s, state.x)


@pytest.mark.parametrize(
    "sampler",
    [
        ancestral(process.small_variance),
        ancestral(process.large_variance),
        ancestral(process.learned_variance),
        ddim(0.0),
        ddim(0.5),
        ddim(1.0),
        euler(),
        heun(),
        dpmpp_2m(),
    ],
    ids=[
        "small",
        "large",
        "learned",
        "eta=0",
        "eta=0.5",
        "eta=1",
        "euler",
        "heun",
        "2m",
    ],
)
def test_the_last_step_returns_the_predicted_x0_without_noise(two_modes, sampler):
    levels = grid(SCHEDULE, 10)
    t, s = (jax.tree.map(lambda leaf, i=i: leaf[i], levels) for i in (9, 10))
    x = initial_noise(image_keys(jax.random.key(1), jnp.arange(6)), (2,))
    keys = image_keys(jax.random.key(2), jnp.arange(6))

    def denoise(x, level):
        return two_modes(x, level)._replace(fraction=jnp.full_like(x, 0.5))

    state, info = sampler.step(keys, denoise, sampler.init(x), t, s)
    np.testing.assert_allclose(state.x, info.prediction.x0, atol=1e-6)


@pytest.mark.parametrize(("share", "name"), [(0.0, "small"), (1.0, "large")])
def test_learned_variance_has_the_fixed_ones_at_its_ends(two_modes, share, name):
    def denoise(x, level, cond):
        return two_modes(x, level)._replace(fraction=jnp.full_like(x, share))

    levels = grid(SCHEDULE, 30)
    learned = sample(ancestral(process.learned_variance), denoise, levels, 40, 2)
    fixed = sample(ancestral(VARIANCES[name]), two_modes, levels, 40, 2)
    np.testing.assert_allclose(learned, fixed, atol=2e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_noise_of_a_ddim_step_is_as_much_as_the_paper_says(eta):
    """Song et al. 2021, eq. (16): eta sqrt((1 - a_s)/(1 - a_t)) sqrt(1 - a_t/a_s)."""
    bars = oracles.alpha_bars(BETAS)
    a_t, a_s = bars[81], bars[61]
    expected = eta * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
    num = 40000
    keys = image_keys(jax.random.key(5), jnp.arange(num))
    x = jnp.full((num, 1), 0.3)
    denoise = oracles.gaussian(np.zeros(1), np.ones(1))
    state, _ = ddim(eta).step(
        keys, denoise, State(x), SCHEDULE.at(jnp.array(80)), SCHEDULE.at(jnp.array(60))
    )
    spread = float(np.std(np.asarray(state.x, np.float64)))
    assert abs(spread - expected) < 4 * expected / np.sqrt(2 * num) + 1e-7
    # The mean: for standard normal data x_0 = a x_t, eps = sigma x_t.
    kept = np.sqrt(1 - a_s - expected**2)
    mean = 0.3 * (np.sqrt(a_s * a_t) + kept * np.sqrt(1 - a_t))
    assert abs(float(state.x.mean()) - mean) < 4 * expected / np.sqrt(num) + 1e-6


# --- Order of convergence -------------------------------------------------------------


@pytest.mark.parametrize("data", flows.DENOISERS)
@pytest.mark.parametrize(
    ("sampler", "expected", "at_80"),
    [(ddim(0.0), 1, 0.015), (dpmpp_2m(), 2, 5e-4)],
    ids=["ddim", "dpmpp_2m"],
)
def test_order_of_convergence(sampler, expected, at_80, data):
    """Against the exact solution of the probability-flow ODE."""
    counts = [20, 40, 80]
    errors = flows.errors_by_steps(sampler, data, counts)
    assert abs(flows.fitted_order(errors, counts) - expected) < 0.25, errors
    assert errors[-1] < at_80


@pytest.mark.parametrize("sampler", [ddim(0.0), dpmpp_2m()])
def test_one_call_of_the_network_a_step(sampler):
    """And none at the clean end."""
    seen = []

    def denoise(x, level, cond):
        jax.debug.callback(lambda sigma: seen.append(float(sigma)), level.sigma)
        return oracles.gaussian(MEAN, VALUES)(x, level, cond)

    sample(sampler, denoise, grid(SCHEDULE, 10), 3, 4)
    jax.effects_barrier()
    assert len(seen) == 10
    assert min(seen) > 0
