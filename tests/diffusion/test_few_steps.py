"""Losses of few steps, against flow maps that are known exactly."""

from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flows import (
    MEANS,
    VARIANCES,
    WEIGHTS,
    fitted_order,
    level_of,
    mixture_flow,
)

from ddpm_jax.diffusion import few_steps, losses, schedules
from ddpm_jax.diffusion.few_steps import Consistency, FewStepContext, Networks
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import (
    PREDICTIONS,
    Prediction,
    add_noise,
    eps_from_x0,
    small_variance,
)
from ddpm_jax.diffusion.samplers import consistency
from ddpm_jax.diffusion.schedules import Level

SCHEDULES = {
    "table": schedules.from_betas(schedules.cosine_betas(100)),
    "zero-terminal": schedules.from_betas(
        schedules.zero_terminal_snr(schedules.linear_betas(100, 1e-3, 0.1))
    ),
    "log-SNR": schedules.cosine_logsnr(num_levels=100),
    "straight": schedules.straight(100),
    "scaled": schedules.scale_time(schedules.linear_logsnr(num_levels=100), 10.0),
}


def context(schedule, prediction="v", num_steps=8, null=lambda cond: cond):
    of = losses.LossContext(PREDICTIONS[prediction], small_variance, schedule)
    return FewStepContext(of, num_steps, null)


def network(params, x_t, t, cond):
    """Bend x_t by t and the condition, so that each level has a function of its own."""
    bent = jnp.tanh(params[0] * x_t + params[1] * jnp.cos(t / 30.0)[:, None])
    return bent + params[2] if cond is None else bent + params[2] * cond["y"][:, None]


PARAMS = jnp.array([0.7, -0.4, 0.3])


def draw(schedule, num=64, dim=3, key=0):
    x0 = jax.random.uniform(jax.random.key(key), (num, dim), minval=-1.0)
    return losses.noise_data(jax.random.key(key + 1), x0, schedule)


def evaluate(spec, of, noised, step, params=PARAMS, cond=None, net=network):
    loss = spec.few_steps(of)
    networks = Networks(net, net)
    return loss.evaluate(
        jax.random.key(5),
        networks,
        params,
        noised,
        cond,
        jnp.asarray(step),
        loss.init(PARAMS),
    )[0]


# --- Levels of a pair -----------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_share_of_noise_is_found_again_on_any_schedule(name):
    schedule = SCHEDULES[name]
    times = jnp.array([-1, 0, 3, 40, 99])
    level = schedule.at(times)
    found = few_steps.at_share(schedule, few_steps.noise_share(level))
    for leaf, wanted in zip(found, level, strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stage", [0, 1, 5])
def test_each_stage_halves_what_lies_between_a_pair(name, stage):
    schedule = SCHEDULES[name]
    t = schedule.at(jnp.arange(100))
    r = few_steps.cleaner_level(schedule, t, 1.0 - 2.0**-stage)
    u = np.asarray(t.sigma / (t.alpha + t.sigma), np.float64)
    wanted = u * (1.0 - 2.0**-stage)
    is_clean = wanted < u[0]
    found = np.asarray(r.sigma / (r.alpha + r.sigma))
    np.testing.assert_allclose(found, np.where(is_clean, 0, wanted), rtol=1e-4)
    assert (np.asarray(r.sigma)[is_clean] == 0).all()
    assert (np.asarray(r.alpha)[is_clean] == 1).all()
    assert is_clean.any() and (stage == 0 or not is_clean.all())


# --- The loss -------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["x0", "v", "flow"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_first_stage_is_the_loss_of_x0_bit_for_bit(name, prediction):
    schedule, noised = SCHEDULES[name], draw(SCHEDULES[name])
    of, spec = context(schedule, prediction), Consistency(huber=0.0)
    output = network(PARAMS, noised.x_t, noised.t.t, None)
    x0 = of.loss.kind.predict(output, noised.x_t, noised.t).x0
    u = noised.t.sigma / (noised.t.alpha + noised.t.sigma)
    wanted = jnp.mean((x0 - noised.x0) ** 2, axis=1) / u
    found = evaluate(spec, of, noised, step=0)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found, spec.build(of.loss)(output, noised))
    assert (evaluate(spec, of, noised, step=1) != found).any()


