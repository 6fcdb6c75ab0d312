"""Arguments of a model's methods: arrays, keys and counts, refused in one line.

A program that calls a model may hand over anything; what no array can be made of, or is
of other axes, is named here, before JAX or Flax would fail somewhere below.
"""

import contextlib
import numbers
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import UserError, shown
from ddpm_jax.limits import MAX_INT


def array(name: str, value: Any) -> jax.Array:
    """Make an array of numbers of an argument.

    Args:
        name: of the argument.
        value: whatever was given.

    Raises:
        UserError: it holds no numbers, or rows of different lengths.
    """
    try:
        return jnp.asarray(value if isinstance(value, jax.Array) else np.asarray(value))
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{name} is {_kind(value)}, of which no array of numbers can be made; give "
            "a NumPy or JAX array."
        ) from None


def floats(name: str, value: Any, shape: Sequence[int | None]) -> jax.Array:
    """Make a float32 array [N, *shape] of an argument.

    Args:
        name: of the argument.
        value: whatever was given, integers included.
        shape: of one item; None for an axis of any length.

    Raises:
        UserError: it is no such array.
    """
    found = array(name, value)
    fits = found.ndim == len(shape) + 1 and all(
        wanted in (None, given)
        for wanted, given in zip(shape, found.shape[1:], strict=True)
    )
    if not fits:
        axes = ", ".join(["N", *("..." if n is None else str(n) for n in shape)])
        raise UserError(f"{name} is of shape {list(found.shape)}; want [{axes}].")
    if not jnp.issubdtype(found.dtype, jnp.number) or jnp.iscomplexobj(found):
        raise UserError(f"{name} is of type {found.dtype}; want floating point.")
    return found.astype(jnp.float32)


@contextlib.contextmanager
def located(name: str) -> Iterator[None]:
    """Name an argument in what is refused of it further below.

    Raises:
        UserError: whatever a `ValueError` says, with the name before it.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def key(value: Any) -> jax.Array:
    """Return a random key [] that was given.

    Raises:
        UserError: it is none.
    """
    is_typed = isinstance(value, jax.Array) and jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    )
    if not is_typed:
        raise UserError(
            f"key is {_kind(value)}, and no random key; give jax.random.key(0), with "
            "any seed."
        )
    if value.ndim:
        raise UserError(
            f"key is {list(value.shape)} keys; give one, of which each item gets its "
            "own."
        )
    found: jax.Array = value
    return found


def whole(name: str, value: Any, lowest: int) -> int:
    """Return a whole number that was given.

    Args:
        name: of the argument.
        value: whatever was given.
        lowest: that it may be.

    Raises:
        UserError: it is none, or too small or too large.
    """
    if isinstance(value, bool) or not _is_whole(value):
        raise UserError(f"{name}={shown(value)} is not a whole number; give one.")
    number = operator.index(value)
    if number < lowest:
        raise UserError(f"{name}={number} is too small; use {lowest} or more.")
    if number > MAX_INT:
        raise UserError(f"{name} is out of range; use {MAX_INT:,} or less.")
    return number


def _is_whole(value: Any) -> bool:
    if isinstance(value, numbers.Integral):
        return True
    is_array = isinstance(value, np.ndarray | jax.Array)
    return is_array and value.ndim == 0 and np.issubdtype(value.dtype, np.integer)


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
