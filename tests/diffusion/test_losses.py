"""Training objectives: equalities between them, Ho et al.'s weights, exact minima.

[H] is Ho, Jain, Abbeel 2020, [N] Nichol and Dhariwal 2021.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import (
    losses,
    process,
    schedules,
    time_sampling,
    variational_bound,
)
from ddpm_jax.diffusion.preconditioning import edm
from ddpm_jax.diffusion.process import EPS, FLOW, X0, V
from ddpm_jax.diffusion.schedules import Level, from_betas

BETAS = schedules.linear_betas(1000)
SCHEDULE = from_betas(BETAS)
FIRST = 5.45318766e-5  # beta_tilde_2, by 50-digit decimals
VARIANCES = {"small": process.small_variance, "large": process.large_variance}
KINDS = [EPS, X0, V, FLOW, edm()]


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
        return variational_bound.step_term(
            EPS.predict(output, draw.x_t, draw.t),
            draw.x0,
            draw.x_t,
            draw.t,
            draw.s,
            variance=VARIANCES[name],
            decoder_var=FIRST,
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
    decoder = -variational_bound.discretized_log_likelihood(
        draw.x0[0], mean, jnp.sqrt(jnp.float32(FIRST))
    )
    expected = 3 * np.mean(decoder) / np.log(2)
    np.testing.assert_allclose(loss[0], expected, rtol=1e-3)


def test_the_bound_of_a_learned_variance_equals_its_formula_in_float64():
    """[N] eq. (4) to (6) and (15), from betas, at every kind of level: the KL of two
    normal distributions for t > 0, a normal distribution integrated over bins at t = 0;
    T times it in bits. L_hybrid adds 0.001 of it to the mean square, [N] eq. (16)."""
    index = np.array([0, 0, 1, 2, 40, 400, 998, 999])
    draw = noised(index, (2, 2, 3))
    w = np.random.default_rng(4).uniform(-1.2, 1.2, draw.x0.shape)
    eps_hat = np.asarray(draw.eps, np.float64) + 0.3 * normal(12, draw.x0.shape)
    output = jnp.concatenate([eps_hat, w], axis=-1).astype(jnp.float32)

    column = (slice(None), None, None, None)
    bars = oracles.alpha_bars(BETAS)
    beta, bar, before = BETAS[index], bars[index + 1], bars[index]
    small = np.where(index > 0, tilde()[index], FIRST)
    x0, eps = np.asarray(draw.x0, np.float64), np.asarray(draw.eps, np.float64)
    x_t = np.sqrt(bar)[column] * x0 + np.sqrt(1 - bar)[column] * eps

    def mean_of(noise):  # Ho et al. eq. (11)
        factor = (beta / np.sqrt(1 - bar))[column]
        return (x_t - factor * noise) / np.sqrt(1 - beta)[column]

    v = (w + 1) / 2
    log_variance = v * np.log(beta)[column] + (1 - v) * np.log(small)[column]
    q_mean = (np.sqrt(before) * beta / (1 - bar))[column] * x0 + (
        np.sqrt(1 - beta) * (1 - before) / (1 - bar)
    )[column] * x_t
    kl = 0.5 * (
        log_variance
        - np.log(small)[column]
        + (small[column] + (q_mean - mean_of(eps_hat)) ** 2) / np.exp(log_variance)
        - 1
    )
    erf = np.vectorize(math.erf)

    def below(x):  # the normal distribution function
        scaled = (x - mean_of(eps_hat)) / np.exp(0.5 * log_variance)
        return 0.5 * (1 + erf(scaled / np.sqrt(2)))

    upper = np.where(x0 > 0.999, 1.0, below(x0 + 1 / 255))
    lower = np.where(x0 < -0.999, 0.0, below(x0 - 1 / 255))
    decoder = -np.log(np.maximum(upper - lower, 1e-300))
    nats = np.where((index > 0)[column], kl, decoder).mean((1, 2, 3))
    expected = 1000 * nats / np.log(2)

    learned = process.learned_variance
    bound = losses.bound_loss(EPS, learned, FIRST, 1000, learns_variance=True)
    np.testing.assert_allclose(jax.jit(bound)(output, draw), expected, rtol=2e-3)
    mean_square = np.mean((eps_hat - eps) ** 2, axis=(1, 2, 3))
    hybrid = losses.hybrid_loss(EPS, learned, FIRST, 1000)
    np.testing.assert_allclose(
        jax.jit(hybrid)(output, draw), mean_square + 0.001 * expected, rtol=2e-3
    )


def test_the_bound_in_the_hybrid_loss_moves_no_mean():
    """The gradient to the mean is the same, bit for bit, whatever the bound's share."""
    draw = noised([0, 1, 40, 400, 999], (2, 2, 3))
    output = 0.5 * normal(11, (5, 2, 2, 6))

    @jax.jit
    @jax.grad
    def gradient(output, share):
        hybrid = losses.hybrid_loss(
            EPS, process.learned_variance, FIRST, 1000, bound_share=share
        )
        return jnp.sum(hybrid(output, draw))

    none, usual, large = (gradient(output, share) for share in (0.0, 0.001, 1e3))
    np.testing.assert_array_equal(usual[..., :3], none[..., :3])
    np.testing.assert_array_equal(large[..., :3], none[..., :3])
    np.testing.assert_array_equal(none[..., 3:], 0)
    assert np.all(np.abs(usual[..., 3:]).max((1, 2, 3)) > 0)


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


@pytest.mark.parametrize(
    "sampler",
    [time_sampling.UNIFORM, time_sampling.STRATIFIED, time_sampling.ANTITHETIC],
)
def test_the_exact_denoiser_has_the_irreducible_loss(sampler):
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
            times=sampler,
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
