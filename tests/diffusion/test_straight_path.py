"""Nothing assumes alpha^2 + sigma^2 = 1: the straight path, alpha = 1 - u, sigma = u.

Every part that reads levels is run on it with exact denoisers, and compared with the
exact flow, law or density. Where the sum is 1, as in the other schedules, what the
general formulas multiply and divide by is 1 to the last bit. And at equal log-SNR both
are one process in two scales, so that either model is the other, rescaled.
"""

from functools import cache, partial

import flows
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import (
    grids,
    karras,
    losses,
    multistep,
    ode,
    ode_likelihood,
    process,
    samplers,
    schedules,
)
from ddpm_jax.diffusion import loss_weights as weights
from ddpm_jax.diffusion.denoisers import from_network, rescaled
from ddpm_jax.diffusion.generate import (
    generate,
    generate_part,
    image_keys,
    initial_noise,
)
from ddpm_jax.diffusion.preconditioning import edm
from ddpm_jax.diffusion.process import PREDICTIONS, Prediction
from ddpm_jax.diffusion.samplers import State
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.diffusion.variational_bound import variational_bound
from ddpm_jax.errors import UserError

STRAIGHT = schedules.straight()
SHORT = schedules.straight(alpha_min=0.0005)  # some signal is left at the noisy end
KEYS = image_keys(jax.random.key(6), jnp.arange(60))
X_INIT = initial_noise(KEYS, (1,))
PRESERVING = {
    "linear": schedules.from_betas(schedules.linear_betas(1000)),
    "cosine": schedules.from_betas(schedules.cosine_betas(1000)),
    "sigmoid": schedules.from_betas(schedules.sigmoid_betas(1000)),
    "jsd": schedules.from_betas(schedules.jsd_betas(1000)),
    "linear_logsnr": schedules.linear_logsnr(),
    "cosine_logsnr": schedules.cosine_logsnr(),
    "widest_logsnr": schedules.linear_logsnr(80.0, -80.0),
}


at = jax.jit(STRAIGHT.at)
at_logsnr = jax.jit(STRAIGHT.at_logsnr)
square_norm = jax.jit(lambda level: level.square_norm)


@jax.jit
def rotated(v, x, level):
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    return alpha * x - sigma * v, sigma * x + alpha * v


@jax.jit
def from_v(v, x, level):
    return process.x0_from_v(v, x, level), process.eps_from_v(v, x, level)


def pair(level):
    return float(level.alpha), float(level.sigma)


# --- Levels and predictions -----------------------------------------------------------


def test_level_of_a_log_snr_is_on_the_path():
    logsnr = jnp.linspace(-14.0, 14.0, 57)
    level = at_logsnr(logsnr)
    np.testing.assert_allclose(level.logsnr, logsnr, atol=1e-5)
    np.testing.assert_allclose(level.alpha + level.sigma, 1, rtol=2e-7)
    there = at(level.t)
    np.testing.assert_allclose(there.sigma, level.sigma, atol=2e-7)
    scaled = schedules.scale_time(STRAIGHT, 0.25).at_logsnr(logsnr)
    unscaled = STRAIGHT.at_logsnr(logsnr)  # neither is compiled: to the last bit
    np.testing.assert_array_equal(scaled.t, unscaled.t * 0.25)
    np.testing.assert_array_equal(scaled.alpha, unscaled.alpha)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_any_output_gives_the_same_prediction(name):
    """Made from x_0 and eps by its definition, and read back, at 99 levels."""
    kind = PREDICTIONS[name]
    x0, eps = np.random.default_rng(1).standard_normal((2, 99, 5)).astype(np.float32)

    @jax.jit
    def there_and_back(x0, eps, level):
        x_t = process.add_noise(x0, eps, level)
        return kind.predict(kind.target(x0, eps, level), x_t, level)

    found = there_and_back(x0, eps, at(jnp.arange(9, 990, 10)))
    np.testing.assert_allclose(found.x0, x0, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-4, atol=1e-4)


