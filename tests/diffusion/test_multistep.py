"""Multistep samplers run with exact denoisers: order, law, and what no grid may break.

The exact solutions are of the probability-flow ODE, in closed form for Gaussian data
and by fine steps of Runge and Kutta in float64 for a mixture. Statistical tests allow
four standard errors.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import grids, process, schedules
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.multistep import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    pndm,
    unipc,
)
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.diffusion.samplers import State, ancestral, ddim
from ddpm_jax.diffusion.schedules import Level, from_betas
from ddpm_jax.errors import UserError

SAMPLERS = {
    "2m": dpmpp_2m(),
    "3m": dpmpp_3m(),
    "2m_sde": dpmpp_2m_sde(),
    "unipc-1": unipc(1),
    "unipc-2": unipc(2),
    "unipc-3": unipc(3),
    "pndm": pndm(),
}
WEIGHTS = [0.25, 0.75]
MEANS = np.array([[-0.75, 0.5], [0.5, -0.25]])
VARIANCES = np.array([0.0625, 0.125])
BETAS = schedules.linear_betas(1000)
SCHEDULE = from_betas(BETAS)
KEYS = image_keys(jax.random.key(6), jnp.arange(30))
X_INIT = np.random.default_rng(0).standard_normal((30, 2))


def mixture_flow(x, r_from, r_to, num_steps=1500):
    """Follow the ODE of the mixture from r = sigma/alpha to another: float64 [B, 2].

    In y = x/alpha it is dy/dr = eps(y, r), and the noised mixture is one of y too, with
    variances v + r^2.
    """

    def slope(u, y):  # u = log r, dy/du = r eps
        spread = VARIANCES + np.exp(2 * u)
        off = y[:, None] - MEANS
        scores = np.log(WEIGHTS) - 0.5 * np.sum(off**2, -1) / spread - np.log(spread)
        share = np.exp(scores - np.logaddexp.reduce(scores, 1, keepdims=True))
        return np.exp(2 * u) * np.einsum("bk,bkd->bd", share / spread, off)

    y = x * np.sqrt(1 + r_from**2)
    u, h = np.log(r_from), np.log(r_to / r_from) / num_steps
    for _ in range(num_steps):
        k1 = slope(u, y)
        k2 = slope(u + h / 2, y + h / 2 * k1)
        k3 = slope(u + h / 2, y + h / 2 * k2)
        k4 = slope(u + h, y + h * k3)
        y, u = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), u + h
    return y / np.sqrt(1 + r_to**2)


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def run(sampler, denoise):
    """Compile once for all levels of one length."""
    return jax.jit(
        lambda x, levels: generate(KEYS, sampler, denoise, x, levels)[0],
    )


# --- Order of convergence -------------------------------------------------------------


def even_levels(logsnrs):
    """Variance-preserving levels in float64, without a clean end."""
    half = np.asarray(logsnrs) / 2
    root = np.sqrt(2 * np.cosh(half))
    alpha, sigma = np.exp(half / 2) / root, np.exp(-half / 2) / root
    return Level(jnp.arange(1.0 * len(half)), jnp.asarray(alpha), jnp.asarray(sigma))


@pytest.mark.parametrize(
    ("name", "expected", "at_160"),
    [
        ("2m", 2, 1e-4),
        ("3m", 3, 1e-5),
        ("unipc-1", 2, 5e-4),
        ("unipc-2", 3, 1e-5),
        ("unipc-3", 4, 1e-6),
        ("pndm", 2, 1e-4),
    ],
)
def test_order_of_convergence(name, expected, at_160):
    """On Gaussian data and a mixture, in float64, from log-SNR -6 to 6.

    UniPC-p is of order p + 1: Zhao et al. 2023, Corollary 3.2. The third-order methods
    get a start worth their order. Their first two steps are of orders 1 and 2, whose
    errors would show in the end; they are made as short as h^2.
    """
    mean, values = np.array([0.25, -0.5]), np.array([0.5, 0.0625])
    r, r_end = np.exp(3.0), np.exp(-3.0)
    y = mean + (X_INIT * np.hypot(1, r) - mean) * np.sqrt(
        (values + r_end**2) / (values + r**2)
    )
    exact = np.hstack([y / np.hypot(1, r_end), mixture_flow(X_INIT, r, r_end)])
    counts, errors = np.array([40, 80, 160]), []
    with jax.enable_x64(True):
        parts = (
            oracles.gaussian(mean, values),
            oracles.mixture(WEIGHTS, MEANS, VARIANCES),
        )

        def denoise(x, level, cond=None):
            one, other = parts[0](x[:, :2], level), parts[1](x[:, 2:], level)
            return Prediction(
                jnp.hstack([one.x0, other.x0]), jnp.hstack([one.eps, other.eps])
            )

        for num_steps in counts:
            logsnrs = np.linspace(-6.0, 6.0, num_steps + 1)
            if expected >= 3:
                short = 8.0 / num_steps**2
                logsnrs = np.insert(logsnrs, 1, [-6 + short, -6 + 2 * short])
            x = run(SAMPLERS[name], denoise)(
                jnp.hstack([X_INIT, X_INIT]), even_levels(logsnrs)
            )
            assert x.dtype == jnp.float64
            errors.append([rms((x - exact)[:, :2]), rms((x - exact)[:, 2:])])
    orders = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print(name, "orders", orders, "errors", errors)
    assert np.all(np.abs(orders - expected) < 0.25), (orders, errors)
    assert np.max(errors[-1]) < at_160


def test_a_thousand_steps_keep_their_digits_in_float32():
    """h is 0.005 here, where closed forms of the third weights have no digit left."""
    levels = jax.tree.map(lambda leaf: leaf[:-1], grids.grid(SCHEDULE, 1000))
    r = np.asarray(levels.sigma / levels.alpha, np.float64)
    exact = mixture_flow(X_INIT, r[0], r[-1])
    denoise = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
    x_init = jnp.asarray(X_INIT, jnp.float32)
    for name in ("3m", "unipc-3"):
        x = run(SAMPLERS[name], denoise)(x_init, levels)
        assert rms(x - exact) < 1e-4, name


# --- Any grid, any schedule -----------------------------------------------------------


def all_levels(num_steps):
    """Name and levels of every kind of grid, all of one length."""
    spacings = {
        "trailing": grids.trailing_steps,
        "leading": grids.leading_steps,
        "linear": grids.linear_steps,
        "quadratic": grids.quadratic_steps,
    }
    cosine = from_betas(schedules.cosine_betas(1000))
    pure_noise = from_betas(schedules.jsd_betas(1000))
    found = {k: grids.grid(SCHEDULE, num_steps, v) for k, v in spacings.items()}
    return found | {
        "karras": grids.karras_grid(SCHEDULE, num_steps),
        "logsnr": grids.logsnr_grid(SCHEDULE, num_steps),
        "cosine": grids.grid(cosine, num_steps),
        "pure noise": grids.grid(pure_noise, num_steps),
    }


@pytest.mark.parametrize("name", SAMPLERS)
def test_weights_add_up_on_every_grid(name):
    """Of data that are one point the prediction never changes, so that every solver's
    steps are exact, whatever their order: to the point, along constant eps."""
    point = np.array([0.3, -0.7])
    solve = jax.jit(
        lambda x, levels: generate(
            KEYS,
            SAMPLERS[name],
            oracles.finite(point[None]),
            x,
            levels,
            record=lambda info: info.x_s,
            num_records=12,
        )
    )
    for kind, levels in all_levels(12).items():
        alpha, sigma = (np.asarray(leaf)[:, None, None] for leaf in levels[1:])
        x_init = alpha[0] * point + sigma[0] * X_INIT
        x, chain = solve(jnp.asarray(x_init, jnp.float32), levels)
        # A step in eps divides by alpha, which is 0.006 at first, and so do its errors.
        room = 1e-4 if name == "pndm" else 1e-6
        np.testing.assert_allclose(x, np.tile(point, (30, 1)), atol=room, err_msg=kind)
        if name != "2m_sde":
            straight = alpha[1:] * point + sigma[1:] * X_INIT
            np.testing.assert_allclose(chain, straight, atol=1e-4, err_msg=kind)


@pytest.mark.parametrize("name", ["2m", "3m", "unipc-2", "unipc-3", "pndm"])
def test_no_grid_makes_a_method_worse_than_first_order(name):
    """20 steps of each against the exact flow, with the error of `ddim(0)` as measure.

    On `leading` and `linear` grids the last noisy step is four times as long as the one
    before; a parabola continued so far once gave errors of 1, ten times those of DDIM.
    """
    denoise = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
    solve, first_order = run(SAMPLERS[name], denoise), run(ddim(0.0), denoise)
    x_init = jnp.asarray(X_INIT, jnp.float32)
    for kind, levels in all_levels(20).items():
        if kind == "pure noise":
            assert np.all(np.abs(solve(x_init, levels)) < 2)
            continue
        r_from = float(levels.sigma[0] / levels.alpha[0])
        exact = mixture_flow(X_INIT, r_from, 1e-4, 400)
        error = rms(solve(x_init, levels) - exact)
        plain = rms(first_order(x_init, levels) - exact)
        assert error < 0.9 * plain, (kind, error, plain)


@pytest.mark.parametrize(
    ("name", "num_steps"),
    [("2m", 1), ("3m", 2), ("2m_sde", 2), ("unipc-3", 1), ("unipc-3", 2), ("pndm", 1)],
)
def test_few_steps_are_steps_of_lower_order(name, num_steps):
    """One step returns the predicted x_0; of two, the last does so."""
    denoise = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
    x, shown = generate(
        KEYS,
        SAMPLERS[name],
        denoise,
        jnp.asarray(X_INIT, jnp.float32),
        grids.grid(SCHEDULE, num_steps),
        record=lambda info: info.prediction.x0,
        num_records=1,
    )
    assert np.all(np.isfinite(x))
    np.testing.assert_allclose(x, shown[-1], atol=1e-6)


# --- The stochastic one ---------------------------------------------------------------


def draw(num_steps, denoise, num, dims, seed=0):
    def chain(keys):
        x_init = initial_noise(keys, (dims,))
        levels = grids.grid(SCHEDULE, num_steps)
        return generate(keys, dpmpp_2m_sde(), denoise, x_init, levels)[0]

    keys = image_keys(jax.random.key(seed), jnp.arange(num))
    return np.asarray(jax.jit(chain)(keys), np.float64)


def sde_law(mean, values, num_steps):
    """Mean and variance of x_0 of SDE-DPM-Solver++(2M) on Gaussian data, in float64.

    The pair (x_t, last prediction) is carried by an affine map a step. From betas, by
    Lu et al. 2022, the update of the SDE solver of order two with multistep.
    """
    times = np.append(grids.trailing_steps(1000, num_steps)[::-1], -1)
    bars = oracles.alpha_bars(BETAS)[times + 1]
    with np.errstate(divide="ignore"):
        place = 0.5 * np.log(bars / (1 - bars))
    h = np.diff(place)
    assert np.all(h[1:-1] < 2 * h[:-2])  # no step is cut to order one
    law = []
    for m, v in zip(mean, values, strict=True):
        center, spread = np.zeros(2), np.diag([1.0, 0.0])
        for i, (bar_t, bar_s) in enumerate(itertools.pairwise(bars)):
            lean = h[i] / (2 * h[i - 1]) if 0 < i < num_steps - 1 else 0.0
            slope = np.sqrt(bar_t) * v / (bar_t * v + 1 - bar_t)
            offset = m - slope * np.sqrt(bar_t) * m
            decay = np.exp(-h[i])
            keep = np.sqrt((1 - bar_s) / (1 - bar_t)) * decay
            gain = np.sqrt(bar_s) * (1 - decay**2)
            step = np.array(
                [[keep + gain * (1 + lean) * slope, -gain * lean], [slope, 0.0]]
            )
            center = step @ center + [gain * (1 + lean) * offset, offset]
            spread = step @ spread @ step.T
            spread[0, 0] += (1 - bar_s) * (1 - decay**2)
        law.append([center[0], spread[0, 0]])
    return np.array(law).T


@pytest.mark.parametrize("num_steps", [10, 40])
def test_the_sde_solver_samples_the_law_it_must(num_steps):
    """Mean and covariance of correlated data; each eigendirection has its own chain."""
    root = np.array([[0.7, 0.0, 0.0], [0.5, 0.3, 0.0], [-0.4, 0.2, 0.1]])
    covariance, mean, num = root @ root.T, np.array([0.3, -0.2, 0.5]), 20000
    values, basis = np.linalg.eigh(covariance)
    m, v = sde_law(basis.T @ mean, values, num_steps)
    expected = basis @ np.diag(v) @ basis.T
    x = draw(num_steps, oracles.gaussian(mean, covariance), num, 3)
    diagonal = np.diag(expected)
    error = np.sqrt((np.outer(diagonal, diagonal) + expected**2) / num)
    assert np.all(np.abs(np.cov(x.T) - expected) < 4 * error)
    assert np.all(np.abs(x.mean(0) - basis @ m) < 4 * np.sqrt(diagonal / num))
    if num_steps == 40:  # and the law is that of the data, to a few per cent
        np.testing.assert_allclose(expected, covariance, atol=0.03)


def test_the_sde_solver_samples_the_weights_of_a_mixture():
    num = 10000
    weights, means = [0.3, 0.7], np.array([[-0.8, 0.4], [0.6, -0.2]])
    variances = [0.01, 0.02]
    x = draw(200, oracles.mixture(weights, means, variances), num, 2)
    left = x[:, 0] < -0.1
    assert abs(left.mean() - 0.3) < 4 * np.sqrt(0.21 / num)
    for side, mean, variance in zip((left, ~left), means, variances, strict=True):
        error = np.sqrt(variance / side.sum())
        assert np.all(np.abs(x[side].mean(0) - mean) < 4 * error)
        relative = x[side].var(0) / variance - 1
        assert np.all(np.abs(relative) < 4 * np.sqrt(2 / side.sum()) + 0.02)


def test_the_first_step_of_the_sde_solver_is_ancestral():
    """SDE-DPM-Solver++ of order one is Ho et al.'s Algorithm 2, small variance."""
    levels = grids.grid(SCHEDULE, 10)
    t, s = (jax.tree.map(lambda leaf, i=i: leaf[i], levels) for i in (3, 4))
    x = jnp.asarray(X_INIT, jnp.float32)
    denoise = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
    own, _ = dpmpp_2m_sde().step(KEYS, denoise, dpmpp_2m_sde().init(x), t, s)
    other, _ = ancestral(process.small_variance).step(KEYS, denoise, State(x), t, s)
    np.testing.assert_allclose(own.x, other.x, atol=1e-6)


