"""The density by the ODE against exact densities of mixtures, in float64.

No estimate enters where the trace is exact: what is left is the solver's error and
float32. The cosine schedule ends so deep in noise (alpha_T = 5e-5) that N(0, I) is the
data's own p_T; on the linear one the two are told apart.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import ode_likelihood, schedules
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.diffusion.variational_bound import variational_bound

WEIGHTS = [0.3, 0.7]
MEANS = np.array([[0.5, -0.2, 0.1], [-0.4, 0.3, -0.6]])
VARIANCES = np.array([0.02, 0.05])
DIMS = 3
DENOISE = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
COSINE = schedules.from_betas(schedules.cosine_betas(1000))
LINEAR = schedules.from_betas(schedules.linear_betas(1000))
ADAPTIVE = ode_likelihood.adaptive(rtol=1e-5, atol=1e-5)
FIXED = ode_likelihood.runge_kutta(50)


def data(num, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.choice(2, num, p=WEIGHTS)
    noise = rng.normal(size=(num, DIMS)) * np.sqrt(VARIANCES[which])[:, None]
    return MEANS[which] + noise


def keys_of(num, seed=3):
    return image_keys(jax.random.key(seed), jnp.arange(num))


@partial(jax.jit, static_argnames=("schedule", "solve"))
def run(x, probes, first, schedule, solve):
    return ode_likelihood.follow_flow(
        DENOISE,
        x,
        schedule.at(first),
        schedule.at(jnp.int32(999)),
        schedule=schedule,
        probes=probes,
        solve=solve,
    )


def follow(x, schedule=COSINE, *, first=-1, solve=ADAPTIVE, probes=None):
    """Follow data from a level's t to t = T - 1; leaves in float64."""
    x = jnp.asarray(x, jnp.float32)
    probes = ode_likelihood.exact_probes(x) if probes is None else probes
    flow = run(x, probes, jnp.int32(first), schedule, solve)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), flow)


def exact(x, level):
    """Nats per dimension of y = x_0 + (sigma / alpha) eps at a level."""
    alpha, sigma = float(level.alpha), float(level.sigma)
    density = oracles.mixture_log_density(
        alpha * x, WEIGHTS, MEANS, VARIANCES, alpha, sigma
    )
    return density / x.shape[1] + np.log(alpha)


# --- The density ----------------------------------------------------------------------


@pytest.mark.parametrize("first", [-1, 100])
@pytest.mark.parametrize("solve", [ADAPTIVE, FIXED], ids=["adaptive", "fixed"])
def test_density_of_a_mixture_is_exact(first, solve):
    """To 1e-3 nats/dim of each of 64 points, at the clean end and well away from it.

    Measured: 1e-4 at most, and 3e-5 for the 50 steps of fixed size. At t = 100 sigma is
    0.16 and the density another one altogether.
    """
    x = data(64)
    flow = follow(x, first=first, solve=solve)
    expected = exact(x, COSINE.at(jnp.asarray(first)))
    assert np.abs(flow.log_density - expected).max() < 2e-4


def test_the_error_on_the_linear_schedule_is_that_of_the_prior():
    """alpha_T = 6e-3: N(0, I) is not quite p_T. Put p_T in its place, and it is exact.

    The oracle gives log p_T at the points where the flow arrives.
    """
    x = data(64)
    flow = follow(x, LINEAR, solve=FIXED)
    expected = exact(x, LINEAR.at(jnp.asarray(-1)))
    off = flow.log_density - expected
    assert 1e-3 < np.abs(off).max() < 1e-2
    end = LINEAR.at(jnp.asarray(999))
    true = oracles.mixture_log_density(
        flow.x_T, WEIGHTS, MEANS, VARIANCES, float(end.alpha), float(end.sigma)
    )
    normal = -0.5 * np.sum(flow.x_T**2 + np.log(2 * np.pi), axis=-1)
    assert np.abs(off - (normal - true) / DIMS).max() < 2e-4