def test_v_is_read_back_at_both_ends():
    x0, eps = np.full((2, 1), np.float32(0.3)), np.full((2, 1), np.float32(-1.2))
    level = at(jnp.array([-1, 999]))
    x_t = process.add_noise(x0, eps, level)
    v = process.v_from_x0_eps(x0, eps, level)
    np.testing.assert_array_equal(process.x0_from_v(v, x_t, level), x0)
    np.testing.assert_array_equal(process.eps_from_v(v, x_t, level), eps)


@pytest.mark.parametrize("name", PRESERVING)
def test_where_variance_is_preserved_the_sum_is_one_to_the_last_bit(name):
    schedule = PRESERVING[name]
    logsnr = jnp.linspace(-80.0, 80.0, 4001)
    for level in (schedule.at(jnp.arange(-1, 1000)), schedule.at_logsnr(logsnr)):
        assert np.all(np.asarray(level.square_norm) == 1)
        assert np.all(np.asarray(square_norm(level)) == 1)
    # So v keeps the bits of its rotation.
    x, v = np.random.default_rng(0).standard_normal((2, 1001, 3)).astype(np.float32)
    level = schedule.at(jnp.arange(-1, 1000))
    jax.tree.map(
        np.testing.assert_array_equal, from_v(v, x, level), rotated(v, x, level)
    )


def test_the_straight_path_has_its_own_sum():
    level = at(jnp.array([-1, 249, 499, 999]))
    np.testing.assert_allclose(square_norm(level), [1, 0.625, 0.5, 1], rtol=1e-6)


# --- Samplers -------------------------------------------------------------------------


def test_ddim_is_eulers_rule_for_the_velocity():
    """On the straight path dx/du = eps - x_0, along which a step is as long as u."""
    denoise = flows.DENOISERS["mixture"]
    t, s = at(jnp.float32(700)), at(jnp.float32(500))
    prediction = jax.jit(denoise)(X_INIT, t)
    expected = X_INIT + (s.sigma - t.sigma) * (prediction.eps - prediction.x0)
    for sampler in (samplers.ddim(0.0), karras.euler()):
        step = jax.jit(partial(sampler.step, KEYS, denoise, State(X_INIT)))
        np.testing.assert_allclose(step(t, s)[0].x, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (samplers.ddim(0.0), 1),
        (karras.heun(), 2),
        (multistep.dpmpp_2m(), 2),
        (multistep.dpmpp_3m(), 3),
        (multistep.unipc(2), 3),
        (multistep.unipc(3), 4),
        (multistep.pndm(), 2),
    ],
    ids=["ddim", "heun", "2m", "3m", "unipc-2", "unipc-3", "pndm"],
)
def test_order_of_convergence(sampler, expected):
    """On a Gaussian and a mixture, in float64, from log-SNR -6 to 6.

    The start of methods of order 3 and 4 is made as short as h^2; see `test_multistep`.
    On a single Gaussian the leading error of one of them cancels, which adds an order.
    """
    ends = (-6.0, 6.0)

    def path(logsnr):
        sigma = 1 / (1 + np.exp(np.asarray(logsnr) / 2))
        return 1 - sigma, sigma

    exact = [flows.exact_end(d, X_INIT, *map(path, ends)) for d in flows.DENOISERS]
    counts, errors = np.array([40, 80, 160]), []
    with jax.enable_x64(True):

        def denoise(x, level, cond=None):
            parts = [
                f(x[:, [i]], level) for i, f in enumerate(flows.DENOISERS.values())
            ]
            return Prediction(*(jnp.hstack([p[j] for p in parts]) for j in (0, 1)))

        @jax.jit
        def run(x, levels, num_steps):
            state, _ = generate_part(
                KEYS,
                sampler,
                denoise,
                sampler.init(x),
                levels,
                (0, num_steps),
                record=lambda info: (),
            )
            return state.x

        x_init = jnp.asarray(np.hstack([X_INIT] * 2), jnp.float64)
        for num_steps in counts:
            logsnr = np.linspace(*ends, num_steps + 1)
            if expected >= 3:
                short = 8.0 / num_steps**2
                logsnr = np.insert(logsnr, 1, [ends[0] + short, ends[0] + 2 * short])
            leaves = (np.arange(1.0 * len(logsnr)), *path(logsnr))
            # Of one length, so that one program serves all numbers of steps.
            levels = Level(*(np.pad(x, (0, 170 - len(x)), "edge") for x in leaves))
            x = run(x_init, levels, len(logsnr) - 1)
            off = np.asarray(x) - np.hstack(exact)
            errors.append(np.sqrt(np.mean(off**2, axis=0)))
    orders = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(min(orders) - expected) < 0.3, (orders, errors)
    assert np.max(errors[-1]) < 0.03 * 10.0 ** (1 - expected), errors