# --- PNDM's rules ---------------------------------------------------------------------


def adams(num):
    """Weights of `num` slopes, the latest first: Lagrange's polynomial over a step."""
    nodes, weights = -np.arange(num), []
    for j in nodes:
        others = [i for i in nodes if i != j]
        basis = np.poly1d(others, r=True) / np.prod([j - i for i in others])
        weights.append(np.polyval(basis.integ(), 1.0))
    return np.array(weights, np.float64)


def test_adams_and_bashforth_by_their_book():
    """Butcher, "Numerical Methods for Ordinary Differential Equations", table 244."""
    np.testing.assert_allclose(24 * adams(4), [55, -59, 37, -9], rtol=1e-12)
    np.testing.assert_allclose(12 * adams(3), [23, -16, 5], rtol=1e-12)


def test_pndm_goes_up_to_the_rule_of_four():
    """Nine steps on Gaussian data against a recursion in float64: Heun's rule, the
    rules of two and three, then that of four; the image shows which was the last."""
    mean, values, num = np.array([0.25, -0.5]), np.array([0.5, 0.0625]), 9
    times = np.append(grids.trailing_steps(1000, num)[::-1], -1)
    bars = oracles.alpha_bars(BETAS)[times + 1]

    def eps_of(x, bar):
        off = x - np.sqrt(bar) * mean
        return np.sqrt(1 - bar) * off / (bar * values + 1 - bar)

    def go(x, eps, bar_t, bar_s):
        """Song et al. 2021, "Denoising Diffusion Implicit Models", eq. (12)."""
        x0 = (x - np.sqrt(1 - bar_t) * eps) / np.sqrt(bar_t)
        return np.sqrt(bar_s) * x0 + np.sqrt(1 - bar_s) * eps

    def chain(highest):
        x, slopes = X_INIT, []
        for bar_t, bar_s in itertools.pairwise(bars):
            slopes = [eps_of(x, bar_t), *slopes]
            if len(slopes) == 1:
                ahead = go(x, slopes[0], bar_t, bar_s)
                slope = (slopes[0] + eps_of(ahead, bar_s)) / 2
            else:
                weights = adams(min(len(slopes), highest))
                slope = sum(w * e for w, e in zip(weights, slopes, strict=False))
            x = go(x, slope, bar_t, bar_s)
        return x

    found = run(SAMPLERS["pndm"], oracles.gaussian(mean, values))(
        jnp.asarray(X_INIT, jnp.float32), grids.grid(SCHEDULE, num)
    )
    np.testing.assert_allclose(found, chain(4), atol=1e-4)
    assert rms(chain(4) - chain(3)) > 5e-3


