"""Conditioners: what a network is conditioned on, one of them for each condition.

A set of conditioners is a dict by name, `{"label": Label(10), "text": Text(...)}`. A
condition (`cond`) is a dict by the same names of *rows*: pytrees of arrays with a
leading axis, as a training batch has them, or as they are asked for in sampling. The
rows reach the network through its ports (`networks.ports`), by the conditioner's
embedder.

Condition dropout and the unconditional branch of guidance are written here, once, for
any set. There are two kinds of dropout. The joint one takes all its droppable
conditions from a row or none,

    p(row has the null condition) = rate                                       [H]

and each condition may have a rate of its own besides, independent of all others [R].

Sources:
    [H] Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", Algorithm 1.
    [R] Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP
        Latents", section 2.1: the image embedding is dropped from 10% of the examples,
        the text from 50%.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.errors import UserError
from ddpm_jax.networks.ports import Ports

Rows = Any
"""A pytree of arrays with a leading axis [B]."""

Cond = dict[str, Rows]
"""Rows by the names of conditioners; see `NEGATIVE` for the one name besides."""

NEGATIVE = "negative"
"""In a condition of sampling: a dict of rows by the names of conditioners, which stand
in the place of their null conditions where guidance goes away from them."""


class Embedder(nn.Module):
    """The part of a conditioner that has parameters, a submodule of the network.

    A subclass has `__call__(rows, *, train) -> Ports`.
    """

    def encode(self, rows: Rows, *, train: bool = False) -> Rows:
        """Do, once before a chain, what no step of it need do again.

        By default nothing. `__call__` takes rows either way.
        """
        del train
        return rows

    def __call__(self, rows: Rows, *, train: bool = False) -> Ports:
        """Embed rows [B, ...].

        Args:
            rows: as the conditioner makes them, encoded or not.
            train: whether dropout acts.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ConditionerSpec:
    """What a recipe says of a conditioner; a frozen dataclass.

    Attributes:
        named: the name that it has to have in a set, by which requests and batches find
            it; "" for any. A class attribute.
        condition_dropout: share of examples from which this condition is taken, beside
            the joint dropout of all and independent of it.
        opens: the kind of model that its field `run` names a run of, "" if it has no
            such field: the model is opened, and what `for_data` is given describes it.
            A class attribute.
        starts_silent: whether its embedder gives zeros at first, so that a run without
            it is one that a run with it may begin with. A class attribute.
    """

    condition_dropout: float = dataclasses.field(default=0.0, kw_only=True)

    named: ClassVar[str] = ""
    opens: ClassVar[str] = ""
    starts_silent: ClassVar[bool] = False

    def for_data(self, data: Any) -> "Conditioner":
        """Make the conditioner of a model of these data.

        Args:
            data: a `data.info.DataInfo`.

        Raises:
            UserError: the data lack what it wants.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Conditioner(ConditionerSpec):
    """What a network is conditioned on; a frozen dataclass, checked when it is made.

    It is its own spec, and says with `for_data` what it takes of the data.

    Attributes:
        droppable: whether dropout and guidance put the null condition in its place.
        required: whether sampling needs rows of it; if not, the null condition serves.
    """

    droppable: ClassVar[bool] = True
    required: ClassVar[bool] = False

    def for_data(self, data: Any) -> "Conditioner":
        """Return itself: it takes nothing of the data."""
        del data
        return self

    def from_text(self, values: list[str]) -> Rows:
        """Make rows [N, ...] of what a command line says of each item.

        Args:
            values: N of them, such as "0.5".

        Raises:
            UserError: a value cannot be read, or none can be given in this way.
        """
        raise UserError(
            f"a condition of kind {type(self).__name__} cannot be given as text; "
            "use its own option, or a program."
        )

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> Rows | None:
        """Make the rows of a training batch, with an augmentation of their own.

        Args:
            key: of this batch and this conditioner alone.
            batch: what the loader gives, arrays [B, ...] by name.
            x0: [B, ...], the clean data that the network is to predict, augmented.

        Returns:
            Rows [B, ...]; None where something else adds them.
        """
        raise NotImplementedError

    def null(self, rows: Rows) -> Rows:
        """Make the null condition in the place of rows: the same pytree and shapes."""
        raise NotImplementedError

    def example(self, num_rows: int, shape: tuple[int, ...]) -> Rows:
        """Make rows of the right shapes and dtypes, for parameters and for costs.

        Args:
            num_rows: B.
            shape: of one item x0.
        """
        raise NotImplementedError

    def embedder(self, features: int) -> Embedder:
        """Make the module that embeds rows.

        Args:
            features: E, the width of the network's time embedding.
        """
        raise NotImplementedError


Conditioners = Mapping[str, Conditioner]


def names(conditioners: Conditioners) -> tuple[str, ...]:
    """List the conditioners in the order in which their ports are joined: by name."""
    return tuple(sorted(conditioners))


def from_batch(
    conditioners: Conditioners, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
) -> Cond:
    """Make the condition of a training batch, nothing dropped.

    Args:
        conditioners: by name.
        key: of the batch; each conditioner is given one of its own, by its name.
        batch: arrays [B, ...] by name.
        x0: [B, ...].
    """
    cond = {}
    for name in names(conditioners):
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        rows = conditioners[name].from_batch(own, batch, x0)
        if rows is not None:
            cond[name] = rows
    return cond


def null_condition(conditioners: Conditioners, cond: Mapping[str, Rows]) -> Cond:
    """Put the null condition, or the negative one, in the place of each droppable one.

    Args:
        conditioners: by name.
        cond: rows [B, ...]; what belongs to no conditioner is left.

    Returns:
        The same pytree.
    """
    nothing = dict(cond)
    negative = cond.get(NEGATIVE, {})
    for name, conditioner in conditioners.items():
        if name in negative:
            nothing[name] = negative[name]
        elif name in cond and conditioner.droppable:
            nothing[name] = conditioner.null(cond[name])
    return nothing


def drop(
    conditioners: Conditioners, key: jax.Array, cond: Mapping[str, Rows], rate: float
) -> Cond:
    """Condition dropout: the null condition in some rows, for all droppable ones alike.

    Args:
        conditioners: by name.
        key: of the draw.
        cond: rows [B, ...].
        rate: share of rows that lose their conditions.
    """
    kept = dict(cond)
    given = {
        name: rows
        for name, rows in kept.items()
        if name in conditioners and conditioners[name].droppable
    }
    if not given:
        return kept
    size = jax.tree.leaves(given)[0].shape[:1]
    dropped = jax.random.bernoulli(key, jnp.float32(rate), size)

    def choose(nothing: jax.Array, rows: jax.Array) -> jax.Array:
        return jnp.where(dropped.reshape(-1, *[1] * (rows.ndim - 1)), nothing, rows)

    return kept | jax.tree.map(choose, null_condition(conditioners, given), given)


def drop_each(
    conditioners: Conditioners,
    key: jax.Array,
    cond: Mapping[str, Rows],
    rates: Mapping[str, float],
) -> Cond:
    """Condition dropout of each condition by itself.

    Args:
        conditioners: by name.
        key: of the draw; each condition has one of its own, by its name.
        cond: rows [B, ...].
        rates: by name, the share of rows that lose this condition; left out: none.
    """
    kept = dict(cond)
    for name, rate in rates.items():
        if rate and name in kept:
            own = jax.random.fold_in(key, zlib.crc32(f"dropout of {name}".encode()))
            one = {name: conditioners[name]}
            kept |= drop(one, own, {name: kept[name]}, rate)
    return kept


def training_condition(
    conditioners: Conditioners,
    rate: float = 0.0,
    rates: Mapping[str, float] | None = None,
) -> Callable[[jax.Array, Mapping[str, Any], jax.Array], Cond]:
    """Make the function that conditions a training batch.

    Args:
        conditioners: by name.
        rate: of joint condition dropout; without any dropout there is no guidance
            afterwards.
        rates: of the dropout of single conditions, by name; see `drop_each`.

    Returns:
        (key, batch, x0 [B, ...]) -> condition.
    """

    def condition(key: jax.Array, batch: Mapping[str, Any], x0: jax.Array) -> Cond:
        cond = from_batch(conditioners, key, batch, x0)
        cond = drop(conditioners, key, cond, rate)
        return drop_each(conditioners, key, cond, rates or {})

    return condition