@pytest.mark.parametrize(
    ("sampler", "within"),
    [(samplers.ddim(0.0), 6e-3), (karras.heun(), 1e-4), (multistep.unipc(2), 1e-3)],
    ids=["ddim", "heun", "unipc-2"],
)
def test_the_whole_path_from_pure_noise_to_the_image(sampler, within):
    """For N(m, v) the flow carries x to m + sqrt(v) x: 400 steps even in time."""
    levels = grids.grid(STRAIGHT, 400)
    assert levels.alpha[0] == 0 and levels.sigma[-1] == 0
    x, _ = jax.jit(
        lambda x: generate(KEYS, sampler, flows.DENOISERS["gaussian"], x, levels)
    )(X_INIT)
    exact = flows.GAUSSIAN_MEAN + np.sqrt(flows.GAUSSIAN_VALUES) * np.asarray(X_INIT)
    assert np.abs(x - exact).max() < within, np.abs(x - exact).max()


@pytest.mark.parametrize("data", flows.DENOISERS)
def test_the_adaptive_solver_meets_the_tolerance(data):
    """A tolerance is of one step, and of y = x / alpha; the whole is within twenty."""
    t, s = (SHORT.at(jnp.float32(value)) for value in (990, 20))
    exact = flows.exact_end(data, X_INIT, pair(t), pair(s))
    levels = jax.tree.map(lambda *leaves: jnp.stack(leaves), t, s)

    @jax.jit
    def run(tolerance):
        sampler = ode.adaptive(SHORT, rtol=tolerance, atol=tolerance)
        return generate(KEYS, sampler, flows.DENOISERS[data], X_INIT, levels)[0]

    worst = [np.abs(run(each) - exact).max() for each in (1e-2, 1e-3, 1e-4, 1e-5)]
    assert np.all(worst < 20 * np.array([1e-2, 1e-3, 1e-4, 1e-5])), worst


def affine(step, x_shape=(2, 1)):
    """Slope and standard deviation of a step x -> A x + b + std z, with z from KEYS."""
    zero, one = step(jnp.zeros(x_shape)), step(jnp.ones(x_shape))
    z = process.noise_like(KEYS[:2], zero)
    std = (zero[0] - zero[1]) / (z[0] - z[1])
    return np.asarray(one - zero)[0, 0], abs(float(std[0]))


