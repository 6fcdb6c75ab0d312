"""The probability-flow ODE and its adaptive solver, against exact flows."""

import functools

import flows
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import ode
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.diffusion.schedules import linear_logsnr

ENDS = (-6.0, 6.0)
SCHEDULE = linear_logsnr(*ENDS[::-1])
KEYS = image_keys(jax.random.key(6), jnp.arange(60))
X_INIT = initial_noise(KEYS, (1,))


@functools.cache
def solver(data, num_steps, to_clean=False):
    """Compiled once for every tolerance: (rtol, atol) -> (x, calls)."""
    times = jnp.linspace(999.0, -0.999, num_steps + 1)
    levels = grid(SCHEDULE, num_steps) if to_clean else SCHEDULE.at(times)

    @jax.jit
    def run(rtol, atol):
        x, calls = generate(
            KEYS,
            ode.adaptive(SCHEDULE, rtol=rtol, atol=atol),
            flows.DENOISERS[data],
            X_INIT,
            levels,
            record=lambda info: info.calls,
            num_records=1,
        )
        return x, calls[0]

    return run


# --- The right side -------------------------------------------------------------------


@pytest.mark.parametrize("data", flows.DENOISERS)
def test_slope_is_the_derivative_of_the_exact_flow(data):
    """By central differences of y = x / alpha over u = asinh(sigma / alpha)."""
    f = jax.jit(ode.slope(flows.DENOISERS[data], SCHEDULE))
    x = np.linspace(-1.5, 1.5, 7)[:, None]
    for u in (0.06, 0.5, 2.0, 3.4):
        here = (1 / np.cosh(u), np.tanh(u))

        def y_at(u, here=here):
            there = (1 / np.cosh(u), np.tanh(u))
            return flows.exact_end(data, x, here, there) / there[0]

        expected = (y_at(u + 1e-4) - y_at(u - 1e-4)) / 2e-4
        y = jnp.asarray(x / here[0], jnp.float32)
        np.testing.assert_allclose(f(u, y), expected, rtol=2e-4, atol=2e-5)


def test_coordinate_of_a_level():
    level = SCHEDULE.at(jnp.array([999.0, 499.0, -1.0]))
    expected = [np.arcsinh(np.exp(3)), np.arcsinh(1), 0]
    np.testing.assert_allclose(ode.coordinate(level), expected, rtol=1e-6)


# --- The adaptive solver --------------------------------------------------------------


@pytest.mark.parametrize("data", flows.DENOISERS)
def test_the_solution_meets_the_tolerance(data):
    """The error of the worst of 60 images, against the exact flow.

    A tolerance is of one step; errors made in the noise shrink on the way, and the
    whole stays within ten of it, or what float32 can give.
    """
    exact = flows.exact_end(data, X_INIT, *map(flows.level_of, ENDS))
    worst, asked = [], []
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        x, calls = solver(data, 1)(tolerance, tolerance)
        worst.append(np.max(np.abs(x - exact)))
        asked.append(int(calls))
        assert worst[-1] < 10 * tolerance, (worst, asked)
    assert asked == sorted(asked) and asked[0] < asked[-1] < 200
    assert worst[-1] < 5e-5


def test_the_grid_only_says_where_to_look():
    """Up to the clean end: one step, and fifteen."""
    data = "mixture"
    one, _ = solver(data, 1, to_clean=True)(1e-5, 1e-5)
    fifteen, _ = solver(data, 15, to_clean=True)(1e-5, 1e-5)
    np.testing.assert_allclose(one, fifteen, atol=1e-4)
    # Exactly: along the flow to the cleanest level, and there what the denoiser says.
    cleanest = SCHEDULE.at(jnp.array(0))
    last = (float(cleanest.alpha), float(cleanest.sigma))
    x = flows.exact_end(data, X_INIT, flows.level_of(-6.0), last)
    exact = flows.DENOISERS[data](jnp.asarray(x, jnp.float32), cleanest).x0
    np.testing.assert_allclose(one, exact, atol=1e-4)


def test_calls_are_counted():
    """6 a step tried, 1 to begin and 1 to look; 2 more at the clean end."""
    seen = []

    def denoise(x, level, cond):
        jax.debug.callback(lambda sigma: seen.append(float(sigma)), level.sigma)
        return flows.DENOISERS["gaussian"](x, level, cond)

    _, calls = jax.jit(
        lambda x: generate(
            KEYS,
            ode.adaptive(SCHEDULE, rtol=1e-2, atol=1e-2),
            denoise,
            x,
            grid(SCHEDULE, 8),
            record=lambda info: info.calls,
            num_records=8,
        )
    )(X_INIT)
    jax.effects_barrier()
    assert calls[-1] == len(seen) == 8 * (6 + 2) + 1
    assert np.all(np.diff(calls) > 0)
    assert min(seen) > 0


def test_one_hard_image_among_many_easy_ones():
    """It is solved as well as alone: the error is that of the worst image."""

    def denoise(x, level, cond):
        hard = cond["hard"][:, None]
        at_rest = Prediction(x / oracles.column(level.alpha), jnp.zeros_like(x))
        moving = flows.DENOISERS["mixture"](x, level)
        return jax.tree.map(lambda a, b: jnp.where(hard, a, b), moving, at_rest)

    def draw(num):
        levels = SCHEDULE.at(jnp.array([999.0, 0.0]))
        cond = {"hard": jnp.arange(num) == 0}
        sampler = ode.adaptive(SCHEDULE, rtol=1e-3, atol=1e-3)
        x, calls = generate(
            KEYS[:num],
            sampler,
            denoise,
            X_INIT[:num],
            levels,
            cond=cond,
            record=lambda info: info.calls,
            num_records=1,
        )
        return x[0], calls

    alone, calls_alone = draw(1)
    together, calls = draw(60)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert calls == calls_alone


def test_too_few_steps_leave_no_image():
    """NaN, which `run_batches` refuses to save; never an unfinished picture."""
    levels = grid(SCHEDULE, 1)
    sampler = ode.adaptive(SCHEDULE, rtol=1e-5, atol=1e-5, max_steps=3)
    x, _ = generate(KEYS, sampler, flows.DENOISERS["mixture"], X_INIT, levels)
    assert np.all(np.isnan(x))
