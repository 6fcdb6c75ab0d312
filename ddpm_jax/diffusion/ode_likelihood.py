r"""The likelihood by the probability-flow ODE: a change of variables, not a bound.

The deterministic flow from noise to data pushes a density along with it. In
the coordinate u = asinh(sigma / alpha) of `ode`, flow and density obey, where the
schedule preserves the variance,

    (1)  dx/du         = eps(x, u) - sigma x  (= alpha v)                   [S] eq. 13
    (2)  d log p(x)/du = D sigma - tr(d eps / d x)                          [S] eq. 39
    (3)  tr J          = E v' J v,  v of independent signs                  [S] eq. 40

so that from a level a at or near the clean end to a noisy level T

    (4)  log p_a(x_a) = log p_T(x_T) + \int_a^T (tr(d eps / d x) - D sigma) du.

(In x rather than y = x / alpha, since x hardly moves in the noise, where y grows: on a
mixture, 50 Runge-Kutta steps err by 2e-5 nats/dim in x and by 0.1 in y.)

Any other schedule has x = sqrt(n) x', n = alpha^2 + sigma^2, and the same equations in
x' with sigma / sqrt(n) in the place of sigma; they are what is solved, in x'.

The model is *defined* as N(0, I) at the noisy end pushed through the flow, as in
sampling (a law of x', where n is not quite 1 there), so log p_T(x_T) is that of N(0, I)
and (4) is exact for the model. What the data's own p_T differs from N(0, I) by is L_T
of the bound (`variational_bound.prior_term`): 1e-5 bits/dim for the usual schedules.

Data are 8-bit. A value k stands for the bin of width w = 2/255 about k/127.5 - 1, and
with z uniform on the bin

    (5)  -log P(x_0) = -log \int_bin p <= E_z[-log p(x_0 + z)] - D log w,

which in bits/dim is -log2 p / D + log2(255/2), and log2(255/2) = 6.994. (The 7 of the
literature belongs to values at (k + z)/128 - 1, whose bins are 2/256 wide.)

Source: [S] Song et al. 2021, "Score-Based Generative Modeling through Stochastic
Differential Equations", section 4.3 and appendix D.2; the uniform noise of (5): Theis,
van den Oord, Bethge 2016, "A note on the evaluation of generative models".
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.denoisers import Cond, Denoiser, predict
from ddpm_jax.diffusion.ode import coordinate
from ddpm_jax.diffusion.schedules import Level, Schedule

Slope = Callable[[jax.Array, Any], Any]
"""(u [], state) -> d state / du, for one image."""

Solve = Callable[[Slope, Any, jax.Array, jax.Array], tuple[Any, jax.Array]]
"""(slope, state at u_0, u_0, u_1) -> (state at u_1, calls of slope []), one image."""


class Flow(NamedTuple):
    """Data followed to the noisy end.

    Attributes:
        log_density: of the data under the model, nats per dimension [B].
        x_T: where each image ends, [B, ...], as x' of the module's docstring; about
            standard normal.
        num_calls: of the slope, hence of the network, [B].
    """

    log_density: jax.Array
    x_T: jax.Array
    num_calls: jax.Array


# --- The trace ------------------------------------------------------------------------


def sign_probes(keys: jax.Array, x: jax.Array, num_probes: int) -> jax.Array:
    """Draw the v of eq. (3), each entry +1 or -1: [B, num_probes, ...].

    Args:
        keys: typed keys [B]; row i depends on key i alone.
        x: [B, ...], for its shape and dtype.
        num_probes: the variance of the estimate falls as 1 / num_probes.
    """
    shape = (num_probes, *x.shape[1:])

    def draw(key: jax.Array) -> jax.Array:
        # `jax.random.rademacher` draws other signs if 64-bit types are enabled.
        signs = jax.random.bernoulli(key, jnp.float32(0.5), shape).astype(x.dtype)
        return 2 * signs - 1

    return jax.vmap(draw)(keys)


def exact_probes(x: jax.Array) -> jax.Array:
    """Return sqrt(D) times the D unit vectors, [B, D, ...], whose mean v' J v is tr J.

    Args:
        x: [B, ...] of D dimensions. D derivatives are taken at once: for small D.
    """
    size = int(np.prod(x.shape[1:]))
    basis = math.sqrt(size) * jnp.eye(size, dtype=x.dtype)
    basis = basis.reshape(size, *x.shape[1:])
    return jnp.broadcast_to(basis, (x.shape[0], *basis.shape))


def value_and_trace(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, probes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Evaluate a function and estimate the trace of its Jacobian, eq. (3).

    Args:
        function: [...] -> [...], of one image.
        x: [...].
        probes: [K, ...].

    Returns:
        The value [...] and the estimate [].
    """

    def along(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, change = jax.jvp(function, (x,), (v,))
        return value, jnp.sum(v * change)

    value, estimates = jax.vmap(along, out_axes=(None, 0))(probes)
    return value, jnp.mean(estimates)


# --- The flow -------------------------------------------------------------------------


def runge_kutta(num_steps: int, bend: float = 0.01) -> Solve:
    """Take steps of the classical Runge-Kutta rule, order 4: four calls each.

    The steps are even in log(u + bend): near the clean end the flow bends on the scale
    of the noise itself, down to that of the finest detail of the data.

    Args:
        num_steps: of the rule.
        bend: that finest scale, in the units of the data.
    """

    def solve(
        slope: Slope, state: Any, start: jax.Array, end: jax.Array
    ) -> tuple[Any, jax.Array]:
        dtype = jnp.result_type(start, jnp.float32)
        share = jnp.arange(num_steps + 1, dtype=dtype) / num_steps
        low, high = jnp.log(start + bend), jnp.log(end + bend)
        nodes = jnp.exp(low + share * (high - low)) - bend
        nodes = nodes.at[0].set(start).at[-1].set(end)

        def move(state: Any, h: jax.Array, change: Any) -> Any:
            return jax.tree.map(lambda a, b: a + h * b, state, change)

        def body(state: Any, ends: tuple) -> tuple[Any, None]:
            u, h = ends[0], ends[1] - ends[0]
            k1 = slope(u, state)
            k2 = slope(u + h / 2, move(state, h / 2, k1))
            k3 = slope(u + h / 2, move(state, h / 2, k2))
            k4 = slope(ends[1], move(state, h, k3))
            mean = jax.tree.map(
                lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4
            )
            return move(state, h, mean), None

        state, _ = jax.lax.scan(body, state, (nodes[:-1], nodes[1:]))
        return state, jnp.int32(4 * num_steps)

    return solve


def adaptive(*, rtol: float = 1e-4, atol: float = 1e-4, max_steps: int = 4096) -> Solve:
    """Choose the steps by their error: the pair of orders 5 and 4 of Tsitouras 2011.

    Args:
        rtol: error allowed in a step, relative to x (root mean square) and to the
            log-volume per dimension, whichever is worse.
        atol: the same, absolute.
        max_steps: after so many, failed ones included, the result is NaN.
    """
    with jax.ensure_compile_time_eval():
        import diffrax  # takes as long to load as JAX itself, and is seldom needed

    controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=_worst_part)

    def solve(
        slope: Slope, state: Any, start: jax.Array, end: jax.Array
    ) -> tuple[Any, jax.Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda u, state, args: slope(jnp.asarray(u), state)),
            diffrax.Tsit5(),
            start,
            end,
            None,  # the first step is chosen by trial
            state,
            stepsize_controller=controller,
            adjoint=diffrax.ForwardMode(),  # a plain while_loop, nothing kept of it
            max_steps=max_steps,
            throw=False,
        )
        solved = solution.result == diffrax.RESULTS.successful
        state = jax.tree.map(
            lambda leaf: jnp.where(solved, leaf[-1], jnp.nan), solution.ys
        )
        return state, 6 * solution.stats["num_steps"].astype(jnp.int32) + 1

    return solve


