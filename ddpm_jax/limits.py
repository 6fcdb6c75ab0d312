"""Limits of a spec's numbers: for `__post_init__`, each refusal one line.

    def __post_init__(self) -> None:
        limits.between(self, "num_levels", 2, 1_000_000)
        limits.share(self, "dropout")

A message begins with the field, so that whoever reads the spec of a recipe can put in
front of it where the field stands: `config.schedule.num_levels=1 is too small; ...`.
A field that is None is not looked at, and of a tuple every entry is.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ddpm_jax.errors import UserError

MAX_INT = 2**63 - 1
"""The largest seed, and the largest whole number of any option."""
# By the name of an option, in whatever section: more is a slip, and costs hours or all
# memory before anything comes of it.
_CEILINGS = {
    "num_levels": 1_000_000,
    "num_seeds": 10_000,
    "num_points": 10_000,
    "num_resamples": 10_000,
    "iterations": 10_000,
    "num_probes": 100_000,
    "channels": 65_536,
    "latent_channels": 65_536,
    "num_layers": 30,
    "num_features": 1_000_000,
    "num_res_blocks": 1000,
    "batch_size": 2**31 - 1,  # rows are counted in int32
    "num_images": 2**31 - 1,
}


def brief(spec: Any) -> str:
    """Name a spec in a message: its class, and the fields that are not at a default."""
    changed = [
        f"{field.name}={getattr(spec, field.name)!r}"
        for field in dataclasses.fields(spec)
        if getattr(spec, field.name) != field.default
        and field.default_factory is dataclasses.MISSING
    ]
    return f"{type(spec).__name__}({', '.join(changed)})"


def _numbers(spec: Any, name: str) -> Iterator[float]:
    value = getattr(spec, name)
    for number in value if isinstance(value, tuple) else (value,):
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise UserError(f"{name}={value!r:.80} is not a number; give one.")
        yield number


def at_least(spec: Any, lowest: float, *names: str) -> None:
    """Refuse numbers below the lowest, and those that are not finite.

    Raises:
        UserError: naming the first.
    """
    for name in names:
        for number in _numbers(spec, name):
            if not number >= lowest:
                raise UserError(f"{name}={number} is too small; use {lowest} or more.")
            if number == math.inf:
                raise UserError(f"{name}={number} is not finite; use a number.")


def between(spec: Any, name: str, lowest: float, highest: int) -> None:
    """Refuse a number outside of [lowest, highest]: more is a slip, or fits no memory.

    Raises:
        UserError: it is.
    """
    at_least(spec, lowest, name)
    for number in _numbers(spec, name):
        if number > highest:
            raise UserError(
                f"{name}={number} is out of range; use {highest:,} or less."
            )


def share(spec: Any, *names: str) -> None:
    """Refuse numbers outside of [0, 1).

    Raises:
        UserError: naming the first.
    """
    for name in names:
        for number in _numbers(spec, name):
            if not 0 <= number < 1:
                raise UserError(
                    f"{name}={number} is not in [0, 1); use 0 to switch it off."
                )


def positive(spec: Any, *names: str, such_as: str = "") -> None:
    """Refuse numbers that are not positive and finite.

    Args:
        spec: the dataclass.
        names: of its fields.
        such_as: what the message offers, such as "the paper's is 2e-4".

    Raises:
        UserError: naming the first.
    """
    ending = f"; {such_as}." if such_as else "."
    for name in names:
        for number in _numbers(spec, name):
            if not 0 < number < math.inf:
                raise UserError(f"{name}={number} must be positive and finite{ending}")


def names_run(spec: Any, noun: str, such_as: str) -> None:
    """Refuse a field `run` that names no folder.

    Args:
        spec: the dataclass.
        noun: what the folder has to hold.
        such_as: an example.

    Raises:
        UserError: it is "".
    """
    if not spec.run:
        raise UserError(
            f"run='' names no {noun}; give the folder of one, such as {such_as}."
        )


def check_seed(name: str, seed: int) -> None:
    """Refuse a seed that has no root key.

    Args:
        name: what the message calls it, such as "config.seed".
        seed: any number.

    Raises:
        UserError: it is not in 0 to 2^63 - 1.
    """
    if not 0 <= seed <= MAX_INT:
        raise UserError(f"{name}={seed} is out of range; use 0 to 2^63-1.")


def check_ceilings(options: Any, path: str = "config") -> None:
    """Refuse numbers so large that they are a slip, or that no array can count.

    Args:
        options: plain data, by their names.
        path: of them, for messages; the last name in it decides.

    Raises:
        UserError: naming the first.
    """
    if isinstance(options, Mapping):
        for name, value in options.items():
            check_ceilings(value, f"{path}.{name}")
        return
    name = path.rpartition(".")[2]
    least, most = -MAX_INT, _CEILINGS.get(name, MAX_INT)
    for number in options if isinstance(options, tuple | list) else (options,):
        if not isinstance(number, int):
            continue
        if name == "seed":
            check_seed(path, number)
        if not least <= number <= most:
            bound = f"{most:,} or less" if number > most else f"{least:,} or more"
            raise UserError(f"{path}={options} is out of range; use {bound}.")