def test_the_distance_is_the_pseudo_huber_of_the_root_mean_square():
    difference = np.array([[3.0, 4.0], [0.003, 0.004], [0.0, 0.0]], np.float32)
    found = few_steps.distance(jnp.asarray(difference), 0.01)
    mean = (difference.astype(np.float64) ** 2).mean(1)
    np.testing.assert_allclose(found, np.sqrt(mean + 1e-4) - 0.01, rtol=1e-4)


def test_no_gradient_goes_through_the_target():
    """Of f = params x_t, d/dp sum (p x_t - c)^2 / n / (u_t - u_r), c being p x_r."""
    schedule = SCHEDULES["straight"]
    noised = draw(schedule, num=9)
    of, spec = context(schedule, "x0"), Consistency(huber=0.0)

    def net(params, x_t, t, cond):
        return params * x_t

    def total(p):
        return evaluate(spec, of, noised, 1, params=p, net=net).sum()

    gradient = jax.grad(total)(0.8)
    u = np.asarray(noised.t.sigma, np.float64)[:, None]  # alpha + sigma is 1
    u_r = np.where(u / 2 < 1 / 100, 0, u / 2)
    x0, eps = (np.asarray(a, np.float64) for a in (noised.x0, noised.eps))
    x_t, x_r = ((1 - a) * x0 + a * eps for a in (u, u_r))
    there = np.where(u_r == 0, x0, 0.8 * x_r)
    wanted = (2 * (0.8 * x_t - there) * x_t / 3 / (u - u_r)).sum()
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4)


def test_stages_share_the_run_and_the_last_one_goes_on():
    stages = few_steps.stage_of(jnp.arange(14), 10, 4)
    np.testing.assert_array_equal(stages, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3])


def test_a_teacher_leads_the_pairs_with_guidance():
    """At the first stage what it predicts, guided, is the target itself."""
    schedule = SCHEDULES["table"]
    noised = draw(schedule)
    cond = {"y": jnp.linspace(-1, 1, 64)}

    def null(cond):
        return {"y": jnp.zeros_like(cond["y"])}

    of = context(schedule, null=null)
    spec = Consistency(pairs="teacher", guidance_scale=3.0, huber=0.0)
    student = 0.5 * PARAMS
    found = evaluate(spec, of, noised, 0, params=student, cond=cond)

    def x0_of(params, cond):
        output = network(params, noised.x_t, noised.t.t, cond)
        return of.loss.kind.predict(output, noised.x_t, noised.t).x0

    guided = 3.0 * x0_of(PARAMS, cond) - 2.0 * x0_of(PARAMS, null(cond))
    u = few_steps.noise_share(noised.t)
    wanted = ((x0_of(student, cond) - guided) ** 2).mean(1) / u
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


# --- At the exact flow map ------------------------------------------------------------

VALUE = 0.3  # of N(0, 0.3)


def gaussian_map(x_t, level, cond=None):
    """The end of the path through x_t, of N(0, VALUE) in one dimension."""
    alpha, sigma = (oracles.column(leaf) for leaf in (level.alpha, level.sigma))
    x0 = x_t * jnp.sqrt(VALUE / (alpha**2 * VALUE + sigma**2))
    return Prediction(x0, eps_from_x0(x0, x_t, level))


