"""The bound against exact values: closed forms, SciPy, quadrature, in float64.

With Gaussian data and the exact denoiser each term of the bound has a closed form. The
Monte Carlo estimate must meet it within 4.5 standard errors (a hundred terms are
compared at once).
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.stats import norm

from ddpm_jax.diffusion import process, schedules, variational_bound
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.schedules import from_betas
from ddpm_jax.errors import UserError

decode = jax.jit(
    variational_bound.discretized_log_likelihood, static_argnames="num_values"
)
LOG_2 = np.log(2)
MEAN, VALUE = 0.1, 0.09  # of the data: three standard deviations fit into [-1, 1]
DIMS = 16
DENOISE = oracles.gaussian(np.full(DIMS, MEAN), np.full(DIMS, VALUE))
BETAS = schedules.linear_betas(50, 2e-3, 0.3)


def data(num, seed=0):
    """Gaussian data as 8-bit values on [-1, 1]: float64 [num, DIMS]."""
    rng = np.random.default_rng(seed)
    return oracles.quantize(rng.normal(MEAN, np.sqrt(VALUE), (num, DIMS)))


def estimate(denoise, x0, betas, variance):
    """The bound of each image, jitted whole; leaves in float64."""
    levels = grid(from_betas(betas), len(betas))
    keys = image_keys(jax.random.key(7), jnp.arange(len(x0)))

    def run(keys, x0):
        return variational_bound.variational_bound(
            keys, denoise, x0, levels, variance=variance
        )

    bound = jax.jit(run)(keys, jnp.asarray(x0, jnp.float32))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), bound)


def log_bin(x0, mean, std):
    """log of the normal probability of the bin of x0, from whichever tail is exact."""
    upper, lower = (x0 - mean + 1 / 255) / std, (x0 - mean - 1 / 255) / std
    upper = np.where(x0 > 1 - 1 / 255, np.inf, upper)
    lower = np.where(x0 < -1 + 1 / 255, -np.inf, lower)
    upper, lower = (
        np.where(lower > 0, -lower, upper),
        np.where(lower > 0, -upper, lower),
    )
    log_upper, log_lower = norm.logcdf(upper), norm.logcdf(lower)
    return log_upper + np.log(-np.expm1(log_lower - log_upper))


def assert_meets(sampled, expected, room=0.0):
    """Hold the mean over images [..., B] to expectations of the same shape."""
    off = sampled - expected
    standard_error = off.std(-1) / np.sqrt(off.shape[-1])
    error = np.abs(off.mean(-1))
    worst = np.max(error / (4.5 * standard_error + room))
    assert worst < 1, worst


# --- Parts ----------------------------------------------------------------------------


def test_kl_by_hand():
    """KL(N(0,1) || N(1,4)) = log 2 + (1 + 1)/8 - 1/2; of equals, exactly 0."""
    kl = variational_bound.gaussian_kl(0.0, jnp.float32(1), 1.0, jnp.float32(4))
    np.testing.assert_allclose(kl, LOG_2 + 0.25 - 0.5, rtol=1e-6)
    same = variational_bound.gaussian_kl(0.3, jnp.float32(0.7), 0.3, jnp.float32(0.7))
    assert same == 0


@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-3])
@pytest.mark.parametrize("variance", [1.0, 1e-2, 1e-5])
def test_kl_of_nearly_equal_gaussians(apart, variance):
    """Variances a factor 1 + apart from each other: float64 from the same inputs.

    What is left of v1/v2 - 1 - log(v1/v2) is apart^2 / 2, out of terms of size apart;
    measured, the whole is off by 1e-4 of itself at apart = 1e-3 and by less elsewhere.
    """
    v1 = np.float32(variance)
    v2 = np.float32(variance * (1 + apart))
    m1, m2 = np.float32(0.0), np.float32(apart * np.sqrt(variance))
    exact1, exact2, gap = float(v1), float(v2), float(m1) - float(m2)
    ratio = exact1 / exact2
    expected = 0.5 * (ratio - 1 - np.log(ratio) + gap**2 / exact2)
    kl = variational_bound.gaussian_kl(*(jnp.asarray(a) for a in (m1, v1, m2, v2)))
    np.testing.assert_allclose(kl, expected, rtol=4e-4)


@pytest.mark.parametrize("std", [1e-5, 1e-3, 7.4e-3, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("mean", [-1.4, -1.0, 0.0021, 0.5, 0.9999])
def test_probabilities_of_the_256_values_sum_to_one(mean, std):
    values = jnp.asarray(np.linspace(-1, 1, 256), jnp.float32)
    log_p = decode(values, jnp.float32(mean), jnp.float32(std))
    total = np.exp(np.asarray(log_p, np.float64)).sum()
    np.testing.assert_allclose(total, 1, atol=3e-5)


@pytest.mark.parametrize("std", [1e-3, 7.4e-3, 0.1, 1.0])
def test_probability_of_a_bin_is_that_of_scipy(std):
    """To 1e-3 of the nats, from the middle of the bin to 200 standard deviations."""
    values = np.linspace(-1, 1, 256).astype(np.float32)
    mean = np.float32(0.3)
    expected = log_bin(values.astype(np.float64), float(mean), float(np.float32(std)))
    log_p = decode(jnp.asarray(values), jnp.asarray(mean), jnp.float32(std))
    np.testing.assert_allclose(log_p, expected, rtol=1e-4, atol=1e-3)


def test_probability_of_a_bin_with_other_than_256_values():
    """Two values, -1 and 1, split the line at 0: P(1) = Phi(mean / std)."""
    log_p = decode(
        jnp.array([-1.0, 1.0]), jnp.float32(0.3), jnp.float32(0.5), num_values=2
    )
    np.testing.assert_allclose(np.exp(log_p[1]), norm.cdf(0.6), rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_p[0]), norm.cdf(-0.6), rtol=1e-5)


@pytest.mark.parametrize("std", [1e-6, 7.4e-3, 30.0])
def test_gradients_of_the_decoder_are_finite_everywhere(std):
    """Also at the two open bins and a thousand standard deviations away."""
    x0 = jnp.array([-1.0, -1.0, 1.0, 1.0, 0.0, 127 / 127.5 - 1])
    mean = jnp.array([-1.0, 1.0, 1.0, -1.0, 0.9, 127 / 127.5 - 1])

    def total(mean, std):
        return jnp.sum(variational_bound.discretized_log_likelihood(x0, mean, std))

    by_mean, by_std = jax.jit(jax.grad(total, argnums=(0, 1)))(mean, jnp.float32(std))
    assert np.all(np.isfinite(by_mean)) and np.isfinite(by_std)
    # Uphill is towards the data: lower for x_0 = -1, higher for x_0 = 1.
    assert by_mean[1] < 0 < by_mean[3]


def test_gradient_of_the_decoder_by_scipy():
    """d/dmean log P = (phi(lower) - phi(upper)) / (std P)."""
    x0, mean, std = np.float32(3 / 127.5 - 1 / 255), np.float32(0.03), 0.02
    upper, lower = (x0 - mean + 1 / 255) / std, (x0 - mean - 1 / 255) / std
    expected = (norm.pdf(lower) - norm.pdf(upper)) / std
    expected /= norm.cdf(upper) - norm.cdf(lower)
    gradient = jax.grad(
        lambda m: variational_bound.discretized_log_likelihood(x0, m, jnp.float32(std))
    )(jnp.asarray(mean))
    np.testing.assert_allclose(gradient, expected, rtol=1e-3)


def test_bits_per_dim_by_hand():
    nats = jnp.full((2, 3, 1), LOG_2) * jnp.array([1.0, 3.0])[:, None, None]
    np.testing.assert_allclose(variational_bound.bits_per_dim(nats), [1, 3], rtol=1e-6)


def test_prior_term_by_hand():
    """x_0 = 0.5 at alpha = 0.6, sigma = 0.8: (0.64 - 1 - log 0.64 + 0.09) / 2 nats."""
    level = schedules.Level(jnp.float32(0), jnp.float32(0.6), jnp.float32(0.8))
    term = variational_bound.prior_term(jnp.full((2, 3, 3, 1), 0.5), level)
    expected = 0.5 * (0.64 - 1 - np.log(0.64) + 0.09) / LOG_2
    np.testing.assert_allclose(term, [expected] * 2, rtol=1e-6)


def test_prior_term_of_the_paper_s_schedule_is_negligible():
    """Black images, x_0 = -1: (alpha_bar - log(1 - alpha_bar) - alpha_bar)/2 nats."""
    level = from_betas(schedules.linear_betas(1000)).at(jnp.array(999))
    bar = 4.03582977e-5
    expected = 0.5 * (-np.log1p(-bar) - bar + bar) / LOG_2
    term = variational_bound.prior_term(-jnp.ones((1, 8)), level)
    np.testing.assert_allclose(term, [expected], rtol=2e-3)
    assert expected < 3e-5


def test_decoder_variance_is_beta_tilde_2():
    """5.4532e-5 for the linear table of 1000 steps, by 50-digit decimals."""
    schedule = from_betas(schedules.linear_betas(1000))
    np.testing.assert_allclose(
        variational_bound.decoder_variance(schedule), 5.45318766e-5, rtol=1e-6
    )


# --- The bound ------------------------------------------------------------------------


def x0_errors(x0):
    """E (x_0 - E[x_0 | x_t])^2 over the noise, at t = 0..T-1: [T, B, DIMS], and bars.

    The error is (1 - g alpha)(x_0 - mean) - g sigma eps, g = alpha v/(alpha^2 v +
    sigma^2).
    """
    bars = oracles.alpha_bars(BETAS)
    bar = bars[1:, None, None]
    slope = np.sqrt(bar) * VALUE / (bar * VALUE + 1 - bar)
    kept = (1 - slope * np.sqrt(bar)) * (x0 - MEAN)
    return kept**2 + slope**2 * (1 - bar), bars


def expected_steps(x0, name):
    """L_0, ..., L_{T-1} of each image, in bits/dim: float64 [T, B].

    L_{t-1} is the KL of two Gaussians; L_0 is integrated over eps by Gauss and Hermite.
    """
    error, bars = x0_errors(x0)
    bar_t, bar_s = bars[1:], bars[:-1]
    tilde = (1 - bar_s) / (1 - bar_t) * BETAS
    variance = tilde if name == "small" else BETAS
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = tilde / variance
        of_x0 = np.sqrt(bar_s) * BETAS / (1 - bar_t)
        constant = 0.5 * (ratio - 1 - np.log(ratio))
        kl = (
            constant[:, None, None] + (of_x0**2 / (2 * variance))[:, None, None] * error
        )
    points, weights = np.polynomial.hermite_e.hermegauss(61)
    bar = bars[1]
    slope = np.sqrt(bar) * VALUE / (bar * VALUE + 1 - bar)
    x_1 = np.sqrt(bar) * x0[..., None] + np.sqrt(1 - bar) * points
    mean = MEAN + slope * (x_1 - np.sqrt(bar) * MEAN)
    decoder = -log_bin(x0[..., None], mean, np.sqrt(tilde[1]))
    kl[0] = decoder @ (weights / weights.sum())
    return kl.mean(-1) / LOG_2


@pytest.fixture(scope="module", params=["small", "large"])
def fixed_variance(request):
    variance = {"small": process.small_variance, "large": process.large_variance}
    x0 = data(500)
    return request.param, x0, estimate(DENOISE, x0, BETAS, variance[request.param])


def test_every_term_has_its_closed_form_expectation(fixed_variance):
    name, x0, bound = fixed_variance
    assert bound.steps.shape == (50, 500)
    assert_meets(bound.steps, expected_steps(x0, name), room=2e-6)


def test_total_is_prior_plus_steps_in_closed_form(fixed_variance):
    name, x0, bound = fixed_variance
    bar = oracles.alpha_bars(BETAS)[-1]
    prior = 0.5 * (-bar - np.log1p(-bar) + bar * x0**2).mean(-1) / LOG_2
    np.testing.assert_allclose(bound.prior, prior, rtol=1e-3, atol=1e-7)
    assert_meets(bound.total, prior + expected_steps(x0, name).sum(0))


def test_squared_errors_by_level(fixed_variance):
    """Entry t is the level told t; eps - eps_hat = alpha/sigma (x_0_hat - x_0)."""
    _, x0, bound = fixed_variance
    error, bars = x0_errors(x0)
    assert_meets(bound.x0_mse, error.mean(-1))
    snr = bars[1:, None] / (1 - bars[1:, None])
    assert_meets(bound.eps_mse, snr * error.mean(-1))


def test_rate_and_distortion_are_the_terms_summed(fixed_variance):
    """Entry 0: the whole bound without L_0. The last: L_T alone."""
    _, x0, bound = fixed_variance
    curve = variational_bound.rate_distortion(bound)
    rate = bound.total - bound.steps[0]
    np.testing.assert_allclose(curve.rate[0], rate.mean(), rtol=1e-6)
    error = rate.std(ddof=1) / 500**0.5  # in float32
    np.testing.assert_allclose(curve.rate_error[0], error, rtol=1e-6)
    np.testing.assert_allclose(curve.rate[-1], bound.prior.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        -np.diff(curve.rate), bound.steps[1:].mean(-1), atol=1e-9
    )
    error, _ = x0_errors(x0)
    rmse = 127.5 * np.sqrt(error.mean(axis=(1, 2)))
    assert np.abs((curve.distortion - rmse) / curve.distortion_error).max() < 4.5


def test_rate_and_distortion_by_hand():
    """Two images, L_2 = (0.5, 0.7), steps L_0, L_1: rate 0.6 + L_1, then 0.6.

    Squared errors (1, 3) / 127.5^2 at t = 0: RMSE sqrt 2, whose error is that of the
    mean square, 1, over 2 sqrt 2.
    """
    steps = np.array([[2.0, 4.0], [0.25, 0.75]])
    mse = np.array([[1.0, 3.0], [100.0, 100.0]]) / 127.5**2
    bound = variational_bound.Bound(np.array([0.5, 0.7]), steps, mse, mse)
    curve = variational_bound.rate_distortion(bound)
    np.testing.assert_allclose(curve.rate, [1.1, 0.6])
    np.testing.assert_allclose(curve.rate_error, [0.35, 0.1])
    np.testing.assert_allclose(curve.distortion, [2**0.5, 10])
    np.testing.assert_allclose(curve.distortion_error, [1 / 8**0.5, 0], atol=1e-12)


def test_one_image_has_no_standard_error():
    assert np.isnan(variational_bound.standard_error(np.ones((3, 1)))).all()
    np.testing.assert_allclose(
        variational_bound.standard_error(np.array([1.0, 3.0])), 1.0
    )


def test_the_bound_is_tight_with_the_exact_reverse_kernels():
    """Then it is -log2 P(x_0): 1000 steps give the exact bits of discretised data.

    Neither side is an estimate of the other's formula: the right one is a difference
    of two normal distribution functions. The data sit at the centres of their bins,
    which costs the bound some 1e-3 bits; T enters with alpha_bar_T = 4e-5.
    """
    x0 = data(300, seed=1)
    variance = oracles.gaussian_variance(np.full(DIMS, VALUE))
    bound = estimate(DENOISE, x0, schedules.linear_betas(1000), variance)
    exact = -log_bin(x0, MEAN, np.sqrt(VALUE)).mean(-1) / LOG_2
    assert_meets(bound.total, exact, room=2e-3)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * VALUE) - np.log2(2 / 255)
    np.testing.assert_allclose(bound.total.mean(), entropy, atol=0.05)


def test_a_fixed_variance_costs_bits(fixed_variance):
    """The bound is a bound: above the exact code length, for want of a variance."""
    name, x0, bound = fixed_variance
    exact = -log_bin(x0, MEAN, np.sqrt(VALUE)).mean() / LOG_2
    assert bound.total.mean() > exact + 0.05, name


def test_uniform_noise_costs_eight_bits():
    """All 256 values equally likely, each dimension for itself: H = 8 bits exactly.

    With the exact denoiser and the large variance, right where the data are wide, the
    bound lies above it, by less than a tenth of a bit for these 100 steps.
    """
    points = np.linspace(-1, 1, 256)[:, None]
    each = oracles.finite(points)

    def denoise(x_t, level, cond):
        said = each(x_t.reshape(-1, 1), level)
        return jax.tree.map(lambda leaf: leaf.reshape(x_t.shape), said)

    x0 = np.tile(points.reshape(16, 16).T, (8, 1))  # [128, 16]; each row spans [-1, 1]
    betas = schedules.linear_betas(100, 1e-4, 0.2)
    total = estimate(denoise, x0, betas, process.large_variance).total
    standard_error = total.std() / np.sqrt(len(x0))
    assert standard_error < 0.05
    assert 8 - 4 * standard_error < total.mean() < 8.1 + 4 * standard_error


def test_step_term_for_rows_at_different_levels():
    """Row by row the same as one level at a time; row 0 is the decoder."""
    schedule = from_betas(BETAS)
    index = jnp.array([0, 1, 30])
    x0 = jnp.asarray(data(3, seed=2), jnp.float32)
    x_t = x0 + 0.01

    @jax.jit
    def term(x0, x_t, index):
        t, s = schedule.at(index), schedule.at(index - 1)
        variance = process.large_variance
        said = DENOISE(x_t, t)
        return variational_bound.step_term(
            said, x0, x_t, t, s, variance=variance, decoder_var=1e-3
        )

    together = term(x0, x_t, index)
    for row in range(3):
        one = slice(row, row + 1)
        alone = term(x0[one], x_t[one], index[row])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-5)


def test_a_bound_of_one_step_is_refused():
    """The decoder takes its width from the second step."""
    levels = grid(from_betas(BETAS), 1)
    with pytest.raises(UserError, match="at least 2"):
        variational_bound.variational_bound(
            image_keys(jax.random.key(0), jnp.arange(1)),
            DENOISE,
            jnp.zeros((1, DIMS)),
            levels,
        )


def test_clipping_lowers_every_term_but_the_decoder_of_black_and_white():
    """A prediction of 1.1 for a white value, and for one inside, clipped to 1.

    L_0 is -log2 of a normal tail where the value is white: by SciPy it is longer from
    1.1 than from 1. All else is a distance from x_0, or a bin with two ends.
    """
    schedule = from_betas(schedules.linear_betas(1000))
    first = variational_bound.decoder_variance(schedule)
    white, inside = 1.0, 253 / 127.5 - 1
    x0 = jnp.array([[white], [inside]])

    def terms(predicted, t):
        level, cleaner = schedule.at(jnp.int32(t)), schedule.at(jnp.int32(t - 1))
        return variational_bound.step_term(
            process.Prediction(jnp.full_like(x0, predicted), jnp.zeros_like(x0)),
            x0,
            x0 * level.alpha,
            level,
            cleaner,
            variance=process.small_variance,
            decoder_var=first,
        )

    free, clipped = terms(1.1, 0), terms(1.0, 0)
    std = float(jnp.sqrt(first))
    expected = [-norm.logsf(white - 1 / 255, m, std) / np.log(2) for m in (1.1, 1.0)]
    np.testing.assert_allclose([free[0], clipped[0]], expected, rtol=1e-3, atol=1e-6)
    assert clipped[0] > free[0] + 0.1  # white: worse
    assert clipped[1] < free[1] - 1  # inside: better
    for t in (1, 10, 500, 999):
        assert np.all(terms(1.0, t) < terms(1.1, t))
