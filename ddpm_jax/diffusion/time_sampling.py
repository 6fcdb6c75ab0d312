"""Time sampling for training: even, by importance, or of a law of their own.

A training level is sampled as u in [0, 1), of which `Schedule.draw` makes a time.
An even u gives the mean over all levels; a `TimeSampler` that prefers some of them
returns a weight, by which the loss of the example is to be multiplied:

    E[weight(u) loss(u)] = the mean of loss(u) over even u

so that the samplers up to `importance` have the same objective and only the variance
differs. The others, `logit_normal`, `lognormal` and `shifted`, have the weight 1: they
re-weight the loss by their density over even levels, which is what they are for. The
state of a sampler is a pytree that the caller carries from step to step.

Sources:
    [K] Kingma et al. 2021, "Variational Diffusion Models", appendix I.1.
    [N] Nichol and Dhariwal 2021, section 3.3, eq. (18), and their published code.
    [E] Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution
        Image Synthesis" (Stable Diffusion 3).
    [R] Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
        Models".
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from ddpm_jax import limits
from ddpm_jax.diffusion.picklable import Picklable, picklable
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError


def uniform_times(key: jax.Array, num: int) -> jax.Array:
    """Draw independent u in [0, 1): [num]."""
    return jax.random.uniform(key, (num,), jnp.float32)


def stratified_times(key: jax.Array, num: int) -> jax.Array:
    """Draw u evenly spread over [0, 1), with one common random offset: [num].

    Each u alone is uniform, so the loss is unbiased, but a batch covers all levels and
    its mean scatters less. Source: [K], appendix I.1.
    """
    offset = jax.random.uniform(key, dtype=jnp.float32)
    return (offset + jnp.arange(num, dtype=jnp.float32) / num) % 1.0


def antithetic_times(key: jax.Array, num: int) -> jax.Array:
    """Draw u in pairs u and 1 - u, the second half mirroring the first: [num].

    Each u alone is uniform. What is linear in u cancels within a pair, so that a loss
    that falls or rises with the level scatters less than with `uniform_times`; one that
    is symmetric about the middle would scatter more. It needs no knowledge of the size
    of the batch, unlike `stratified_times`, which [K]'s code calls antithetic. Of an
    odd number the middle one stays single.
    """
    # Half a step of the float32 grid away from it: neither u nor 1 - u is 0 or 1.
    u = jax.random.uniform(key, ((num + 1) // 2,), jnp.float32) + 2.0**-24
    return jnp.concatenate([u, 1.0 - u[: num // 2]])


class _Functions(NamedTuple):
    init: Callable[[], Any]
    draw: Callable[[jax.Array, int, Any], tuple[jax.Array, jax.Array]]
    update: Callable[[Any, jax.Array, jax.Array], Any]


class TimeSampler(Picklable, _Functions):
    """A distribution of training levels, with or without a carried state.

    Attributes:
        init: () -> carry, a pytree of arrays; () for a sampler that has none.
        draw: (key, num, carry) -> u [num] in [0, 1), and the weight of each, [num].
        update: (carry, index, losses) -> carry; index is the t in 0..T-1 that each u
            became, int32 [num], and losses [num] are the unweighted ones, of the
            whole batch.
    """


@picklable
def stateless(times: Callable[[jax.Array, int], jax.Array]) -> TimeSampler:
    """Make a sampler of a function (key, num) -> u whose each u alone is uniform."""
    return TimeSampler(
        init=lambda: (),
        draw=lambda key, num, carry: (times(key, num), jnp.ones((num,), jnp.float32)),
        update=lambda carry, index, losses: carry,
    )


UNIFORM = stateless(uniform_times)
STRATIFIED = stateless(stratified_times)
ANTITHETIC = stateless(antithetic_times)


class History(NamedTuple):
    """The last losses at each of T levels."""

    losses: jax.Array  # [T, K] float32, of each level in a ring, oldest overwritten
    # [T] int32, how many losses the level has been given so far
    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples


@picklable
def importance(
    num_levels: int, *, length: int = 10, uniform_share: float = 0.001
) -> TimeSampler:
    """Draw the levels of a table in proportion to the root of E[L_t^2].

    It is the choice of least variance for an estimate of sum_t L_t, made for the pure
    bound, whose few first terms dominate: [N], eq. (18). The second moment is that of
    the last 10 losses of each level; until every level has 10, levels are uniform.

    Under `jit` over several devices the losses are those of the whole batch, and all
    devices hold the same history.

    Args:
        num_levels: T, of a schedule that is a table.
        length: K, losses kept of each level.
        uniform_share: of the draws, uniform, so that no level is forgotten and no
            weight exceeds 1 / share; 0.001 in [N]'s code.
    """

    def init() -> History:
        return History(
            jnp.zeros((num_levels, length), jnp.float32),
            jnp.zeros((num_levels,), jnp.int32),
        )

    def draw(key: jax.Array, num: int, carry: History) -> tuple[jax.Array, jax.Array]:
        share = importance_shares(carry, uniform_share)
        index = jax.random.choice(key, num_levels, (num,), p=share)
        # The middle of its cell: rounding cannot move it into the next.
        u = (index.astype(jnp.float32) + 0.5) / num_levels
        return u, 1.0 / (num_levels * share[index])

    return TimeSampler(init, draw, update_history)


def importance_shares(carry: History, uniform_share: float = 0.001) -> jax.Array:
    """Compute how often each level is sampled, summing to 1: [T]. [N], eq. (18)."""
    num_levels, length = carry.losses.shape
    second_moment = jnp.mean(carry.losses**2, axis=1)
    root = jnp.sqrt(second_moment)
    total = jnp.sum(root)
    # Losses that are all 0 give no preference.
    known = (carry.count >= length).all() & (total > 0)
    by_loss = root / jnp.where(total > 0, total, 1.0)
    share = jnp.where(known, uniform_share, 1.0)
    return (1.0 - share) * by_loss + share / num_levels


def update_history(carry: History, index: jax.Array, losses: jax.Array) -> History:
    """Write the losses [B] of levels index [B] into the history, in this order.

    A level may occur several times in a batch; of more than K times, the last K stay.
    """
    num_levels, length = carry.losses.shape
    order = jnp.argsort(index, stable=True)
    index, losses = index[order], losses[order]  # now each level is one run
    place = jnp.arange(len(index))
    earlier = place - jnp.searchsorted(index, index, side="left")  # in the run
    later = jnp.searchsorted(index, index, side="right") - 1 - place
    slot = (carry.count[index] + earlier) % length
    # What this batch would overwrite itself is not written, for writes have no order.
    row = jnp.where(later < length, index, num_levels)
    return History(
        carry.losses.at[row, slot].set(losses, mode="drop"),
        carry.count.at[index].add(1),
    )


# --- Laws of their own: they re-weight the loss ---------------------------------------


def _of_law(schedule: Schedule, time: Callable[[jax.Array], jax.Array]) -> TimeSampler:
    """Make a sampler of the quantiles of a law of times.

    The quantiles are those of stratified u, so that a batch covers the law evenly and
    each time alone has it.

    Args:
        schedule: whose `draw` turns u into a time.
        time: rising share in [0, 1] -> t, real, elementwise.
    """
    T = schedule.num_levels
    with jax.ensure_compile_time_eval():
        early, late = schedule.draw(jnp.float32([0.25, 0.75]))
        is_table, falls = jnp.issubdtype(early.dtype, jnp.integer), bool(early > late)

    def times(key: jax.Array, num: int) -> jax.Array:
        t = jnp.clip(time(stratified_times(key, num)), -1.0, T - 1.0)
        # The u of which `draw` makes this t; of a table the nearest, the middle of its
        # cell.
        u = (jnp.maximum(jnp.round(t), 0.0) + 0.5 if is_table else t + 1.0) / T
        u = 1.0 - u if falls else u
        return jnp.clip(u, 0.0, 1.0 - 2.0**-24)

    return stateless(times)


@picklable
def logit_normal(
    schedule: Schedule, *, mean: float = 0.0, std: float = 1.0
) -> TimeSampler:
    """Draw the share of the chain, (t + 1) / T, as sigmoid of a normal: [E] eq. (19).

    Levels in the middle of the path, where a straight one is hardest to predict, come
    more often, those at both ends less. Weights are 1, so the loss is re-weighted.

    Args:
        schedule: the forward process.
        mean: of the normal; above 0 prefers the noise.
        std: of the normal.
    """

    def time(u: jax.Array) -> jax.Array:
        return schedule.num_levels * jax.nn.sigmoid(mean + std * ndtri(u)) - 1.0

    return _of_law(schedule, time)


@picklable
def lognormal(
    schedule: Schedule, *, mean: float = -1.2, std: float = 1.2
) -> TimeSampler:
    """Draw r = sigma / alpha with a normal logarithm: [R] section 5 and table 1.

    It is the same law of noise levels on every schedule, but for its tails, which end
    at the first and the last level. Weights are 1, so the loss is re-weighted.

    Args:
        schedule: the forward process.
        mean: of log r; [R] have -1.2, for images in [-1, 1].
        std: of log r.
    """

    def time(u: jax.Array) -> jax.Array:
        # Finite at u = 0: an infinite log-SNR has no place in a table.
        return schedule.inverse(-2.0 * (mean + std * jnp.clip(ndtri(u), -6.0, 6.0)))

    return _of_law(schedule, time)


@picklable
def shifted(schedule: Schedule, *, shift: float = 3.0) -> TimeSampler:
    """Draw the share of the chain as shift u / (1 + (shift - 1) u): [E] eq. (23).

    As many times are noisier than it as on a path with this shift (`straight`), while
    the path, and what the network is given, stay as they are. Weights are 1, so the
    loss is re-weighted.

    Args:
        schedule: the forward process.
        shift: above 1 prefers the noise.
    """

    def time(u: jax.Array) -> jax.Array:
        return schedule.num_levels * (shift * u / (1.0 + (shift - 1.0) * u)) - 1.0

    return _of_law(schedule, time)


# --- Specs ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TimesSpec:
    """A way to draw training levels, by what makes it; `build` makes it."""

    needs_table: ClassVar[bool] = False  # of betas, since it counts levels

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler, for the levels of a schedule."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Uniform(TimesSpec):
    """See `uniform_times`."""

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return UNIFORM


@dataclasses.dataclass(frozen=True)
class Stratified(TimesSpec):
    """See `stratified_times`."""

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return STRATIFIED


@dataclasses.dataclass(frozen=True)
class Antithetic(TimesSpec):
    """See `antithetic_times`."""

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return ANTITHETIC


@dataclasses.dataclass(frozen=True)
class Importance(TimesSpec):
    """See `importance`.

    Attributes:
        length: number of losses kept of each level.
        uniform_share: share of the draws that are uniform.
    """

    needs_table: ClassVar[bool] = True
    length: int = 10
    uniform_share: float = 0.001

    def __post_init__(self) -> None:
        limits.between(self, "length", 1, 1_000_000)
        if not 0 < self.uniform_share <= 1:
            raise UserError(
                f"uniform_share={self.uniform_share} is not in (0, 1]; the paper's is "
                "0.001."
            )

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return importance(
            schedule.num_levels,
            length=self.length,
            uniform_share=self.uniform_share,
        )


@dataclasses.dataclass(frozen=True)
class LogitNormal(TimesSpec):
    """See `logit_normal`: it re-weights the loss.

    Attributes:
        mean: of the logit of the share of the chain; above 0 prefers the noise.
        std: of it.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        limits.between(self, "mean", -20, 20)
        limits.positive(self, "std", such_as="Stable Diffusion 3 has 1")

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return logit_normal(schedule, mean=self.mean, std=self.std)


@dataclasses.dataclass(frozen=True)
class LogNormal(TimesSpec):
    """See `lognormal`: it re-weights the loss.

    Attributes:
        mean: of log(sigma / alpha).
        std: of it.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        limits.between(self, "mean", -40, 40)
        limits.positive(self, "std", such_as="the paper's is 1.2")

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return lognormal(schedule, mean=self.mean, std=self.std)


@dataclasses.dataclass(frozen=True)
class Shifted(TimesSpec):
    """See `shifted`: it re-weights the loss.

    Attributes:
        shift: how many more of the times are noisy; 1 for even times.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        limits.positive(self, "shift", such_as="Stable Diffusion 3 has 3")

    def build(self, schedule: Schedule) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return shifted(schedule, shift=self.shift)