def quadrature(level, num=24):
    """Pairs (x0, eps) and weights, exact for polynomials of both."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    weights = weights / weights.sum()
    x0, eps = np.meshgrid(np.sqrt(VALUE) * nodes, nodes)
    x0, eps = (jnp.asarray(a.reshape(-1, 1), jnp.float32) for a in (x0, eps))
    t = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, x0.shape[:1]), level)
    noised = losses.Noised(x0, eps, add_noise(x0, eps, t), t, t, t.t)
    return noised, np.outer(weights, weights).reshape(-1)


def expected_gradient(level, schedule, ratio, loss_too=False):
    """Of the squared loss, for a change of f = J + theta x_t at theta = 0."""
    noised, weights = quadrature(level)
    r = few_steps.cleaner_level(schedule, noised.t, ratio)

    def each(theta):
        def f(x_t, level, cond=None):
            found = gaussian_map(x_t, level)
            return found._replace(x0=found.x0 + theta * x_t)

        return few_steps.consistency_losses(f, gaussian_map, noised, r)

    return float(weights @ np.asarray(jax.jvp(each, (0.0,), (1.0,))[1], np.float64))


@pytest.mark.parametrize("name", ["table", "straight"])
def test_the_expected_gradient_of_consistency_training_vanishes_at_the_true_map(name):
    """It is 2 E[(f_t - f_r) x_t] / (u_t - u_r), which falls like u_t - u_r.

    With the standard deviations S of x, and C the covariance of x_t and x_r:
    2 sqrt(v) (S_t - C / S_r) / (u_t - u_r). Cauchy and Schwarz have C <= S_t S_r.
    """
    schedule = SCHEDULES[name]
    level = schedule.at(jnp.asarray(50))
    a, s = float(level.alpha), float(level.sigma)
    u, found, wanted = s / (a + s), [], []
    for stage in (1, 2, 3, 4, 5):
        ratio = 1.0 - 2.0**-stage
        found.append(expected_gradient(level, schedule, ratio))
        r = few_steps.at_share(schedule, jnp.float32(ratio * u))
        a_r, s_r = float(r.alpha), float(r.sigma)
        std, std_r = (np.sqrt(b**2 * VALUE + c**2) for b, c in ((a, s), (a_r, s_r)))
        covariance = a * a_r * VALUE + s * s_r
        wanted.append(2 * np.sqrt(VALUE) * (std - covariance / std_r) / (u - ratio * u))
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-5)
    assert -np.polyfit(range(5), np.log2(found), 1)[0] == pytest.approx(1, abs=0.15)


def test_the_loss_of_consistency_training_does_not_vanish_at_the_true_map():
    """Pairs of the data are on one path only on average."""
    schedule = SCHEDULES["straight"]
    noised, weights = quadrature(schedule.at(jnp.asarray(50)))
    means = []
    for stage in (3, 5):
        r = few_steps.cleaner_level(schedule, noised.t, 1.0 - 2.0**-stage)
        each = few_steps.consistency_losses(
            gaussian_map, gaussian_map, noised, r, huber=1e-6
        )
        means.append(weights @ np.asarray(each, np.float64))
    assert means[0] == pytest.approx(means[1], rel=0.1) and means[1] > 0.1


def mixture_map(x, level):
    ends = mixture_flow(x, WEIGHTS, MEANS, VARIANCES, level, (1.0, 0.0))
    return ends[:, 0]


@pytest.mark.parametrize(("order", "rule"), [(3, "heun"), (2, "ddim")])
def test_a_step_of_the_teacher_leaves_the_path_by_its_order(order, rule):
    """The residual of consistency distillation at the true f; one step, so order + 1.

    Heun's rule has the error h^3 a step, and DDIM, which the same code is where r is
    too clean for it, h^2.
    """
    denoise = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
    x_t = jnp.linspace(-1.5, 1.5, 41)[:, None]
    t, errors, spans = level_of(-0.5), [], [0.4, 0.2, 0.1]
    wanted = mixture_map(x_t, t)

    def rows(level):
        leaves = [jnp.full(41, value, jnp.float32) for value in (0.0, *level)]
        return Level(*leaves)

    for span in spans:
        r = level_of(-0.5 + span)
        if rule == "heun":
            x_r = few_steps.heun_step(denoise, x_t, rows(t), rows(r), None)
        else:
            found = denoise(x_t, rows(t))
            x_r = r[0] * found.x0 + r[1] * found.eps
        errors.append(np.abs(mixture_map(x_r, r) - wanted).max())
    assert fitted_order(np.array(errors), 1 / np.array(spans)) == pytest.approx(
        order, abs=0.35
    )


def test_a_step_of_the_teacher_to_the_clean_end_is_what_it_predicts():
    denoise, x_t = oracles.gaussian([0.2], [0.5]), jnp.linspace(-2, 2, 5)[:, None]
    t = SCHEDULES["table"].at(jnp.full(5, 60))
    clean = SCHEDULES["table"].at(jnp.full(5, -1))
    found = few_steps.heun_step(denoise, x_t, t, clean, None)
    np.testing.assert_allclose(found, denoise(x_t, t).x0, rtol=1e-6)


# --- The sampler ----------------------------------------------------------------------


def exact_mixture_map(schedule, levels):
    """J(x; t -> 0) of the mixture as a denoiser, of a table for each of the levels."""
    places = np.linspace(-6, 6, 4001)
    tables = [
        mixture_map(places[:, None], (float(a), float(s)))
        for a, s in zip(levels.alpha[:-1], levels.sigma[:-1], strict=True)
    ]
    tables, alphas = jnp.asarray(np.stack(tables), jnp.float32), levels.alpha[:-1]

    def denoise(x_t, level, cond=None):
        table = tables[jnp.argmin(jnp.abs(alphas - level.alpha))]
        x0 = jnp.interp(x_t, jnp.asarray(places, jnp.float32), table)
        return Prediction(x0, eps_from_x0(x0, x_t, level))

    return denoise


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_calls_of_the_exact_map_sample_the_data(data, num_steps):
    """However many: noise over the data, mapped again, has the law of the data."""
    schedule = schedules.from_betas(schedules.cosine_betas(1000))
    levels = grid(schedule, num_steps)
    keys = image_keys(jax.random.key(3), jnp.arange(40_000))
    denoise = gaussian_map
    if data == "mixture":
        denoise = exact_mixture_map(schedule, levels)
    x, _ = jax.jit(
        lambda: generate(
            keys, consistency(), denoise, initial_noise(keys, (1,)), levels
        )
    )()
    x = np.sort(np.asarray(x, np.float64)[:, 0])
    if data == "gaussian":
        parts, means, variances = [1.0], [0.0], [VALUE]
    else:
        parts, means, variances = WEIGHTS, np.ravel(MEANS), VARIANCES

    def below(value):
        return sum(
            w * 0.5 * (1 + erf((value - m) / np.sqrt(2 * v)))
            for w, m, v in zip(parts, means, variances, strict=True)
        )

    mean = np.dot(parts, means)
    variance = np.dot(parts, np.asarray(variances) + np.square(means)) - mean**2
    assert x.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / len(x)))
    assert x.var() == pytest.approx(variance, rel=0.04)
    places = x[:: len(x) // 50]
    shares = np.arange(0, len(x), len(x) // 50) / len(x)
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed once in a thousand.
    assert np.abs([below(v) for v in places] - shares).max() < 1.95 / np.sqrt(len(x))


def test_fresh_noise_of_the_next_level_is_laid_over_what_is_predicted():
    """Of a point p: x_s - alpha_s p is N(0, sigma_s^2), whatever x_t was."""
    schedule = SCHEDULES["straight"]
    levels = grid(schedule, 4)
    keys = image_keys(jax.random.key(1), jnp.arange(20_000))

    def denoise(x_t, level, cond=None):
        x0 = jnp.full_like(x_t, 0.4)
        return Prediction(x0, eps_from_x0(x0, x_t, level))

    noise = initial_noise(keys, (1,))
    x, seen = generate(
        keys,
        consistency(),
        denoise,
        noise,
        levels,
        record=lambda info: info.x_s,
        num_records=4,
    )
    for i in range(3):
        rest = np.asarray(seen[i] - levels.alpha[i + 1] * 0.4)
        assert rest.std() == pytest.approx(float(levels.sigma[i + 1]), rel=0.02)
        assert abs(np.corrcoef(rest[:, 0], noise[:, 0])[0, 1]) < 0.03
    np.testing.assert_array_equal(x, np.float32(0.4))