@pytest.mark.parametrize(
    ("sampler", "value"),
    [
        (samplers.ancestral(oracles.gaussian_variance(np.array([0.2]))), 0.2),
        (samplers.ancestral(process.large_variance), 1.0),
        (samplers.ancestral(process.small_variance), 0.0),
        (samplers.ddim(1.0), 0.0),
        (multistep.dpmpp_2m_sde(), 0.0),
    ],
    ids=["exact variance", "large", "small", "ddim(1)", "2m_sde"],
)
def test_a_step_of_the_reverse_chain_keeps_the_marginals(sampler, value):
    """N(0, v): the law at t goes to that at s, alpha_s^2 v + sigma_s^2, by any step.

    The large variance is right for v = 1 and the small one for v = 0.
    """
    denoise = oracles.gaussian(np.zeros(1), np.array([value]))

    @jax.jit
    def step(x, t, s):
        return sampler.step(KEYS[:2], denoise, sampler.init(x), t, s)[0].x

    for times in [(999, 700), (700, 650), (500, 20), (20, 3)]:
        t, s = (at(jnp.float32(time)) for time in times)
        slope, std = affine(partial(step, t=t, s=s))
        before, after = (a**2 * value + b**2 for a, b in map(pair, (t, s)))
        message = f"{times}"
        np.testing.assert_allclose(
            slope**2 * before + std**2, after, rtol=2e-5, err_msg=message
        )


def test_churn_walks_up_to_the_law_of_the_level_above():
    t, s = STRAIGHT.at(jnp.float32(400)), STRAIGHT.at(jnp.float32(300))
    above = []

    def step(x):
        def denoise(x, level):
            above.append(level)
            return Prediction(x, jnp.zeros_like(x))

        churn = karras.Churn(STRAIGHT, 3.0, 10)
        sampler = karras.euler(churn)
        # eps = 0 and x_0 = x: the step only scales by alpha_s / alpha_above.
        x_s = sampler.step(KEYS[:2], denoise, State(x), t, s)[0].x
        return x_s * above[-1].alpha / s.alpha

    slope, std = affine(step)
    alpha, sigma = pair(above[-1])
    np.testing.assert_allclose(alpha + sigma, 1, rtol=1e-6)
    np.testing.assert_allclose(sigma / alpha, 1.3 * pair(t)[1] / pair(t)[0], rtol=1e-5)
    before, after = (a**2 * 0.2 + b**2 for a, b in (pair(t), (alpha, sigma)))
    np.testing.assert_allclose(slope**2 * before + std**2, after, rtol=1e-5)


# --- Grids ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "warp"),
    [(grids.karras_grid, lambda r: r ** (1 / 7)), (grids.logsnr_grid, np.log)],
    ids=["karras", "logsnr"],
)
def test_grids_between_the_levels_lie_on_the_path(make, warp):
    levels = make(SHORT, 12)
    np.testing.assert_allclose(levels.alpha + levels.sigma, 1, rtol=3e-7)
    there = SHORT.at(levels.t)
    np.testing.assert_allclose(levels.sigma, there.sigma, atol=1e-6)
    r = np.asarray(levels.sigma, np.float64)[:-1] / np.asarray(levels.alpha)[:-1]
    gaps = np.diff(warp(r))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-3)
    assert pair(jax.tree.map(lambda leaf: leaf[-1], levels)) == (1, 0)
    with pytest.raises(UserError, match="ends in pure noise"):
        make(STRAIGHT, 12)


# --- The likelihood -------------------------------------------------------------------

WEIGHTS, VARIANCES = [0.3, 0.7], np.array([0.02, 0.05])
MEANS = np.array([[0.5, -0.2, 0.1], [-0.4, 0.3, -0.6]])


@pytest.mark.parametrize(
    ("solve", "first"),
    [
        (ode_likelihood.adaptive(rtol=1e-5, atol=1e-5), -1),
        (ode_likelihood.runge_kutta(60), 100),
    ],
    ids=["adaptive, clean", "fixed, noised"],
)
def test_density_by_the_flow_is_exact(solve, first):
    """Of data at the clean end, and of noised data: y = x_0 + (sigma / alpha) eps."""
    rng = np.random.default_rng(0)
    which = rng.choice(2, 32, p=WEIGHTS)
    x = MEANS[which] + rng.normal(size=(32, 3)) * np.sqrt(VARIANCES[which])[:, None]
    x = jnp.asarray(x, jnp.float32)
    schedule = schedules.straight(alpha_min=0.0001)
    start = schedule.at(jnp.float32(first))

    @jax.jit
    def follow(x):
        return ode_likelihood.follow_flow(
            oracles.mixture(WEIGHTS, MEANS, VARIANCES),
            x,
            start,
            schedule.at(jnp.float32(999)),
            schedule=schedule,
            probes=ode_likelihood.exact_probes(x),
            solve=solve,
        )

    flow = follow(x)
    alpha, sigma = pair(start)
    exact = oracles.mixture_log_density(
        alpha * np.asarray(x), WEIGHTS, MEANS, VARIANCES, alpha, sigma
    )
    expected = exact / 3 + np.log(alpha)
    assert np.abs(flow.log_density - expected).max() < 3e-4


