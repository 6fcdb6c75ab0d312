"""Losses of few steps, against flow maps that are known exactly."""

from itertools import pairwise
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
    gaussian_flow,
    level_of,
    mixture_flow,
)

from ddpm_jax.diffusion import few_steps, losses, schedules
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.few_steps import (
    Consistency,
    FewStepContext,
    MeanFlow,
    Networks,
    Progressive,
)
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import (
    PREDICTIONS,
    Prediction,
    add_noise,
    eps_from_x0,
    small_variance,
)
from ddpm_jax.diffusion.samplers import consistency, ddim
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


# --- Progressive distillation ---------------------------------------------------------


def bent(x_t, level, cond=None):
    """A denoiser of no data, which is as curved as one likes."""
    alpha, sigma = (oracles.column(leaf) for leaf in (level.alpha, level.sigma))
    x0 = jnp.sin(3.0 * x_t) * alpha + jnp.cos(2.0 * sigma * x_t)
    return Prediction(x0, eps_from_x0(x0, x_t, level))


@pytest.mark.parametrize("name", ["table", "straight", "log-SNR"])
@pytest.mark.parametrize("times", [(90, 70, 50), (60, 30, -1), (5, 3, 1)])
def test_one_step_with_the_target_is_two_steps_of_the_teacher(name, times):
    t, m, s = (SCHEDULES[name].at(jnp.full(7, time)) for time in times)
    x_t = jnp.linspace(-2, 2, 21).reshape(7, 3)
    found = few_steps.two_step_target(bent, x_t, t, m, s)

    def steps(x, *levels):
        for a, b in pairwise(levels):
            at = bent(x, a)
            alpha, sigma = (oracles.column(leaf) for leaf in (b.alpha, b.sigma))
            x = alpha * at.x0 + sigma * at.eps
        return x

    alpha, sigma = (oracles.column(leaf) for leaf in (s.alpha, s.sigma))
    one, two = alpha * found.x0 + sigma * found.eps, steps(x_t, t, m, s)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=2e-6)
    assert np.abs(two - steps(x_t, t, s)).max() > 1e-3  # the teacher's path is bent
    np.testing.assert_allclose(
        oracles.column(t.alpha) * found.x0 + oracles.column(t.sigma) * found.eps,
        x_t,
        atol=2e-6,
    )


def test_a_teacher_whose_steps_are_exact_is_its_own_target():
    """Of one point of data, DDIM's steps are exact, however long."""
    t, m, s = (SCHEDULES["table"].at(jnp.full(4, time)) for time in (99, 40, 10))
    point = oracles.finite(np.array([[0.2, -0.7, 0.5]]))
    found = few_steps.two_step_target(point, jnp.ones((4, 3)), t, m, s)
    np.testing.assert_allclose(found.x0, np.tile([0.2, -0.7, 0.5], (4, 1)), atol=1e-5)


def run_progressive(spec, steps, num_steps, seen=None, params=PARAMS, cond=None):
    """Evaluate at several steps in turn; return the losses and the last carry."""
    schedule = SCHEDULES["table"]
    of = context(schedule, num_steps=num_steps, null=lambda cond: {"y": 0 * cond["y"]})
    loss, found = spec.few_steps(of), []
    noised = draw(schedule)

    def net(params, x_t, t, cond):
        if seen is not None:
            seen.append(np.unique(t))
        return network(params, x_t, t, cond)

    carry = loss.init(PARAMS)
    for step in steps:
        losses_, carry = loss.evaluate(
            None, Networks(net, net), params, noised, cond, jnp.asarray(step), carry
        )
        found.append(losses_)
    return found, carry, noised


def test_each_stage_halves_the_grid_on_which_the_student_is_sampled():
    """The student is trained at the times of `trailing`, and nowhere else."""
    spec, schedule = Progressive(num_stages=3, final_steps=2), SCHEDULES["table"]
    for stage, count in enumerate((8, 4, 2)):
        seen = []
        run_progressive(spec, [2 * stage], num_steps=6, seen=seen)
        first, middle, student = seen
        wanted = np.sort(np.asarray(grid(schedule, count).t)[:-1])
        between = np.sort(np.asarray(grid(schedule, 2 * count).t)[1::2])
        np.testing.assert_array_equal(student, wanted)
        np.testing.assert_array_equal(first, wanted)
        np.testing.assert_array_equal(middle, between)


def test_a_plain_stage_is_the_diffusion_loss_and_the_next_is_not():
    spec = Progressive(num_stages=3, plain_stages=1)
    (plain, halving), _, noised = run_progressive(spec, [0, 2], num_steps=6)
    output = network(PARAMS, noised.x_t, noised.t.t, None)
    simple = losses.simple_loss(PREDICTIONS["v"])
    np.testing.assert_array_equal(plain, simple(output, noised))
    assert (halving != plain).mean() > 0.9