def test_the_fixed_steps_are_of_order_four():
    """On dx/du = x cos u, solved by exp(sin u - sin 1): within 0.25 of 4."""
    counts, start, end = np.array([16, 24, 32]), 1.0, 4.0
    errors = []
    for count in counts:
        solve = ode_likelihood.runge_kutta(int(count))
        x, calls = solve(lambda u, x: x * jnp.cos(u), jnp.ones(()), start, end)
        assert calls == 4 * count
        errors.append(abs(float(x) - np.exp(np.sin(end) - np.sin(start))))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -4.25 < slope < -3.75, (slope, errors)


def test_a_looser_tolerance_takes_fewer_calls_and_errs_more():
    x = data(64)
    loose = follow(x, solve=ode_likelihood.adaptive(rtol=1e-2, atol=1e-2))
    tight = follow(x, solve=ADAPTIVE)
    expected = exact(x, COSINE.at(jnp.asarray(-1)))
    assert loose.num_calls.max() < tight.num_calls.min()
    assert (
        np.abs(loose.log_density - expected).mean()
        > 10 * np.abs(tight.log_density - expected).mean()
    )


def test_the_calls_of_the_adaptive_steps_are_counted():
    called = []

    def slope(u, x):
        jax.debug.callback(lambda: called.append(1))
        return x * jnp.cos(u)

    x, calls = ADAPTIVE(slope, jnp.ones(()), 1.0, 4.0)
    jax.effects_barrier()
    np.testing.assert_allclose(x, np.exp(np.sin(4.0) - np.sin(1.0)), rtol=1e-4)
    assert calls == len(called) > 12


def test_too_few_steps_are_not_passed_off_as_an_answer():
    flow = follow(data(64), solve=ode_likelihood.adaptive(max_steps=3))
    assert np.isnan(flow.log_density).all()


def test_an_image_does_not_depend_on_its_batch():
    """Each takes steps of its own: an outlier among them changes nothing."""
    x = data(64)
    x[5] = 1.9
    together = follow(x)
    alone = follow(x[2:4])
    assert len(set(together.num_calls)) > 1
    np.testing.assert_allclose(
        together.log_density[2:4], alone.log_density, rtol=0, atol=5e-5
    )
    # Rounding may decide whether a step is taken or tried again, of 7 calls at most.
    assert np.abs(together.num_calls[2:4] - alone.num_calls).max() <= 7


def test_the_flow_carries_data_to_noise():
    """x_T is standard normal: means and variances of 2000 within 4 standard errors."""
    num = 2000
    flow = follow(data(num), solve=ode_likelihood.runge_kutta(25))
    assert np.abs(flow.x_T.mean(0)).max() < 4 / np.sqrt(num)
    assert np.abs(flow.x_T.var(0) - 1).max() < 4 * np.sqrt(2 / num)


# --- The trace ------------------------------------------------------------------------


def test_exact_probes_give_the_trace_of_a_matrix():
    matrix = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    x = jnp.ones((1, 2, 3))

    def function(x):
        return jnp.sin(x) + (jnp.asarray(matrix) @ x.reshape(-1)).reshape(x.shape)

    value, trace = ode_likelihood.value_and_trace(
        function, x[0], ode_likelihood.exact_probes(x)[0]
    )
    np.testing.assert_allclose(value, function(x[0]))
    np.testing.assert_allclose(trace, np.trace(matrix) + 6 * np.cos(1.0), rtol=1e-5)


