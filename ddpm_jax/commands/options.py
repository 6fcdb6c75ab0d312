"""Listing the options of a recipe, with their values and what they are."""

import textwrap

from ddpm_jax import specs
from ddpm_jax.recipe import Recipe, to_json

_WIDTH, _INDENT = 88, 8


def options(recipe: Recipe) -> int:
    """Print every option of a recipe, or of a run, as the command line has it.

    Returns:
        0.
    """
    print("\n".join(listed(recipe)))
    return 0


def listed(recipe: Recipe) -> list[str]:
    """Write every option as lines: the flag with its value, and below what it is."""
    lines = []
    for option in specs.options(to_json(recipe)):
        lines.append(f"--config.{option.name}={_shown(option.value)}")
        about = option.what
        if option.kinds:
            about = f"{about.rstrip('.')}: {', '.join(option.kinds)}".lstrip(": ")
        indent = " " * _INDENT
        lines += textwrap.wrap(
            about, _WIDTH, initial_indent=indent, subsequent_indent=indent
        )
    return lines


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "(" + ",".join(map(str, value)) + ("," if len(value) == 1 else "") + ")"
    return str(value)
