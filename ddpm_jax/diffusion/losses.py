"""Training objectives: the bound, its two rewritings, and the loss of Algorithm 1.

The bound's denoising term is a KL between Gaussians (`bound_loss`). With a fixed
variance sigma^2 only the means differ, and the term is, up to a constant,

    (a)  |mean_q - mean_p|^2 / (2 sigma^2)                               [H] eq. (8)
    (b)  beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |eps - eps_hat|^2    [H] eq. (12)
    (c)  |eps - eps_hat|^2           the weight dropped: L_simple        [H] eq. (14)

(a) = `mean_loss` and (b) = `weighted_loss` are equal, as a test shows for both
variances; (c) = `simple_loss` is the loss of Algorithm 1. `loss_weights` has others.

A loss is a function (output of the network, what was noised) -> one value per example,
`[B]`: a mean over dimensions, so that losses of different image sizes compare.

Sources: [H] Ho, Jain, Abbeel 2020; [N] Nichol and Dhariwal 2021.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax import limits
from ddpm_jax.diffusion.denoisers import Cond, Network, split_output
from ddpm_jax.diffusion.process import (
    NetworkInput,
    Parameterization,
    Variance,
    add_noise,
    fraction_of_noise,
    plain_input,
    posterior,
)
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.diffusion.time_sampling import UNIFORM, TimeSampler
from ddpm_jax.diffusion.variational_bound import decoder_variance, step_term


class Noised(NamedTuple):
    """Noised training data: lines 2 to 4 of Algorithm 1."""

    x0: jax.Array  # [B, ...]
    eps: jax.Array  # [B, ...] standard normal
    x_t: jax.Array  # [B, ...] = alpha x0 + sigma eps
    t: Level  # leaves [B]
    s: Level  # leaves [B], one step cleaner
    # [B], t in 0..T-1
    index: jax.Array  # type: ignore[assignment]  # hides a method of tuples
    weight: jax.Array | float = 1.0  # [B], of the sample of t: see `time_sampling`


Loss = Callable[[jax.Array, Noised], jax.Array]
"""(output [B, ...], Noised) -> [B]."""


SelfConditioning = Callable[[Network, Any, jax.Array, Level, Cond], Cond]
"""(network, params, x_t, level, cond) -> cond, with more in it for the network."""


def noise_data(
    key: jax.Array,
    x0: jax.Array,
    schedule: Schedule,
    times: TimeSampler = UNIFORM,
    carry: Any = (),
) -> Noised:
    """Draw levels and noise for a batch x0 [B, ...]: lines 2 to 4 of Algorithm 1.

    `carry` is the state of `times`, from its `init` or `update`.
    """
    key_t, key_eps = jax.random.split(key)
    u, weight = times.draw(key_t, x0.shape[0], carry)
    index = schedule.draw(u)
    t, s = schedule.at(index), schedule.at(index - 1)
    eps = jax.random.normal(key_eps, x0.shape, x0.dtype)
    return Noised(x0, eps, add_noise(x0, eps, t), t, s, index, weight)


def training_loss(
    key: jax.Array,
    network: Network,
    params: Any,
    x0: jax.Array,
    *,
    schedule: Schedule,
    loss: Loss,
    cond: Cond = None,
    times: TimeSampler = UNIFORM,
    carry: Any = (),
    self_conditioning: SelfConditioning | None = None,
    network_input: NetworkInput = plain_input,
) -> tuple[jax.Array, Noised]:
    """Evaluate Algorithm 1's objective on a batch; its gradient is line 5.

    Args:
        key: for levels and noise.
        network: (params, x_t, t, cond) -> output.
        params: its parameters.
        x0: clean data [B, ...], [-1, 1].
        schedule: the forward process.
        loss: `simple_loss(EPS)` for Algorithm 1 as printed.
        cond: leaves [B, ...].
        times: the distribution of the training levels.
        carry: the state of `times`.
        self_conditioning: adds the estimate to `cond`; `self_condition_half`.
        network_input: what the network is given, that of the `Parameterization`.

    Returns:
        The loss of each example [B], and the draw it belongs to. The objective is the
        mean of the losses times `Noised.weight`; `times.update` wants them as they are.
    """
    noised = noise_data(key, x0, schedule, times, carry)
    if self_conditioning is not None:
        cond = self_conditioning(network, params, noised.x_t, noised.t, cond)
    x, t = network_input(noised.x_t, noised.t)
    output = network(params, x, t, cond)
    return loss(output, noised), noised


def _mean_square(x: jax.Array) -> jax.Array:
    return jnp.mean(x**2, axis=range(1, x.ndim))


def simple_loss(kind: Parameterization) -> Loss:
    """Mean squared error of the output: (c) for eps, [H] eq. (14)."""

    def loss(output: jax.Array, noised: Noised) -> jax.Array:
        target = kind.target(noised.x0, noised.eps, noised.t)
        return _mean_square(target - output)

    return loss


# --- The bound ------------------------------------------------------------------------


def bound_weight(t: Level, s: Level, variance: jax.Array) -> jax.Array:
    """Compute the bound's weight of the eps-error: [B].

    beta^2 / (2 sigma^2 alpha (1 - alpha_bar)), [H] eq. (12), which in levels is
    (c sigma_t alpha_s / alpha_t)^2 / (2 variance).
    """
    c = fraction_of_noise(t, s)
    return (c * t.sigma * s.alpha / t.alpha) ** 2 / (2.0 * variance)


def weighted_loss(
    kind: Parameterization, variance: Variance, decoder_var: jax.Array | float
) -> Loss:
    """Weigh the eps-error as the bound does: (b), [H] eq. (12), nats/dim.

    Args:
        kind: what the output means.
        variance: `small_variance` or `large_variance`.
        decoder_var: variance of the first step, from
            `variational_bound.decoder_variance`.
    """

    def loss(output: jax.Array, noised: Noised) -> jax.Array:
        prediction = kind.predict(output, noised.x_t, noised.t)
        sigma2 = variance(noised.t, noised.s, None, decoder_var)
        weight = bound_weight(noised.t, noised.s, sigma2)
        return weight * _mean_square(noised.eps - prediction.eps)

    return loss


def mean_loss(
    kind: Parameterization, variance: Variance, decoder_var: jax.Array | float
) -> Loss:
    """Compare the means of q(x_s | x_t, x_0) and p(x_s | x_t): (a), [H] eq. (8).

    Args as for `weighted_loss`, to which it is equal.
    """

    def loss(output: jax.Array, noised: Noised) -> jax.Array:
        prediction = kind.predict(output, noised.x_t, noised.t)
        q_mean, _ = posterior(noised.x_t, noised.x0, noised.t, noised.s)
        p_mean, _ = posterior(noised.x_t, prediction.x0, noised.t, noised.s)
        sigma2 = variance(noised.t, noised.s, None, decoder_var)
        return _mean_square(q_mean - p_mean) / (2.0 * sigma2)

    return loss


def bound_loss(
    kind: Parameterization,
    variance: Variance,
    decoder_var: jax.Array | float,
    num_levels: int,
    *,
    learns_variance: bool = False,
) -> Loss:
    """Estimate the whole bound but L_T from one term: T L_{t-1}, bits/dim.

    Its mean over uniform t is the bound: [H] eq. (5), [N] eq. (4).
    """

    def loss(output: jax.Array, noised: Noised) -> jax.Array:
        output, fraction = split_output(output, learns_variance=learns_variance)
        prediction = kind.predict(output, noised.x_t, noised.t)
        term = step_term(
            prediction._replace(fraction=fraction),
            noised.x0,
            noised.x_t,
            noised.t,
            noised.s,
            variance=variance,
            decoder_var=decoder_var,
        )
        return num_levels * term

    return loss


def hybrid_loss(
    kind: Parameterization,
    variance: Variance,
    decoder_var: jax.Array | float,
    num_levels: int,
    *,
    bound_share: float = 0.001,
) -> Loss:
    """Learn the mean by L_simple and the variance by the bound: [N] eq. (16).

    L_hybrid = L_simple + 0.001 L_vlb, the gradient of L_vlb being stopped at the mean.
    """
    simple = simple_loss(kind)
    bound = bound_loss(kind, variance, decoder_var, num_levels, learns_variance=True)

    def loss(output: jax.Array, noised: Noised) -> jax.Array:
        prediction, w = jnp.split(output, 2, axis=-1)
        frozen = jnp.concatenate([jax.lax.stop_gradient(prediction), w], axis=-1)
        return simple(prediction, noised) + bound_share * bound(frozen, noised)

    return loss


# --- Specs ----------------------------------------------------------------------------


class LossContext(NamedTuple):
    """What a loss depends on beside its own options.

    Attributes:
        kind: what the output of the network means.
        variance: of the reverse step.
        schedule: the forward process.
        learns_variance: whether the network predicts a variance as well.
    """

    kind: Parameterization
    variance: Variance
    schedule: Schedule
    learns_variance: bool = False

    @property
    def decoder_var(self) -> jax.Array:
        """The variance of the decoder p(x_0 | x_1), []; see `decoder_variance`."""
        return decoder_variance(self.schedule)


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """A training objective, by what makes it; `build` makes it."""

    trains_variance: ClassVar[bool] = False  # that the network predicts
    needs_variance: ClassVar[bool] = False  # to be predicted by the network
    is_finite_at_noise: ClassVar[bool] = True  # at a level without signal

    def build(self, context: LossContext) -> Loss:
        """Make the loss."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Simple(LossSpec):
    """See `simple_loss`."""

    def build(self, context: LossContext) -> Loss:
        """Make the loss."""
        return simple_loss(context.kind)


