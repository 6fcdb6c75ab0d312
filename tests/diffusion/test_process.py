"""The forward process and its posterior against textbook arithmetic in float64.

The expected numbers start from betas and their running products (Ho et al. 2020, eq.
(2) to (7)) and know nothing of levels; q(x_s | x_t, x_0) is moreover worked out by
Bayes' rule, as a product of two Gaussians.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import process, schedules
from ddpm_jax.diffusion.process import EPS, FLOW, X0, Prediction, V

BETAS = {
    "linear": schedules.linear_betas(1000),
    "cosine": schedules.cosine_betas(1000),
    "jsd": schedules.jsd_betas(100),
}
KINDS = {"eps": EPS, "x0": X0, "v": V, "flow": FLOW}


def neighbours(betas):
    """Levels t and s with leaves [T], s one step before t, and the float64 products."""
    schedule = schedules.from_betas(betas)
    t = jnp.arange(len(betas))
    return schedule.at(t), schedule.at(t - 1), oracles.alpha_bars(betas)


def pairs(betas, seed=0):
    """Levels t, s with leaves [40], s any number of steps before t, never clean."""
    rng = np.random.default_rng(seed)
    s, t = np.sort(rng.choice(len(betas) - 1, (40, 2)), axis=1).T
    t = np.where(t == s, s + 1, t)
    schedule, bars = schedules.from_betas(betas), oracles.alpha_bars(betas)
    return schedule.at(t), schedule.at(s), bars[t + 1], bars[s + 1]


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# --- Forward --------------------------------------------------------------------------


def test_add_noise_by_hand():
    """0.6 * 2 + 0.8 * (-1) = 0.4."""
    level = schedules.Level(jnp.float32(0), jnp.float32(0.6), jnp.float32(0.8))
    x_t = process.add_noise(jnp.full((1, 2), 2.0), jnp.full((1, 2), -1.0), level)
    np.testing.assert_allclose(x_t, [[0.4, 0.4]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 4, 4, 2), (3, 2, 4, 4, 1)])
def test_each_row_has_its_own_level_whatever_the_rank(shape):
    level = schedules.from_betas(BETAS["linear"]).at(jnp.array([-1, 200, 999]))
    x0, eps = normal(0, shape), normal(1, shape)
    x_t = process.add_noise(x0, eps, level)
    for row in range(3):
        expected = level.alpha[row] * x0[row] + level.sigma[row] * eps[row]
        np.testing.assert_allclose(x_t[row], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(x_t[0], x0[0])
    one = jax.tree.map(lambda leaf: leaf[1], level)
    np.testing.assert_allclose(process.add_noise(x0, eps, one)[1], x_t[1], atol=1e-7)


@pytest.mark.parametrize("name", BETAS)
def test_a_table_s_transitions_are_its_betas(name):
    t, s, _ = neighbours(BETAS[name])
    factor, variance = process.transition(t, s)
    np.testing.assert_allclose(factor, np.sqrt(1 - BETAS[name]), rtol=5e-7)
    np.testing.assert_allclose(variance, BETAS[name], rtol=1e-4)


@pytest.mark.parametrize("name", BETAS)
def test_markov_steps_compose_to_the_jump(name):
    """T affine maps x -> f x + sqrt(v) z, composed exactly in float64.

    Each map is read off `markov_step` itself: f from x = 1, z = 0 and sqrt(v) from
    x = 0, z = 1.
    """
    t, s, bars = neighbours(BETAS[name])
    zero, one = jnp.zeros(len(BETAS[name])), jnp.ones(len(BETAS[name]))
    factor = np.asarray(process.markov_step(one, zero, t, s), np.float64)
    std = np.asarray(process.markov_step(zero, one, t, s), np.float64)
    mean, variance, means, variances = 1.0, 0.0, [], []
    for f, d in zip(factor, std, strict=True):
        mean, variance = f * mean, f**2 * variance + d**2
        means.append(mean)
        variances.append(variance)
    np.testing.assert_allclose(means, np.sqrt(bars[1:]), rtol=2e-5, atol=1e-12)
    np.testing.assert_allclose(variances, 1 - bars[1:], rtol=2e-5)


@pytest.mark.parametrize("name", BETAS)
def test_a_long_step_after_a_jump_is_a_jump(name):
    """q(x_t | x_s) after q(x_s | x_0) is q(x_t | x_0) for any s < t."""
    t, s, bar_t, bar_s = pairs(BETAS[name])
    factor, variance = process.transition(t, s)
    factor = np.asarray(factor, np.float64)
    np.testing.assert_allclose(factor * np.sqrt(bar_s), np.sqrt(bar_t), rtol=1e-6)
    total = factor**2 * (1 - bar_s) + np.asarray(variance, np.float64)
    np.testing.assert_allclose(total, 1 - bar_t, rtol=1e-6)


@pytest.mark.parametrize(
    ("betas", "bound"),
    [
        (schedules.linear_betas(1000), 4e-5),
        (schedules.cosine_betas(1000), 6e-5),
        (schedules.jsd_betas(1000), 9e-5),
        (schedules.cosine_betas(4000), 3e-4),
    ],
    ids=["linear-1000", "cosine-1000", "jsd-1000", "cosine-4000"],
)
def test_float32_accuracy_of_the_fraction_of_noise(betas, bound):
    """c against float64 at every step, as a relative error; measured 3e-5 to 2.3e-4."""
    t, s, bars = neighbours(betas)
    snr = np.concatenate([[np.inf], bars[1:] / (1 - bars[1:])])
    expected = 1 - snr[1:] / snr[:-1]
    c = np.asarray(process.fraction_of_noise(t, s), np.float64)
    assert c[0] == 1
    assert np.max(np.abs(c / expected - 1)) < bound


def test_the_fraction_of_noise_is_one_at_both_ends():
    schedule = schedules.from_betas(BETAS["jsd"])
    clean, pure = schedule.at(jnp.array(-1)), schedule.at(jnp.array(99))
    middle = schedule.at(jnp.array(50))
    assert process.fraction_of_noise(middle, clean) == 1  # sigma_s = 0
    assert process.fraction_of_noise(pure, middle) == 1  # alpha_t = 0
    assert process.fraction_of_noise(pure, clean) == 1


# --- Posterior ------------------------------------------------------------------------


@pytest.mark.parametrize("name", BETAS)
def test_posterior_by_bayes_rule(name):
    """N(x_s; alpha_s x_0, sigma_s^2) times N(x_t; f x_s, b), normalised."""
    t, s, bar_t, bar_s = pairs(BETAS[name])
    x_t, x0 = 0.7, -0.4
    factor = np.sqrt(bar_t / bar_s)
    b = 1 - bar_t / bar_s
    precision = 1 / (1 - bar_s) + factor**2 / b
    expected = (np.sqrt(bar_s) * x0 / (1 - bar_s) + factor * x_t / b) / precision
    mean, variance = process.posterior(jnp.full(40, x_t), jnp.full(40, x0), t, s)
    np.testing.assert_allclose(variance, 1 / precision, rtol=1e-4)
    np.testing.assert_allclose(mean, expected, atol=2e-6)


@pytest.mark.parametrize("name", BETAS)
def test_posterior_is_that_of_ho_et_al(name):
    """Eq. (7), from betas: the two coefficients of the mean, and beta_tilde."""
    betas = BETAS[name]
    t, s, bars = neighbours(betas)
    ones, zeros = jnp.ones(len(betas)), jnp.zeros(len(betas))
    of_x0, variance = process.posterior(zeros, ones, t, s)
    of_x_t, _ = process.posterior(ones, zeros, t, s)
    expected_x0 = np.sqrt(bars[:-1]) * betas / (1 - bars[1:])
    expected_x_t = np.sqrt(1 - betas) * (1 - bars[:-1]) / (1 - bars[1:])
    np.testing.assert_allclose(of_x0, expected_x0, rtol=2e-4)
    np.testing.assert_allclose(of_x_t, expected_x_t, rtol=1e-6)
    tilde = (1 - bars[:-1]) / (1 - bars[1:]) * betas
    np.testing.assert_allclose(variance, tilde, rtol=2e-4)
    if name == "linear":
        np.testing.assert_allclose(variance[1], 5.45318766e-5, rtol=2e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_three_forms_of_the_mean_agree(name):
    """Within float32, times alpha_s/alpha_t, by which eq. (6) enlarges rounding."""
    t, s, _ = neighbours(BETAS[name])
    x0, eps = normal(2, (1000, 3)), normal(3, (1000, 3))
    x_t = process.add_noise(x0, eps, t)
    mean, _ = process.posterior(x_t, x0, t, s)
    from_eps = process.posterior_mean_from_eps(x_t, eps, t, s)
    from_v = process.posterior_mean_from_v(x_t, process.v_from_x0_eps(x0, eps, t), t, s)
    room = 2e-6 * np.maximum(1, s.alpha / t.alpha)[:, None]
    assert np.all(np.abs(from_eps - mean) < room)
    np.testing.assert_allclose(from_v, mean, atol=2e-6)


# --- What a network predicts ----------------------------------------------------------


def test_velocity_by_hand():
    """v = 0.6 * 0.5 - 0.8 * 2 = -1.3, of x_0 = 2 and eps = 0.5."""
    level = schedules.Level(jnp.float32(0), jnp.float32(0.6), jnp.float32(0.8))
    x0, eps = jnp.full((1, 1), 2.0), jnp.full((1, 1), 0.5)
    np.testing.assert_allclose(V.target(x0, eps, level), [[-1.3]], rtol=1e-6)
    np.testing.assert_array_equal(EPS.target(x0, eps, level), eps)
    np.testing.assert_array_equal(X0.target(x0, eps, level), x0)
    assert [kind.name for kind in (EPS, X0, V, FLOW)] == list(KINDS)


LEVELS_OF_FLOW = {  # alpha, sigma, by where the level lies
    "preserves the variance": (0.6, 0.8),
    "straight": (0.25, 0.75),
    "zero-terminal": (0.0, 1.0),
    "clean": (1.0, 0.0),
    "exploding": (1.0, 80.0),
}


@pytest.mark.parametrize("where", LEVELS_OF_FLOW)
def test_flow_is_read_back_at_any_level(where):
    """u = eps - x_0, whatever alpha and sigma: against float64, to a few roundings."""
    alpha, sigma = LEVELS_OF_FLOW[where]
    level = schedules.Level(jnp.float32(0), jnp.float32(alpha), jnp.float32(sigma))
    x0, eps = np.random.default_rng(3).standard_normal((2, 5, 4)).astype(np.float32)
    x_t = (alpha * x0.astype(np.float64) + sigma * eps).astype(np.float32)
    u = FLOW.target(jnp.asarray(x0), jnp.asarray(eps), level)
    np.testing.assert_array_equal(u, eps - x0)
    found = FLOW.predict(u, jnp.asarray(x_t), level)
    total = alpha + sigma
    off = 8 * 2.0**-24 * (np.abs(x_t) + np.abs(u) * max(alpha, sigma)) / total
    assert np.all(np.abs(found.x0 - x0) <= off + 1e-6 * np.abs(x0))
    assert np.all(np.abs(found.eps - eps) <= off + 1e-6 * np.abs(eps))


def test_flow_is_the_slope_of_the_straight_path():
    """dx_t/du of x_t = (1 - u) x_0 + u eps, by a difference in float64."""
    x0, eps, u, h = 0.7, -1.1, 0.3, 1e-6
    slope = ((1 - u - h) * x0 + (u + h) * eps - (1 - u + h) * x0 - (u - h) * eps) / 2
    level = schedules.straight().at(jnp.float32(299))
    target = FLOW.target(jnp.full((1, 1), x0), jnp.full((1, 1), eps), level)
    np.testing.assert_allclose(target, slope / h, rtol=1e-6)


@pytest.mark.parametrize(("told", "asked"), [*itertools.product(KINDS, KINDS)])
def test_every_prediction_converts_to_every_other(told, asked):
    """A network that outputs its exact target says all of x_0, eps, v and u."""
    level = schedules.from_betas(BETAS["linear"]).at(jnp.array([0, 300, 700]))
    x0, eps = normal(4, (3, 4, 4, 1)), normal(5, (3, 4, 4, 1))
    x_t = process.add_noise(x0, eps, level)
    output = KINDS[told].target(x0, eps, level)
    prediction = KINDS[told].predict(output, x_t, level)
    again = KINDS[asked].target(prediction.x0, prediction.eps, level)
    expected = KINDS[asked].target(x0, eps, level)
    # eps from x_0 divides by sigma_1 = 0.01, x_0 from eps by alpha_700 = 0.28
    np.testing.assert_allclose(again, expected, atol=6e-5)
    np.testing.assert_allclose(
        process.add_noise(prediction.x0, prediction.eps, level), x_t, atol=1e-6
    )


# --- The reverse variance -------------------------------------------------------------


def test_small_and_large_variance_are_ho_s_two_choices():
    betas = BETAS["linear"]
    t, s, bars = neighbours(betas)
    small = process.small_variance(t, s)
    large = process.large_variance(t, s)
    tilde = (1 - bars[:-1]) / (1 - bars[1:]) * betas
    np.testing.assert_allclose(small, tilde, rtol=1e-4)
    np.testing.assert_allclose(large[1:], betas[1:], rtol=1e-4)
    assert small[0] == large[0] == 0  # Algorithm 2 adds no noise at its last step
    first = 5.45318766e-5  # beta_tilde_2, for the decoder
    assert process.small_variance(t, s, decoder_var=first)[0] == np.float32(first)
    assert process.large_variance(t, s, decoder_var=first)[0] == np.float32(first)
    assert process.large_variance(t, s, decoder_var=first)[1] == large[1]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 1.5])
def test_learned_variance_is_a_weighted_geometric_mean(share):
    """small^(1 - f) large^f: small for f = 0, large for 1; f may leave [0, 1]."""
    betas = BETAS["cosine"]
    t, s, bars = neighbours(betas)
    x = jnp.zeros((1000, 2, 1))
    prediction = Prediction(x, x, jnp.full_like(x, share))
    learned = process.learned_variance(t, s, prediction, 3e-5)
    tilde = (1 - bars[:-1]) / (1 - bars[1:]) * betas
    tilde[0] = 3e-5  # what `first` says
    expected = tilde ** (1 - share) * betas**share
    np.testing.assert_allclose(
        learned[..., 0], expected[:, None].repeat(2, 1), rtol=3e-4
    )
    without = process.learned_variance(t, s, prediction)
    assert np.all(without[0] == 0) and np.all(without[1:] == learned[1:])


def test_learned_variance_has_a_finite_gradient_where_it_is_zero():
    t, s, _ = neighbours(BETAS["linear"])
    x = jnp.zeros((1000, 1))

    def total(fraction):
        return jnp.sum(process.learned_variance(t, s, Prediction(x, x, fraction)))

    gradient = jax.grad(total)(jnp.full((1000, 1), 0.5))
    assert np.all(np.isfinite(gradient)) and gradient[0] == 0 and gradient[1] > 0


# --- Noise ----------------------------------------------------------------------------


def test_noise_of_a_row_depends_on_its_key_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    three = process.noise_like(keys, jnp.zeros((3, 4, 5)))
    one = process.noise_like(keys[1:2], jnp.zeros((1, 4, 5)))
    np.testing.assert_array_equal(three[1:2], one)
    assert not np.any(three[0] == three[1])
    many = process.noise_like(keys, jnp.zeros((3, 40000)))[0]
    assert abs(np.mean(many)) < 4 / 200 and abs(np.var(many) - 1) < 4 * 0.00707
