"""Requests from the keyword arguments of a function, instead of a command line.

The names are those of the fields, and the rules those of the flags.
"""

import contextlib
import numbers
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm_jax.errors import UserError, shown
from ddpm_jax.requests.flags import closest, mentions
from ddpm_jax.requests.options import Request


def read(
    function: str,
    request: type[Request],
    given: Mapping[str, Any],
    known: Sequence[str],
) -> dict[str, Any]:
    """Check keyword arguments, and bring numbers to the types of their fields.

    Args:
        function: that was called, for messages.
        request: whose fields they are.
        given: the arguments.
        known: fields that the function takes.

    Raises:
        UserError: one is not known, or of a wrong type.
    """
    types_of = typing.get_type_hints(request)
    values = {}
    for name, value in given.items():
        if name not in known:
            hint = closest(name, known, "the options are")
            raise UserError(f"{function} has no option {name!r}; {hint}")
        values[name] = _value(name, value, types_of[name])
    return values


def _value(name: str, value: Any, wanted: Any) -> Any:
    choices = typing.get_args(wanted)
    if value is None and type(None) in choices:
        return None
    kind = next((c for c in choices if c is not type(None)), wanted)
    is_bool = isinstance(value, bool)
    if kind is bool and is_bool:
        return value
    if kind is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not is_bool:
        with contextlib.suppress(OverflowError):  # of an integer of hundreds of digits
            return float(value)
    if kind is str and isinstance(value, str):
        return value
    what = {bool: "True or False", int: "a whole number", float: "a number"}
    raise UserError(f"{name}={shown(value)} is not {what.get(kind, 'text')}.")


def in_keywords(request: type[Request], text: str) -> str:
    """Name arguments in a message that names the options of a recipe."""
    for name, written in mentions(request):
        text = re.sub(rf"{written}(?![\w.]*\w)", name, text)
    return text
