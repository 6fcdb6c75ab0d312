"""Samplers: pairs of pure functions `(init, step)` that `generate` runs in one scan.

    init(x) -> State                                what the first step needs
    step(keys, denoise, state, t, s) -> (State, Info)    from level t to the cleaner s

A step is given the denoiser, not a prediction, so that a method with two evaluations
is as plain as one with one. It owns no loop, no time and no recording. Here are the
Markov chain and DDIM; `karras` has Euler's and Heun's rule, `multistep` the methods
that use earlier steps, `ode` the adaptive one.

Sources:
    [H] Ho, Jain, Abbeel 2020: Algorithm 2.
    [S] Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models".
    [C] Song, Dhariwal, Chen, Sutskever 2023, "Consistency Models".
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.picklable import Picklable, picklable
from ddpm_jax.diffusion.process import (
    Prediction,
    Variance,
    add_noise,
    fraction_of_noise,
    like,
    noise_like,
    posterior,
    small_variance,
)
from ddpm_jax.diffusion.schedules import Level


class State(NamedTuple):
    """The carried state of a sampler.

    Attributes:
        x: [B, ...], the chain.
        carry: whatever else the method needs, a pytree; None for one-step methods.
    """

    x: jax.Array
    carry: Any = None


class Info(NamedTuple):
    """What can be recorded of a step: an argument of `record`, not kept after it."""

    x_t: jax.Array  # [B, ...] before the step
    x_s: jax.Array  # [B, ...] after it
    prediction: Prediction  # made at x_t
    t: Level
    s: Level
    calls: jax.Array | None = None  # of the network so far, where they vary: int32 []


class BoundDenoiser(Protocol):
    """A denoiser with its conditions already given: `denoise(x, level)`.

    `also` is a dict of arrays laid over the conditions: what a wrapper of a sampler
    adds beyond them, such as the self-conditioning estimate. Samplers leave it out.
    """

    def __call__(
        self, x: jax.Array, level: Level, also: dict | None = None
    ) -> Prediction:
        """Predict from x `[B, ...]` at a level."""


class _Functions(NamedTuple):
    init: Callable[[jax.Array], State]
    step: Callable[[jax.Array, BoundDenoiser, State, Level, Level], tuple[State, Info]]


class Sampler(Picklable, _Functions):
    """A sampling method; see the module's docstring for the two functions."""


@picklable
def ancestral(variance: Variance = small_variance) -> Sampler:
    """Sample the reverse Markov chain: [H], Algorithm 2.

    x_s = mean(x_t, x0) + sqrt(variance) z, the mean being that of the posterior with
    the predicted x_0 in the place of the true one. On a grid of fewer than T levels
    this is the respaced chain of Nichol and Dhariwal 2021, section 4.

    Args:
        variance: `small_variance`, `large_variance` or `learned_variance`. The last
            step, to the clean end, adds no noise with any of them.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        prediction = denoise(state.x, t)
        mean, _ = posterior(state.x, prediction.x0, t, s)
        std = jnp.sqrt(variance(t, s, prediction, 0.0))
        x = mean + like(std, mean) * noise_like(keys, mean)
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)


@picklable
def ddim(eta: jax.Array | float = 0.0) -> Sampler:
    """Step along the predicted noise, with a share of it sampled anew: [S], eq. (12).

    x_s = alpha_s x0 + sigma_s (sqrt(1 - eta^2 c) eps + eta sqrt(c) z), c being the
    fraction of x_t's noise that is new since s.

    Args:
        eta: 0 for the deterministic sampler, 1 for `ancestral(small_variance)`. May be
            a traced value: the same compiled program serves every eta.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        prediction = denoise(state.x, t)
        c = fraction_of_noise(t, s)
        # The maximum guards against 1 - c = -1e-8 at the clean end.
        kept = jnp.sqrt(jnp.maximum(1.0 - eta**2 * c, 0.0))
        noise = like(kept, state.x) * prediction.eps + like(
            eta * jnp.sqrt(c), state.x
        ) * noise_like(keys, state.x)
        x = like(s.alpha, state.x) * prediction.x0 + like(s.sigma, state.x) * noise
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)


@picklable
def consistency() -> Sampler:
    """Predict x_0, and noise it afresh to the next level: [C], Algorithm 1.

    x_s = alpha_s x0 + sigma_s z. It is for networks whose x_0 at x_t is where the path
    through x_t ends, as `few_steps` makes them: one step is a sample, and further ones
    mend it. Of a plain diffusion model, whose x_0 is a mean, it is DDIM with all of the
    noise sampled anew, and takes many steps.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        prediction = denoise(state.x, t)
        x = add_noise(prediction.x0, noise_like(keys, state.x), s)
        return State(x), Info(state.x, x, prediction, t, s)

    return Sampler(init=State, step=step)
