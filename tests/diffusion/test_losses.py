"""Training objectives: equalities between them, Ho et al.'s weights, exact minima.

[H] is Ho, Jain, Abbeel 2020, [N] Nichol and Dhariwal 2021.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import likelihood, losses, process, schedules
from ddpm_jax.diffusion.process import EPS, X0, V
from ddpm_jax.diffusion.schedules import Level, from_betas

BETAS = schedules.linear_betas(1000)
SCHEDULE = from_betas(BETAS)
FIRST = 5.45318766e-5  # beta_tilde_2, by 50-digit decimals
VARIANCES = {"small": process.small_variance, "large": process.large_variance}
KINDS = [EPS, X0, V]


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def noised(index, shape=(4, 4, 2), seed=0):
    """Training data at given t, drawn outside `noise_data`."""
    index = jnp.asarray(index)
    x0 = jnp.asarray(oracles.quantize(0.5 * normal(seed, (len(index), *shape))))
    x0, eps = x0.astype(jnp.float32), normal(seed + 1, x0.shape)
    t, s = SCHEDULE.at(index), SCHEDULE.at(index - 1)
    return losses.Noised(x0, eps, process.add_noise(x0, eps, t), t, s, index)


def tilde():
    bars = oracles.alpha_bars(BETAS)
    return (1 - bars[:-1]) / (1 - bars[1:]) * BETAS


# --- Levels and noise -----------------------------------------------------------------


def test_stratified_times_fall_one_into_each_stratum():
    for seed in range(20):
        u = np.asarray(losses.stratified_times(jax.random.key(seed), 8), np.float64)
        assert np.all((u >= 0) & (u < 1))
        sorted_u = np.sort(u)
        np.testing.assert_allclose(np.diff(sorted_u), 1 / 8, atol=1e-6)
        assert np.all(np.floor(sorted_u * 8) == np.arange(8))


@pytest.mark.parametrize("times", [losses.uniform_times, losses.stratified_times])
def test_each_time_alone_is_uniform(times):
    """First and last row of 4 over 4000 keys: mean 1/2, variance 1/12, flat bins."""
    keys = jax.random.split(jax.random.key(0), 4000)
    u = np.asarray(jax.vmap(lambda key: times(key, 4))(keys), np.float64)
    for row in (u[:, 0], u[:, 3]):
        assert abs(row.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
        counts = np.histogram(row, 10, (0, 1))[0]
        assert np.all(np.abs(counts - 400) < 4.5 * np.sqrt(400 * 0.9))


def test_stratified_times_make_the_mean_of_a_batch_scatter_less():
    """The mean of n evenly spread points has variance 1/(12 n^2), of free ones
    1/(12 n): for u -> u and n = 8."""
    keys = jax.random.split(jax.random.key(1), 4000)
    for times, expected in (
        (losses.uniform_times, 1 / (12 * 8)),
        (losses.stratified_times, 1 / (12 * 64)),
    ):
        means = jax.vmap(lambda key, times=times: jnp.mean(times(key, 8)))(keys)
        np.testing.assert_allclose(np.var(means), expected, rtol=0.1)


def test_noise_data_draws_lines_2_to_4_of_algorithm_1():
    num = 20000
    x0 = jnp.full((num, 2), 0.5)
    draw = jax.jit(lambda key: losses.noise_data(key, x0, SCHEDULE))(jax.random.key(2))
    index = np.asarray(draw.index)
    assert index.min() == 0 and index.max() == 999
    counts = np.bincount(index // 100, minlength=10)
    assert np.all(np.abs(counts - num / 10) < 4.5 * np.sqrt(num * 0.09))
    bars = oracles.alpha_bars(BETAS)
    bar = bars[index + 1][:, None]
    x_t = np.asarray(draw.x_t, np.float64)
    z = (x_t - np.sqrt(bar) * 0.5) / np.sqrt(
        1 - bar
    )  # standard normal if eq. (4) holds
    assert abs(z.mean()) < 4 / np.sqrt(2 * num)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / (2 * num))
    np.testing.assert_allclose(z, draw.eps, atol=2e-5)
    level_and_noise = np.corrcoef(index, z[:, 0])[0, 1]
    assert abs(level_and_noise) < 4 / np.sqrt(num)
    # s is one step below: alpha_bar_t / alpha_bar_s = 1 - beta_t, clean below t = 0
    np.testing.assert_allclose(draw.s.alpha**2, bars[index], rtol=1e-6)
    np.testing.assert_array_equal(draw.s.t, index - 1)
    assert np.all(draw.s.sigma[index == 0] == 0)


def test_continuous_schedules_have_a_step_below_too():
    schedule = schedules.cosine_logsnr(num_levels=100)
    draw = losses.noise_data(jax.random.key(3), jnp.zeros((500, 1)), schedule)
    np.testing.assert_allclose(draw.s.t, draw.t.t - 1, atol=1e-5)
    assert np.all(draw.s.sigma < draw.t.sigma)
    assert np.all((draw.s.sigma == 0) == (draw.t.t <= 0)) and np.any(draw.t.t <= 0)


# --- Losses ---------------------------------------------------------------------------


def test_simple_loss_by_hand():
    """eps = (1, 2), output (0, 4): (1 + 4)/2; v = 0.6 eps - 0.8 x_0 with x_0 = (1, 1)
    is (-0.2, 0.4): (0.04 + 12.96)/2."""
    level = Level(jnp.zeros(1), jnp.full(1, 0.6), jnp.full(1, 0.8))
    x0, eps = jnp.ones((1, 2)), jnp.array([[1.0, 2.0]])
    x_t = process.add_noise(x0, eps, level)
    draw = losses.Noised(x0, eps, x_t, level, level, jnp.zeros(1))
    output = jnp.array([[0.0, 4.0]])
    np.testing.assert_allclose(losses.simple_loss(EPS)(output, draw), [2.5])
    np.testing.assert_allclose(losses.simple_loss(X0)(output, draw), [5.0])
    np.testing.assert_allclose(losses.simple_loss(V)(output, draw), [6.5], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", VARIANCES)
def test_mean_loss_equals_weighted_loss(kind, name):
    """[H] eq. (8) and (12), at every level, for an output that is nothing special."""
    draw = noised(np.arange(0, 1000, 27))
    output = normal(9, draw.x0.shape)
    by_means, by_eps = (
        jax.jit(loss(kind, VARIANCES[name], FIRST))(output, draw)
        for loss in (losses.mean_loss, losses.weighted_loss)
    )
    np.testing.assert_allclose(by_means, by_eps, rtol=2e-3)


@pytest.mark.parametrize("name", VARIANCES)
def test_weights_are_those_of_ho_et_al(name):
    """beta^2 / (2 sigma^2 alpha (1 - alpha_bar)), [H] eq. (12), from betas."""
    variance = tilde() if name == "small" else BETAS.copy()
    variance[0] = FIRST
    bars = oracles.alpha_bars(BETAS)[1:]
    expected = BETAS**2 / (2 * variance * (1 - BETAS) * (1 - bars))
    draw = noised(np.arange(1000), (1,))
    # An eps-error of exactly one.
    loss = losses.weighted_loss(EPS, VARIANCES[name], FIRST)(draw.eps + 1.0, draw)
    np.testing.assert_allclose(loss, expected, rtol=2e-4)


@pytest.mark.parametrize("name", VARIANCES)
def test_kl_term_is_mean_loss_plus_a_constant(name):
    """The constant is (r - 1 - log r)/2, r = beta_tilde/sigma^2, whatever the mean."""
    index = np.arange(1, 1000, 27)
    draw = noised(index)
    variance = tilde() if name == "small" else BETAS
    ratio = tilde()[index] / variance[index]
    constant = 0.5 * (ratio - 1 - np.log(ratio))
    by_means_alone = jax.jit(losses.mean_loss(EPS, VARIANCES[name], FIRST))

    @jax.jit
    def step_term(output, draw):
        return likelihood.step_term(
            EPS.predict(output, draw.x_t, draw.t),
            draw.x0,
            draw.x_t,
            draw.t,
            draw.s,
            variance=VARIANCES[name],
            first=FIRST,
        )

    for seed in (9, 10):
        output = normal(seed, draw.x0.shape)
        nats = np.asarray(step_term(output, draw), np.float64) * np.log(2)
        by_means = by_means_alone(output, draw)
        np.testing.assert_allclose(nats - by_means, constant, rtol=2e-3, atol=2e-6)


def test_bound_loss_estimates_the_bound_from_single_terms():
    """T times the term of each t, averaged over t, is the sum over t; here T = 3."""
    index = np.arange(1000)
    draw = noised(index, (3,))
    output = draw.eps + 0.1
    bound = losses.bound_loss(EPS, process.large_variance, FIRST, 3)
    loss = jax.jit(bound)(output, draw)
    bars = oracles.alpha_bars(BETAS)
    ratio = tilde()[1:] / BETAS[1:]
    # An eps-error of 0.1 in each dimension: constant + weight * 0.01, in bits.
    weight = BETAS[1:] / (2 * (1 - BETAS[1:]) * (1 - bars[2:]))
    nats = 0.5 * (ratio - 1 - np.log(ratio)) + weight * 0.01
    np.testing.assert_allclose(loss[1:], 3 * nats / np.log(2), rtol=3e-3)
    # Row 0 is the decoder, centred at x_0 - sigma_1 / alpha_1 * 0.1.
    mean = draw.x0[0] - 0.1 * np.sqrt(BETAS[0] / (1 - BETAS[0]))
    decoder = -likelihood.discretized_log_likelihood(
        draw.x0[0], mean, jnp.sqrt(jnp.float32(FIRST))
    )
    expected = 3 * np.mean(decoder) / np.log(2)
    np.testing.assert_allclose(loss[0], expected, rtol=1e-3)


def test_hybrid_loss_teaches_the_mean_by_l_simple_and_the_variance_by_the_bound():
    """[N] eq. (16): each half of the output has the gradient of its own loss."""
    draw = noised([0, 1, 40, 400, 999], (2, 2, 3))
    variance = process.learned_variance
    output = 0.5 * normal(11, (5, 2, 2, 6))
    bound = losses.bound_loss(EPS, variance, FIRST, 1000, learns_variance=True)
    hybrid = losses.hybrid_loss(EPS, variance, FIRST, 1000)
    simple = losses.simple_loss(EPS)

    @jax.jit
    def evaluate(output):
        """Each loss, and the gradient of its sum."""
        outputs = output, output[..., :3], output
        return [
            (loss(out, draw), jax.grad(lambda o, f=loss: jnp.sum(f(o, draw)))(out))
            for loss, out in zip((hybrid, simple, bound), outputs, strict=True)
        ]

    (total, gradient), (first, of_simple), (second, of_bound) = evaluate(output)
    np.testing.assert_allclose(gradient[..., :3], of_simple, rtol=1e-6)
    np.testing.assert_allclose(
        gradient[..., 3:], 0.001 * of_bound[..., 3:], rtol=1e-4, atol=1e-7
    )
    assert np.all(np.isfinite(gradient))
    assert np.all(np.abs(of_bound[..., 3:]).max((1, 2, 3)) > 0)
    np.testing.assert_allclose(total, first + 0.001 * second, rtol=1e-6)


def test_a_learned_variance_is_drawn_to_the_right_one():
    """One dimension, eps known but for an error e: the KL's best variance is
    beta_tilde + (mean error)^2, and there the gradient of the bound vanishes."""
    index, error = 300, 0.8
    draw = noised([index], (1,))
    bars = oracles.alpha_bars(BETAS)
    beta, bar = BETAS[index], bars[index + 1]
    small = tilde()[index]
    # [H] eq. (11): the mean errs by beta / sqrt(alpha (1 - alpha_bar)) times e.
    best = small + (error * beta) ** 2 / ((1 - beta) * (1 - bar))
    fraction = np.log(best / small) / np.log(beta / small)
    bound = losses.bound_loss(
        EPS, process.learned_variance, FIRST, 1000, learns_variance=True
    )

    def loss(w):
        output = jnp.concatenate([draw.eps + error, w[None, None]], axis=-1)
        return bound(output, draw)[0]

    gradient = jax.jit(jax.grad(loss))
    at_best = gradient(jnp.float32(2 * fraction - 1))
    off_best = gradient(jnp.float32(2 * fraction + 1))
    assert abs(at_best) < 0.02 * abs(off_best), (at_best, off_best)


# --- The objective as a whole ---------------------------------------------------------


@pytest.mark.parametrize("times", [losses.uniform_times, losses.stratified_times])
def test_the_exact_denoiser_has_the_irreducible_loss(times):
    """E |eps - E[eps | x_t]|^2 = alpha^2 v / (alpha^2 v + sigma^2) for N(mean, v) data,
    averaged over the levels; nothing can do better, and noise added to it does worse by
    its variance."""
    mean, value, num = 0.3, 0.2, 50000
    denoise = oracles.gaussian([mean], [value])

    def network(params, x_t, t, cond):
        level = SCHEDULE.at(t.astype(jnp.int32))
        return denoise(x_t, level).eps + params

    rng = np.random.default_rng(5)
    x0 = jnp.asarray(rng.normal(mean, np.sqrt(value), (num, 1)), jnp.float32)

    @jax.jit
    def run(params):
        return losses.training_loss(
            jax.random.key(6),
            network,
            params,
            x0,
            schedule=SCHEDULE,
            loss=losses.simple_loss(EPS),
            times=times,
        )

    loss, draw = run(0.0)
    loss = np.asarray(loss, np.float64)
    bars = oracles.alpha_bars(BETAS)[1:]
    irreducible = bars * value / (bars * value + 1 - bars)
    standard_error = loss.std() / np.sqrt(num)
    assert abs(loss.mean() - irreducible.mean()) < 4 * standard_error
    worse = np.asarray(run(0.5)[0], np.float64)
    assert abs(worse.mean() - loss.mean() - 0.25) < 4 * standard_error
    # The draw that is returned is the one the loss is of.
    said = network(0.0, draw.x_t, draw.t.t, None)
    np.testing.assert_allclose(loss[:100], (draw.eps - said)[:100, 0] ** 2, atol=1e-5)


def test_the_gradient_of_the_objective_points_to_the_data():
    """A network that is one constant for x_0 learns the mean: d/dm (x_0 - m)^2."""
    x0 = jnp.asarray([[0.1], [0.5], [0.9], [-0.3]])

    def loss(params):
        value, _ = losses.training_loss(
            jax.random.key(7),
            lambda params, x_t, t, cond: cond["scale"] * params + 0 * x_t,
            params,
            x0,
            schedule=SCHEDULE,
            loss=losses.simple_loss(X0),
            cond={"scale": jnp.ones((4, 1))},
        )
        return jnp.mean(value)

    np.testing.assert_allclose(jax.grad(loss)(0.0), -2 * 0.3, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(0.3), 0, atol=1e-6)