# --- Losses ---------------------------------------------------------------------------


@cache
def noised(num=64):
    x0 = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (num, 4)), jnp.float32)
    return jax.jit(lambda key: losses.noise_data(key, x0, STRAIGHT))(jax.random.key(3))


@pytest.mark.parametrize(
    "weight",
    [
        *(weights.even, weights.truncated_snr, weights.min_snr(), weights.p2()),
        weights.sigmoid_snr(-1.0),
        weights.velocity(),
    ],
)
def test_a_weight_by_snr_is_the_same_of_any_output(weight):
    draw = noised()
    off = jax.random.normal(jax.random.key(4), draw.x0.shape)
    eps = draw.eps + 0.3 * off
    x0 = process.x0_from_eps(eps, draw.x_t, draw.t)
    found = [
        jax.jit(weights.snr_weighted_loss(kind, weight))(
            kind.target(x0, eps, draw.t), draw
        )
        for kind in (*PREDICTIONS.values(), edm())
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=2e-3)


def test_the_two_forms_of_the_bound_are_equal():
    draw = noised()
    output = draw.eps + 0.3 * jax.random.normal(jax.random.key(4), draw.x0.shape)
    mean, weighted = (
        jax.jit(make(PREDICTIONS["eps"], process.large_variance, 1e-4))(output, draw)
        for make in (losses.mean_loss, losses.weighted_loss)
    )
    np.testing.assert_allclose(mean, weighted, rtol=1e-3)


# --- The same model on another path ---------------------------------------------------

COSINE = schedules.cosine_logsnr(10.0, -14.0)


def network(params, x_t, t, cond):
    """No exact denoiser of anything, and one that looks at its time."""
    del cond
    return jnp.tanh(params * x_t) - 0.3 * jnp.sin(t / 200.0)[:, None]


MODEL = from_network(network, 1.3, process.V)  # of COSINE
FLOW_MODEL = rescaled(MODEL, COSINE)
LOGSNR = jnp.linspace(-13.0, 9.0, 15)


def run(sampler, denoise, levels, x):
    return jax.jit(lambda x: generate(KEYS, sampler, denoise, x, levels)[0])(x)


@pytest.mark.parametrize(
    "sampler",
    [
        *(karras.heun(), samplers.ddim(0.0), samplers.ddim(1.0), multistep.unipc(2)),
        *(multistep.dpmpp_2m_sde(), multistep.pndm()),
        samplers.ancestral(process.large_variance),
    ],
    ids=["heun", "ddim", "ddim-1", "unipc", "2m_sde", "pndm", "large"],
)
def test_a_model_draws_the_same_on_the_straight_path(sampler):
    """At equal log-SNR x differs by sqrt(alpha^2 + sigma^2), the samples not at all."""
    clean = [jax.tree.map(lambda a: a[None], s.at(-1)) for s in (COSINE, STRAIGHT)]
    path, other = (
        jax.tree.map(lambda a, b: jnp.append(a, b), schedule.at_logsnr(LOGSNR), end)
        for schedule, end in zip((COSINE, STRAIGHT), clean, strict=True)
    )
    scale = jnp.sqrt(other.square_norm[0])
    drawn = run(sampler, MODEL, path, X_INIT)
    np.testing.assert_allclose(
        run(sampler, FLOW_MODEL, other, scale * X_INIT), drawn, atol=1e-5
    )
    # And not so if the straight levels were taken for those of the model.
    assert np.abs(run(sampler, MODEL, other, scale * X_INIT) - drawn).max() > 1e-2