def test_the_average_of_the_student_becomes_the_teacher_at_each_stage():
    spec, moved = Progressive(num_stages=2), PARAMS + 1.0
    carries = [
        run_progressive(spec, range(last + 1), num_steps=40, params=moved)[1]
        for last in (0, 19, 20)
    ]
    for carry, steps in zip(carries, (1, 20, 21), strict=True):
        # 10 steps of memory in a stage of 20.
        np.testing.assert_allclose(carry.average, PARAMS + 1 - 0.5**steps, rtol=1e-5)
    np.testing.assert_array_equal(carries[0].teacher, PARAMS)
    np.testing.assert_array_equal(carries[1].teacher, PARAMS)
    np.testing.assert_array_equal(carries[2].teacher, carries[1].average)


def test_guidance_is_of_the_first_teacher_alone():
    """Later ones have learned it."""
    cond = {"y": jnp.linspace(-1, 1, 64)}
    for step, is_guided in ((0, True), (3, False)):
        plain, guided = (
            run_progressive(spec, [step], num_steps=6, cond=cond)[0][0]
            for spec in (
                Progressive(num_stages=2),
                Progressive(num_stages=2, guidance_scale=3.0),
            )
        )
        assert (np.abs(plain - guided).max() > 1e-3) == is_guided
        if not is_guided:
            np.testing.assert_allclose(plain, guided, rtol=1e-5)


# --- Mean flow ------------------------------------------------------------------------

STRAIGHT = {
    "even": schedules.straight(100),
    "shifted": schedules.straight(100, shift=3.0, alpha_min=0.01),
}


def average_velocity(x_t, u, u_r):
    """Of N(0, VALUE) on the straight path: (x_t - J(x_t; u -> u_r)) / (u - u_r)."""
    u, u_r = (jnp.asarray(value)[:, None] for value in (u, u_r))

    def std(u):
        return jnp.sqrt((1 - u) ** 2 * VALUE + u**2)

    return x_t * (1 - std(u_r) / std(u)) / (u - u_r)


@pytest.mark.parametrize("name", STRAIGHT)
@pytest.mark.parametrize("times", [(99, 0), (80, 79), (40, -1), (15, 3)])
def test_the_mean_flow_identity_holds_at_the_exact_average_velocity(name, times):
    schedule = STRAIGHT[name]
    t, r = (schedule.at(jnp.full(9, float(time))) for time in times)
    u, u_r = few_steps.noise_share(t), few_steps.noise_share(r)
    x_t = jnp.linspace(-2, 2, 9)[:, None]
    exact = oracles.gaussian([0.0], [VALUE])(x_t, t)
    w, target = few_steps.mean_flow_target(
        lambda x, time: average_velocity(
            x, few_steps.noise_share(schedule.at(time)), u_r
        ),
        x_t,
        jnp.full(9, float(times[0])),
        exact.eps - exact.x0,
        lambda time: few_steps.noise_share(schedule.at(time)),
        u - u_r,
    )
    np.testing.assert_allclose(w, average_velocity(x_t, u, u_r), rtol=1e-6)
    # float32 knows w over a step of 0.01 to five digits.
    np.testing.assert_allclose(w, target, atol=2e-4 if times == (80, 79) else 2e-5)


@pytest.mark.parametrize("name", STRAIGHT)
def test_the_derivative_of_mean_flow_is_that_of_a_finite_difference(name):
    schedule = STRAIGHT[name]
    velocity = jnp.array([[0.3], [-1.2], [0.8]])
    x_t, time = jnp.array([[0.5], [-0.2], [1.1]]), jnp.array([60.0, 30.0, 90.0])

    def average(x, time):
        return jnp.sin(x) * jnp.cos(time / 20.0)[:, None]

    def share(time):
        return few_steps.noise_share(schedule.at(time))

    length = jnp.array([0.2, 0.1, 0.4])
    w, target = few_steps.mean_flow_target(average, x_t, time, velocity, share, length)
    h, last = 1e-4, 1.0 - schedule.at(99).alpha
    shift = 3.0 if name == "shifted" else 1.0

    def at(step):  # in float64, along the path in u
        u = np.asarray(share(time), np.float64) + step
        v = u / (u + shift * (1 - u))  # the share before the shift
        left = shift * (1 - last) / (shift * (1 - last) + last)
        times = v / (1 - left) * 100 - 1
        x = np.asarray(x_t, np.float64) + step * np.asarray(velocity)
        return np.sin(x) * np.cos(times / 20.0)[:, None]

    change = (at(h) - at(-h)) / (2 * h)
    wanted = velocity - np.asarray(length)[:, None] * change
    np.testing.assert_allclose(w, average(x_t, time))
    np.testing.assert_allclose(target, wanted, rtol=2e-3, atol=2e-3)