def _worst_part(error: Any) -> jax.Array:
    """Measure x and volume apart: one number among D would hardly count."""
    parts = [jnp.sqrt(jnp.mean(leaf**2)) for leaf in jax.tree.leaves(error)]
    return jnp.max(jnp.stack(parts))


def follow_flow(
    denoise: Denoiser,
    data: jax.Array,
    start: Level,
    end: Level,
    *,
    schedule: Schedule,
    probes: jax.Array,
    solve: Solve,
    cond: Cond = None,
) -> Flow:
    """Follow data to the noisy end, and compute their density: eq. (1), (2) and (4).

    Each image is integrated for itself, with steps of its own if the solver adapts
    them, so that its result does not depend on the batch it is in.

    Args:
        denoise: the model, unclipped: a clipped one has no density.
        data: [B, ...]; dequantised, if they were bytes. They are taken for the y of
            the first level: for x_0 with noise of deviation sigma / alpha.
        start: that level, at or near the clean end.
        end: the noisiest level, with some signal left (alpha > 0).
        schedule: of the levels in between.
        probes: [B, K, ...], from `sign_probes` or `exact_probes`; the same along the
            whole path, so that what is integrated is a function.
        solve: `runge_kutta(...)` or `adaptive(...)`.
        cond: what the denoiser is conditioned on, leaves [B, ...].
    """
    size = int(np.prod(data.shape[1:]))
    rescales = not _preserves_variance(schedule)
    shrinks = start.alpha / jnp.sqrt(start.square_norm)  # y to x'

    def follow(y: jax.Array, probes: jax.Array, cond: Cond) -> tuple:
        one = jax.tree.map(lambda leaf: leaf[None], cond)

        def slope(u: jax.Array, state: tuple) -> tuple:
            level = schedule.at_logsnr(-2.0 * jnp.log(jnp.sinh(u)))
            # Without a root n, which is 1, makes sigma the very expression that
            # `eps_from_v` has, so that both are fused, and round, as one.
            root = jnp.sqrt(level.square_norm) if rescales else level.square_norm
            x, _ = state

            def eps_of(x: jax.Array) -> jax.Array:
                x_t = root * x if rescales else x
                return predict(denoise, x_t[None], level, one).eps[0]

            eps, trace = value_and_trace(eps_of, x, probes)
            sigma = level.sigma / root
            return eps - sigma * x, trace / size - sigma

        # The volume per dimension, so that its error is of the size of the others'.
        state = (shrinks * y, jnp.zeros((), y.dtype))
        return solve(slope, state, coordinate(start), coordinate(end))

    (x_T, volume), num_calls = jax.vmap(follow)(data, probes, cond)
    prior = -0.5 * (jnp.mean(x_T**2, axis=range(1, x_T.ndim)) + math.log(2.0 * math.pi))
    return Flow(prior + volume + jnp.log(shrinks), x_T, num_calls)