def test_signs_estimate_the_trace_without_bias_and_with_the_known_variance():
    """Mean tr A and variance 2 sum_{i<j} ((A_ij + A_ji) / sqrt 2)^2, by hand."""
    matrix = np.random.default_rng(2).normal(size=(5, 5))
    num = 20_000
    probes = ode_likelihood.sign_probes(keys_of(1), jnp.ones((1, 5)), num)[0]
    assert set(np.unique(probes)) == {-1.0, 1.0}
    estimates = jax.vmap(
        lambda v: ode_likelihood.value_and_trace(
            lambda x: jnp.asarray(matrix, jnp.float32) @ x, jnp.ones(5), v[None]
        )[1]
    )(probes)
    estimates = np.asarray(estimates, np.float64)
    both = (matrix + matrix.T)[np.triu_indices(5, 1)]
    variance = np.sum(both**2)
    standard_error = np.sqrt(variance / num)
    assert abs(estimates.mean() - np.trace(matrix)) < 4 * standard_error
    fourth = np.mean((estimates - estimates.mean()) ** 4)
    error = np.sqrt((fourth - variance**2) / num)
    assert abs(estimates.var() - variance) < 4 * error


def test_the_density_by_signs_is_that_by_the_exact_trace_on_average():
    """One point, 400 draws of the signs: the mean within 4 standard errors.

    The path does not depend on the signs, so the estimate is unbiased in the density.
    """
    x = np.tile(data(1, seed=4), (400, 1))
    probes = ode_likelihood.sign_probes(keys_of(400), jnp.asarray(x), 1)
    solve = ode_likelihood.runge_kutta(20)
    estimates = follow(x, solve=solve, probes=probes).log_density
    expected = follow(x[:1], solve=solve).log_density
    standard_error = estimates.std(ddof=1) / np.sqrt(400)
    assert standard_error > 1e-3  # signs do scatter
    assert abs(estimates.mean() - expected[0]) < 4 * standard_error
    many = ode_likelihood.sign_probes(keys_of(400, seed=5), jnp.asarray(x), 4)
    fewer = follow(x, solve=solve, probes=many).log_density
    # A ratio of two sample variances of 400: 4 standard errors are a factor 1.75.
    assert 4 / 1.75 < estimates.var() / fewer.var() < 4 * 1.75


# --- Bytes ----------------------------------------------------------------------------


def test_uniform_bytes_cost_eight_bits():
    """The density of the union of all 256 bins is 255/512, everywhere: 8 bits."""
    log_density = -np.log(2 + 2 / 255)
    np.testing.assert_allclose(ode_likelihood.bits_of_density(log_density), 8.0)
    # Two values, +1 and -1, have bins of width 2: 1 bit.
    np.testing.assert_allclose(ode_likelihood.bits_of_density(-np.log(4.0), 2), 1.0)


def test_dequantised_bytes_fill_their_bins_evenly():
    values = np.array([-1.0, 3 / 127.5 - 1, 1.0])
    num = 4000
    x = jnp.asarray(np.tile(values, (num, 1)), jnp.float32)
    spread = np.asarray(ode_likelihood.dequantize(keys_of(num), x), np.float64) - values
    width = 2 / 255
    assert np.abs(spread).max() <= width / 2 + 1e-7
    assert np.abs(spread.mean(0)).max() < 4 * width / np.sqrt(12 * num)
    # The variance of a uniform square: w^4 (1/80 - 1/144).
    error = width**2 * np.sqrt((1 / 80 - 1 / 144) / num)
    assert np.abs(spread.var(0) - width**2 / 12).max() < 4 * error