def flow_network(params, x_t, t, cond):
    """Bend x_t by t, and by how far the step goes."""
    bent = jnp.tanh(params[0] * x_t + params[1] * jnp.cos(t / 30.0)[:, None])
    return bent + params[2] * jnp.sin(cond[few_steps.JUMP] / 10.0)[:, None]


def test_without_jumps_mean_flow_is_flow_matching_bit_for_bit():
    """Of a network of products: XLA rounds a tanh otherwise beside its derivative."""
    schedule = STRAIGHT["even"]
    noised, of = draw(schedule), context(schedule, "flow")

    def net(params, x_t, t, cond):
        told = params[1] * t + params[2] * cond[few_steps.JUMP]
        return params[0] * x_t + 0.01 * told[:, None]

    output = net(PARAMS, noised.x_t, noised.t.t, {few_steps.JUMP: jnp.zeros(64)})
    wanted = losses.simple_loss(PREDICTIONS["flow"])(output, noised)
    still, jumps = (
        evaluate(MeanFlow(jump_share=share, power=0.0), of, noised, 0, net=net)
        for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(still, wanted)
    assert (np.abs(jumps - wanted) > 1e-4).mean() > 0.9


def test_the_weight_of_mean_flow_is_a_constant_of_the_gradient():
    schedule = STRAIGHT["even"]
    noised, of = draw(schedule, num=5), context(schedule, "flow")

    def each(power):
        def of_scale(scale):
            spec = MeanFlow(jump_share=0.0, power=power)
            return evaluate(
                spec, of, noised, 0, params=scale * PARAMS, net=flow_network
            )

        return jax.jvp(of_scale, (1.0,), (1.0,))

    plain, slope = each(0.0)
    weighed, of_weighed = each(0.5)
    weight = (np.asarray(plain, np.float64) + 0.01) ** -0.5
    np.testing.assert_allclose(weighed, weight * plain, rtol=1e-5)
    np.testing.assert_allclose(of_weighed, weight * slope, rtol=1e-4, atol=1e-6)


def test_ends_of_jumps_are_even_between_the_level_and_the_clean_one():
    schedule = STRAIGHT["even"]
    noised = draw(schedule, num=4000)
    ends = MeanFlow(jump_share=0.6)._ends(jax.random.key(2), schedule, noised)
    share = np.asarray(few_steps.noise_share(ends) / few_steps.noise_share(noised.t))
    jumps = share < 1 - 1e-6
    assert jumps.mean() == pytest.approx(0.6, abs=0.04)
    values = np.sort(share[jumps])
    even = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - even).max() < 1.95 / np.sqrt(len(values))


# --- Steps with an average velocity ---------------------------------------------------


def jump_denoiser(schedule):
    """The exact average velocity as a network of flow that is told the jump."""

    def net(params, x_t, t, cond):
        u = few_steps.noise_share(schedule.at(t))
        end = jnp.maximum(t - cond[few_steps.JUMP], -1.0)
        return average_velocity(x_t, u, few_steps.noise_share(schedule.at(end)))

    return from_network(net, None, PREDICTIONS["flow"])


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("name", STRAIGHT)
def test_steps_of_the_exact_average_velocity_end_where_the_path_does(name, num_steps):
    """J(J(x; t -> s); s -> 0) = J(x; t -> 0): as many steps as one likes."""
    schedule = STRAIGHT[name]
    levels = grid(schedule, num_steps)
    keys = image_keys(jax.random.key(0), jnp.arange(50))
    noise = initial_noise(keys, (1,))
    x, _ = generate(
        keys,
        few_steps.jumping(ddim()),
        jump_denoiser(schedule),
        noise,
        levels,
    )
    first = (float(levels.alpha[0]), float(levels.sigma[0]))
    wanted = gaussian_flow(noise, 0.0, np.array([VALUE]), first, (1.0, 0.0))
    np.testing.assert_allclose(x, wanted, atol=1e-5)


def test_the_consistency_sampler_jumps_to_the_clean_end():
    schedule = STRAIGHT["even"]
    keys = image_keys(jax.random.key(0), jnp.arange(20_000))
    x, _ = generate(
        keys,
        few_steps.jumping(consistency(), clean_t=-1.0),
        jump_denoiser(schedule),
        initial_noise(keys, (1,)),
        grid(schedule, 3),
    )
    assert float(x.var()) == pytest.approx(VALUE, rel=0.04)


def test_a_network_that_ignores_the_jump_is_sampled_as_before():
    schedule = SCHEDULES["table"]
    keys = image_keys(jax.random.key(0), jnp.arange(4))

    def run(sampler):
        return generate(
            keys, sampler, bent, initial_noise(keys, (3,)), grid(schedule, 6)
        )[0]

    for plain in (ddim(), ddim(0.5), consistency()):
        np.testing.assert_array_equal(run(few_steps.jumping(plain)), run(plain))