def _preserves_variance(schedule: Schedule) -> bool:
    """Return whether alpha^2 + sigma^2 = 1 at every log-SNR: known before any compile.

    If so, x is not multiplied by 1: the product could be fused with what follows, and
    round differently.
    """
    with jax.ensure_compile_time_eval():
        level = schedule.at_logsnr(jnp.linspace(-20.0, 20.0, 81))
        return bool(np.all(np.asarray(level.square_norm) == 1.0))


# --- From bytes and back --------------------------------------------------------------


def dequantize(keys: jax.Array, x0: jax.Array, num_values: int = 256) -> jax.Array:
    """Spread each value evenly over its bin: [B, ...].

    Args:
        keys: typed keys [B]; row i depends on key i alone.
        x0: values on the grid -1, -1 + 2/(num_values - 1), ..., 1.
        num_values: 256 for 8-bit data.
    """
    half = 1.0 / (num_values - 1)
    draw = jax.vmap(
        lambda key: jax.random.uniform(key, x0.shape[1:], x0.dtype, -half, half)
    )
    return x0 + draw(keys)


def bits_of_density(log_density: jax.Array, num_values: int = 256) -> jax.Array:
    """Turn log-densities [B] of dequantised data into bits/dim of bytes [B], eq. (5).

    Args:
        log_density: nats per dimension.
        num_values: 256 for 8-bit data, which adds log2(255/2) bits.
    """
    return -log_density / math.log(2.0) + math.log2((num_values - 1) / 2.0)