def test_bits_of_bytes_lie_just_above_their_entropy():
    """Mixture data rounded to bytes: the density's bits against the true code length.

    The probability of a byte vector is the mixture's integral over its box, which is
    wide against none of the densities, so that the gap of Jensen's inequality (5) is
    small: measured 2e-5 bits/dim at 2e-4 of standard error. Values beyond [-1, 1] are
    not drawn.
    """
    x = data(4000, seed=6)
    x = oracles.quantize(x[np.abs(x).max(1) < 1])
    keys = keys_of(len(x))
    spread = ode_likelihood.dequantize(keys, jnp.asarray(x, jnp.float32))
    flow = follow(np.asarray(spread), solve=ode_likelihood.runge_kutta(25))
    bits = ode_likelihood.bits_of_density(flow.log_density)
    # The box is so small that the integral is value times volume, corrected to second
    # order: E over the box, by the 3-point Gauss rule in each dimension.
    nodes, weights = np.polynomial.legendre.leggauss(3)
    grid_of_nodes = np.stack(np.meshgrid(*[nodes] * DIMS), -1).reshape(-1, DIMS) / 255
    shares = np.prod(np.stack(np.meshgrid(*[weights / 2] * DIMS), -1), -1).reshape(-1)
    log_p = [
        oracles.mixture_log_density(x + z, WEIGHTS, MEANS, VARIANCES, 1.0, 0.0)
        for z in grid_of_nodes
    ]
    box = np.log(np.exp(np.array(log_p)).T @ shares) + DIMS * np.log(2 / 255)
    truth = -box / np.log(2) / DIMS
    off = np.asarray(bits) - truth
    standard_error = off.std(ddof=1) / np.sqrt(len(off))
    assert standard_error < 1e-3
    # Above it by Jensen's gap, which is of the order of (width / deviation)^2.
    assert -4 * standard_error < off.mean() < 4 * standard_error + 1e-3


def test_the_bound_lies_above_the_ode_and_near_it():
    """Two likelihoods of one exact model, whose reverse kernels the bound knows.

    For Gaussian data these are Gaussian, so that nothing of the bound is lost: measured
    on 10,000 images, the two differ by 2e-5 bits/dim at 9e-3 of standard error.
    """
    num, values = 4000, np.array([0.09, 0.04])
    mean = np.array([0.1, -0.2])
    each = oracles.gaussian(mean, values)
    rng = np.random.default_rng(7)
    x = oracles.quantize(mean + rng.normal(size=(num, 2)) * np.sqrt(values))
    x, keys = jnp.asarray(x, jnp.float32), keys_of(num)

    @jax.jit
    def both(keys, x):
        bound = variational_bound(
            keys,
            each,
            x,
            grid(COSINE, 1000),
            variance=oracles.gaussian_variance(values),
        )
        flow = ode_likelihood.follow_flow(
            each,
            ode_likelihood.dequantize(keys, x),
            COSINE.at(jnp.asarray(-1)),
            COSINE.at(jnp.asarray(999)),
            schedule=COSINE,
            probes=ode_likelihood.exact_probes(x),
            solve=ode_likelihood.runge_kutta(50),
        )
        return bound.total, ode_likelihood.bits_of_density(flow.log_density)

    bound, bits = (np.asarray(a, np.float64) for a in both(keys, x))
    gap = bound - bits
    standard_error = gap.std(ddof=1) / np.sqrt(num)
    assert -4 * standard_error < gap.mean() < 0.02 + 4 * standard_error
    assert standard_error < 0.02


def test_conditions_reach_the_denoiser_row_by_row():
    """Standard normal data about a mean told by the condition: the exact densities."""

    def denoise(x_t, level, cond):
        off = x_t - level.alpha * cond["mean"]
        x0 = cond["mean"] + level.alpha * off
        return Prediction(x0, level.sigma * off)

    means = jnp.array([[0.0, 0.0], [3.0, -1.0]])
    x = jnp.array([[0.5, 0.5], [0.5, 0.5]])
    flow = ode_likelihood.follow_flow(
        denoise,
        x,
        COSINE.at(jnp.asarray(-1)),
        COSINE.at(jnp.asarray(999)),
        schedule=COSINE,
        probes=ode_likelihood.exact_probes(x),
        solve=ode_likelihood.runge_kutta(50),
        cond={"mean": means},
    )
    off = np.asarray(x - means)
    expected = -0.5 * (np.mean(off**2, -1) + np.log(2 * np.pi))
    np.testing.assert_allclose(flow.log_density, expected, atol=3e-4)