@dataclasses.dataclass(frozen=True)
class Weighted(LossSpec):
    """See `weighted_loss`."""

    is_finite_at_noise: ClassVar[bool] = False

    def build(self, context: LossContext) -> Loss:
        """Make the loss."""
        return weighted_loss(context.kind, context.variance, context.decoder_var)


@dataclasses.dataclass(frozen=True)
class Mean(LossSpec):
    """See `mean_loss`."""

    def build(self, context: LossContext) -> Loss:
        """Make the loss."""
        return mean_loss(context.kind, context.variance, context.decoder_var)


@dataclasses.dataclass(frozen=True)
class Bound(LossSpec):
    """See `bound_loss`."""

    trains_variance: ClassVar[bool] = True

    def build(self, context: LossContext) -> Loss:
        """Make the loss."""
        return bound_loss(
            context.kind,
            context.variance,
            context.decoder_var,
            context.schedule.num_levels,
            learns_variance=context.learns_variance,
        )


@dataclasses.dataclass(frozen=True)
class Hybrid(LossSpec):
    """See `hybrid_loss`.

    Attributes:
        bound_share: weight of the bound; [N]'s 0.001 at T = 4000.
    """

    trains_variance: ClassVar[bool] = True
    needs_variance: ClassVar[bool] = True
    bound_share: float = 0.001

    def __post_init__(self) -> None:
        limits.positive(self, "bound_share", such_as="the paper's is 0.001")

    def build(self, context: LossContext) -> Loss:
        """Make the loss."""
        return hybrid_loss(
            context.kind,
            context.variance,
            context.decoder_var,
            context.schedule.num_levels,
            bound_share=self.bound_share,
        )