def test_exact_denoisers_draw_the_same_on_both_paths_with_heun():
    """Nothing rescaled: the best denoiser of N(m, v) and of a mixture, on each path."""
    for denoise in flows.DENOISERS.values():
        ends = [
            run(karras.heun(), denoise, levels, scale * X_INIT)
            / jnp.sqrt(levels.square_norm[-1])
            for levels in (COSINE.at_logsnr(LOGSNR), STRAIGHT.at_logsnr(LOGSNR))
            for scale in [jnp.sqrt(levels.square_norm[0])]
        ]
        np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)


def test_there_and_back_is_the_model():
    """A flow model on the variance-preserving path, and back on its own."""
    flow = from_network(network, 0.7, process.FLOW)  # of STRAIGHT
    back = rescaled(rescaled(flow, STRAIGHT), COSINE)
    level = STRAIGHT.at_logsnr(jnp.linspace(-12.0, 9.0, 60))
    again, once = jax.jit(lambda x: (back(x, level), flow(x, level)))(X_INIT)
    np.testing.assert_allclose(again.x0, once.x0, atol=1e-4)
    np.testing.assert_allclose(again.eps, once.eps, atol=1e-4)


@pytest.mark.parametrize("schedule", [COSINE, PRESERVING["cosine"]], ids=["a", "b"])
def test_both_ends_of_the_path_are_levels_of_the_model(schedule):
    """Pure noise and the clean end have no finite log-SNR: x stays as it is."""
    denoise = rescaled(from_network(network, 1.0, process.X0), schedule)
    for t, own in ((999, 999), (-1, -1)):
        found = denoise(X_INIT, STRAIGHT.at(jnp.float32(t))).x0
        t = jnp.full(60, own, jnp.float32)
        np.testing.assert_allclose(found, network(1.0, X_INIT, t, None), atol=1e-6)


def test_the_rescaled_model_has_the_same_density():
    x = 0.3 * X_INIT

    @jax.jit
    def density(x):
        return [
            ode_likelihood.follow_flow(
                denoise,
                x,
                schedule.at_logsnr(jnp.float32(9.0)),
                schedule.at_logsnr(jnp.float32(-13.0)),
                schedule=schedule,
                probes=ode_likelihood.exact_probes(x),
                solve=ode_likelihood.runge_kutta(40),
            ).log_density
            for denoise, schedule in ((MODEL, COSINE), (FLOW_MODEL, STRAIGHT))
        ]

    own, moved = density(x)
    np.testing.assert_allclose(moved, own, atol=1e-5)


def test_the_rescaled_model_has_the_same_bound():
    """All its terms but two: L_T measures x_T against N(0, I) in its own scale, and the
    decoder takes its width from the second step, by Ho et al.'s rule."""
    x0 = jnp.round((jnp.tanh(X_INIT) + 1) * 127.5) / 127.5 - 1

    @jax.jit
    def bound(x0):
        return [
            variational_bound(
                KEYS,
                denoise,
                x0,
                jax.tree.map(jnp.append, schedule.at_logsnr(LOGSNR), schedule.at(-1)),
            )
            for denoise, schedule in ((MODEL, COSINE), (FLOW_MODEL, STRAIGHT))
        ]

    own, moved = bound(x0)
    np.testing.assert_allclose(moved.steps[1:], own.steps[1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved.x0_mse, own.x0_mse, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(moved.eps_mse, own.eps_mse, rtol=1e-4, atol=1e-6)
    norm = STRAIGHT.at_logsnr(LOGSNR[-1]).square_norm
    # The width of the decoder, sigma_s^2 c, is n times that of COSINE.
    assert 0.97 < norm < 0.99
    assert np.abs(np.asarray(moved.steps[0] - own.steps[0])).max() < 0.1
