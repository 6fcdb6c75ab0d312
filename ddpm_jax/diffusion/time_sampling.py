"""Time sampling for training: uniform, stratified, antithetic, by importance.

A training level is sampled as u in [0, 1), of which `Schedule.draw` makes a time.
An even u gives the mean over all levels; a `TimeSampler` that prefers some of them
returns a weight, by which the loss of the example is to be multiplied:

    E[weight(u) loss(u)] = the mean of loss(u) over even u

so that every sampler here has the same objective and only the variance differs. The
state of a sampler is a pytree that the caller carries from step to step.

Sources:
    [K] Kingma et al. 2021, "Variational Diffusion Models", appendix I.1.
    [N] Nichol and Dhariwal 2021, section 3.3, eq. (18), and their published code.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax import limits
from ddpm_jax.diffusion.picklable import Picklable, picklable
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


# --- Specs ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TimesSpec:
    """A way to draw training levels, by what makes it; `build` makes it."""

    needs_table: ClassVar[bool] = False  # of betas, since it counts levels

    def build(self, num_levels: int) -> TimeSampler:
        """Make the sampler, for a schedule of T = `num_levels`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Uniform(TimesSpec):
    """See `uniform_times`."""

    def build(self, num_levels: int) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return UNIFORM


@dataclasses.dataclass(frozen=True)
class Stratified(TimesSpec):
    """See `stratified_times`."""

    def build(self, num_levels: int) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return STRATIFIED


@dataclasses.dataclass(frozen=True)
class Antithetic(TimesSpec):
    """See `antithetic_times`."""

    def build(self, num_levels: int) -> TimeSampler:
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

    def build(self, num_levels: int) -> TimeSampler:
        """Make the sampler; see `TimesSpec`."""
        return importance(
            num_levels, length=self.length, uniform_share=self.uniform_share
        )
