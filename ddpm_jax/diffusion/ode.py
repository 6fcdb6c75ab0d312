"""The probability-flow ODE, and a sampler that chooses its own steps.

The ODE has the same marginals as the noising process and no noise: [S], eq. (13). In
the coordinates y = x / alpha, r = sigma / alpha it reads dy/dr = eps ([K], eq. 1). Here
r = sinh(u):

    dy/du = eps cosh(u)

whatever the schedule (alpha = 1 / cosh(u) and sigma = tanh(u) where it preserves the
variance). So u is r near the image, where an error costs most, and log(2 r) in the
noise, where the solution grows with r. Standard steps in u are then of much the same
difficulty at both ends, and y is the image itself at u = 0.

Sources:
    [S] Song et al. 2021, "Score-Based Generative Modeling through Stochastic
        Differential Equations", section 4.3.
    [K] Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
        Models".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.picklable import picklable
from ddpm_jax.diffusion.process import like
from ddpm_jax.diffusion.samplers import BoundDenoiser, Info, Sampler, State
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError


def coordinate(level: Level) -> jax.Array:
    """Compute u = asinh(sigma / alpha) of a level; 0 at the clean end."""
    return jnp.arcsinh(level.sigma / level.alpha)


def slope(
    denoise: BoundDenoiser, schedule: Schedule
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Write the probability-flow ODE as dy/du = f(u, y).

    Args:
        denoise: the model, called once for each call of f.
        schedule: its levels, of any log-SNR, are what the model is called with.

    Returns:
        f: (u [] > 0, y [B, ...]) -> [B, ...], with y = x / alpha.
    """

    def f(u: jax.Array, y: jax.Array) -> jax.Array:
        level = schedule.at_logsnr(-2.0 * jnp.log(jnp.sinh(u)))
        prediction = denoise(like(level.alpha, y) * y, level)
        return jnp.cosh(u) * prediction.eps

    return f


@picklable
def adaptive(
    schedule: Schedule,
    *,
    rtol: jax.Array | float = 1e-4,
    atol: jax.Array | float = 1e-4,
    max_steps: int = 1000,
) -> Sampler:
    """Solve the ODE to a tolerance, by the pair of orders 5 and 4 of Tsitouras 2011.

    From t to s it takes as many steps as the tolerance needs, so that the grid only
    sets where the chain is recorded: N frames of a trajectory need N levels. The step
    to the clean end is solved to the cleanest of the T levels, t = 0, and ends in the
    x_0 predicted there. The whole batch takes the same steps, chosen for its worst
    image; so an image depends on its batch, within the tolerance.

    `State.carry` and `Info.calls` count the evaluations of the network: 6 for each
    step tried and 2 or 3 for each step of the grid. Where `max_steps` are not enough
    the images are NaN.

    Args:
        schedule: the time that the network is given between its levels; alpha_T > 0.
        rtol: [], error allowed, relative to y = x / alpha, as the root mean square over
            an image.
        atol: the same, absolute, in units of x_0.
        max_steps: solver steps tried in one step of the grid, at most.

    Raises:
        UserError: if the schedule ends in pure noise, where u is infinite.
    """
    with jax.ensure_compile_time_eval():
        import diffrax  # takes as long to load as JAX itself, and is seldom needed

        noisiest = schedule.at(jnp.asarray(schedule.num_levels - 1))
        if noisiest.alpha == 0:
            raise UserError(
                "the adaptive sampler got a schedule that ends in pure noise, from "
                "which it cannot start; use another, such as unipc, heun or ddim."
            )
    controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=_worst_of_batch)

    def solve(
        denoise: BoundDenoiser, y: jax.Array, start: jax.Array, end: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        f = slope(denoise, schedule)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda u, y, args: f(jnp.asarray(u), y)),
            diffrax.Tsit5(),
            start,
            end,
            end - start,  # tried first; a grid of frames is about as fine as needed
            y,
            stepsize_controller=controller,
            adjoint=diffrax.ForwardMode(),  # a plain while_loop, nothing kept of it
            max_steps=max_steps,
            throw=False,
        )
        solved = solution.result == diffrax.RESULTS.successful
        y = jnp.where(solved, solution.ys[-1], jnp.nan)
        return y, 1 + 6 * solution.stats["num_steps"].astype(jnp.int32)

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        del keys  # nothing is drawn
        prediction = denoise(state.x, t)
        to_clean = s.sigma == 0
        start, lowest = coordinate(t), coordinate(schedule.at(jnp.asarray(0)))
        end = jnp.where(to_clean, jnp.minimum(lowest, start), coordinate(s))
        y, calls = solve(denoise, state.x / like(t.alpha, state.x), start, end)

        def land() -> jax.Array:
            level = schedule.at_logsnr(-2.0 * jnp.log(jnp.sinh(end)))
            return denoise(like(level.alpha, y) * y, level).x0

        x = jax.lax.cond(to_clean, land, lambda: like(s.alpha, y) * y)
        calls = state.carry + calls + to_clean.astype(jnp.int32) + 1
        return State(x, calls), Info(state.x, x, prediction, t, s, calls)

    return Sampler(init=lambda x: State(x, jnp.int32(0)), step=step)


def _worst_of_batch(error: jax.Array) -> jax.Array:
    """Measure the error of a batch `[B, ...]`: the root mean square of its worst row.

    A mean over the batch would let one image be as wrong as the others are right.
    """
    return jnp.sqrt(jnp.max(jnp.mean(error**2, axis=range(1, error.ndim))))
