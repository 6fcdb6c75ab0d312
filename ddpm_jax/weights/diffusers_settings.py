"""Common code for the two settings files of a diffusers model.

A key that is absent has the default of diffusers. A key that is unknown, or has a value
that this U-Net or this process cannot be, is refused by its name: what is not
understood might change the images.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ddpm_jax.errors import UserError


def refusal(where: str, key: str, value: Any, wanted: Iterable[Any]) -> str:
    """Word the refusal of a value; `wanted` are those that can be."""
    listed = " or ".join(repr(choice) for choice in wanted)
    return (
        f"{where} has {key}={value!r}, and here it can only be {listed}; this "
        "checkpoint is of another kind of model."
    )


def choose(where: str, key: str, value: Any, table: Mapping[str, Any]) -> Any:
    """Map a word, or refuse it.

    Raises:
        UserError: the table has no such word.
    """
    if not isinstance(value, str) or value not in table:
        raise UserError(refusal(where, key, value, table))
    return table[value]


def complete(
    where: str, settings: Mapping[str, Any], defaults: dict, fixed: dict
) -> dict[str, Any]:
    """Fill in what is absent, and refuse what cannot be.

    Args:
        where: the file, for messages.
        settings: its content.
        defaults: of every setting that is read.
        fixed: of every other that may stand there, the values it may have; None: any.

    Raises:
        UserError: naming the first setting that is unknown or cannot be.
    """
    for key, value in settings.items():
        if key.startswith("_") or key in defaults:
            continue
        if key not in fixed:
            raise UserError(
                f"{where} has {key}={value!r}, which is not known here; it may change "
                "what the model computes, so this checkpoint is not read."
            )
        if fixed[key] is not None and value not in fixed[key]:
            raise UserError(refusal(where, key, value, fixed[key]))
    given = {key: value for key, value in settings.items() if key in defaults}
    filled = defaults | given
    for key, default in defaults.items():
        value = filled[key]
        wrong = not isinstance(value, type(default)) and default is not None
        if isinstance(default, float) and isinstance(value, int):
            wrong = False
        if wrong and not (key == "attention_head_dim" and value is None):
            raise UserError(
                f"{where} has {key}={value!r}, which is not of type "
                f"{type(default).__name__}; the file is damaged, or not of a "
                "diffusion model: fetch it again."
            )
    return filled


def widths_of(where: str, config: Mapping[str, Any]) -> list[int]:
    """Read the channels of each level, all multiples of the first's.

    Raises:
        UserError: they are no such sizes.
    """
    widths = config["block_out_channels"]
    if not widths or not all(isinstance(w, int) and w > 0 for w in widths):
        raise UserError(f"{where} has block_out_channels={widths}; they are no sizes.")
    if any(width % widths[0] for width in widths):
        raise UserError(
            f"{where} has block_out_channels={widths}, and here each is a multiple of "
            "the first; this checkpoint is of another kind of model."
        )
    return widths


def sides_of(where: str, size: Any) -> tuple[int, int]:
    """Read a sample_size, one number or two, as (height, width) in pixels.

    Raises:
        UserError: it is not a size.
    """
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise UserError(
            f"{where} has sample_size={size!r}, which is not a size in pixels."
        )
    return sides


def key_of(table: Mapping[str, Any], value: Any) -> str | None:
    """Return the first word of a table that stands for a value."""
    return next((key for key, ours in table.items() if ours == value), None)