# --- Networks, conditions, shapes, calls ----------------------------------------------


@pytest.mark.parametrize("name", ["3m", "2m_sde", "unipc-2", "pndm"])
def test_networks_of_every_kind_with_classes_and_any_shape(name):
    """eps-, x0- and v-networks that say the same give the same images [B, 2, 1, 3]."""
    shape = (30, 2, 1, 3)
    means = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (4, *shape[1:])))
    labels = jnp.arange(30) % 4
    levels = grids.grid(SCHEDULE, 8)
    x_init = initial_noise(KEYS, shape[1:])

    def network_of(kind):
        def network(params, x_t, t, cond):
            level = SCHEDULE.at(jnp.rint(t).astype(int))  # leaves [B]
            alpha, sigma = (oracles.column(leaf, 4) for leaf in level[1:])
            mean = means[cond["label"]]
            x0 = mean + 0.04 * alpha * (x_t - alpha * mean) / (
                0.04 * alpha**2 + sigma**2
            )
            return kind.target(x0, (x_t - alpha * x0) / sigma, level)

        return from_network(network, None, kind)

    @jax.jit
    def sample(x, cond):
        kinds = map(network_of, (process.EPS, process.X0, process.V))
        return [
            generate(KEYS, SAMPLERS[name], denoise, x, levels, cond=cond)[0]
            for denoise in kinds
        ]

    outputs = np.asarray(sample(x_init, {"label": labels}))
    assert outputs[0].shape == shape
    np.testing.assert_allclose(outputs[0], outputs[1], atol=2e-4)
    np.testing.assert_allclose(outputs[2], outputs[1], atol=2e-4)
    # Each image is near the mean of its class: 0.2 is the standard deviation.
    assert rms(outputs[0] - means[labels]) < 0.3


@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_of_the_network_and_traces_of_the_program(name):
    """N calls, N + 1 for PNDM; one trace, whatever the seed."""
    seen, traced = [], []

    def denoise(x, level, cond):
        jax.debug.callback(lambda sigma: seen.append(float(sigma)), level.sigma)
        return oracles.mixture(WEIGHTS, MEANS, VARIANCES)(x, level)

    @jax.jit
    def sample(seed):
        traced.append(None)
        keys = image_keys(jax.random.key(seed), jnp.arange(3))
        x_init = initial_noise(keys, (2,))
        levels = grids.grid(SCHEDULE, 10)
        return generate(keys, SAMPLERS[name], denoise, x_init, levels)[0]

    first, second = sample(0), sample(1)
    jax.effects_barrier()
    calls = 11 if name == "pndm" else 10
    assert len(seen) == 2 * calls and len(traced) == 1
    assert min(seen) > 0
    assert not np.allclose(first, second)


def test_unipc_refuses_other_orders():
    with pytest.raises(UserError, match="order 4; use 1, 2 or 3"):
        unipc(4)
