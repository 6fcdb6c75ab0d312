"""Conversion of the page's fields to a config and to the equivalent command line.

Fields arrive as JSON that anyone can have written, so their types are checked as well.
"""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import from_json, to_json
from ddpm_jax.requests import COMMANDS
from ddpm_jax.requests.flags import sections_of, spelled

# Fields that the user can leave empty, and the value that this means.
_MAY_BE_EMPTY = {"sample.seed", "sample.num_steps", "sample.labels"} | {
    *("sample.prompt", "sample.negative_prompt")
}
_PROMPTS = ("sample.prompt", "sample.negative_prompt")
# How many images there are of each prompt, label or image.
_COUNTS = ("sample.num_images", "edit.num_images", "edit.num_points")
_REFERENCES = ("file:", "data:")  # of the command line, where a prompt may be one
_EXACT = 2**53 - 1  # JavaScript's numbers: a larger one may be that of a neighbor
_MAX_TEXT = 10_000  # characters


def number(name: str, value: object, *, whole: bool = False) -> int | float:
    """Check a field that holds a number.

    Args:
        name: of the field, for the message.
        value: from a request, of any type.
        whole: refuse fractions; the number is then an int.

    Raises:
        UserError: it is not a number, not finite, or larger than a page can send.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} is {_shown(value)}, not a number; give a number.")
    if abs(value) > _EXACT:
        shown = f"{name}={value}" if abs(value) < 2**80 else name
        raise UserError(
            f"{shown} is more than a number of a page holds exactly; use up to 2^53-1, "
            "or the command line."
        )
    if not math.isfinite(value):
        raise UserError(f"{name} is not finite; give a finite number.")
    if not whole:
        return value
    if int(value) != value:
        raise UserError(f"{name}={value} is not a whole number; give one.")
    return int(value)


def text(name: str, value: object) -> str:
    """Check a field that holds a text.

    Args:
        name: of the field, for the message.
        value: from a request, of any type.

    Raises:
        UserError: it is not a text, or a very long one.
    """
    if not isinstance(value, str):
        raise UserError(f"{name} is {_shown(value)}, not a text; give a text.")
    if len(value) > _MAX_TEXT:
        raise UserError(
            f"{name} has {len(value)} characters; give {_MAX_TEXT} at most."
        )
    if not value.isprintable() and any(c not in "\t\n\r" for c in value if c < " "):
        raise UserError(f"{name} holds control characters; leave them out.")
    return value


def _shown(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "empty"


def chosen(
    cfg: ConfigDict,
    info: DataInfo,
    options: Mapping[str, Any],
    *,
    most_images: int | None = None,
) -> ConfigDict:
    """Set options such as "sample.seed", and refuse what cannot work.

    Args:
        cfg: of the model; it is left as it is.
        info: of the model's data.
        options: by their names in the config, as the page gives them: a number may be
            a float without a fraction, or None where its field was left empty.
        most_images: refuse more than this many images, or points of an interpolation.

    Returns:
        A config of its own.

    Raises:
        UserError: naming the first option that cannot be.
    """
    # Not a copy: that forgets what type an option has that is unset.
    changed = from_json(to_json(cfg))
    for name, value in options.items():
        if value is None and name not in _MAY_BE_EMPTY:
            raise UserError(f"{name} is empty; give a number.")
        section, option = name.split(".")
        if value is not None:
            value = _typed(name, value, cfg[section].get_type(option))
        try:
            changed[section][option] = value
        except (TypeError, ValueError):
            raise UserError(f"{name}={value!r:.80} is of a wrong type.") from None
    for name in _COUNTS:
        section, option = name.split(".")
        count = changed[section][option]
        if name in options and most_images is not None and count > most_images:
            raise UserError(
                f"{name}={count} is more than the page draws at a time; use 1 to "
                f"{most_images}."
            )
    assembly.check(changed, info)
    return changed


def _typed(name: str, value: object, wanted: type) -> object:
    """Check a field against the type of its option."""
    if wanted is str:
        said = text(name, value)
        if name in _PROMPTS and said.lstrip().startswith(_REFERENCES):
            raise UserError(
                f"{name} begins with {said.lstrip()[:5]}; the page reads no files and "
                "lists of prompts, so write the prompt itself."
            )
        return said
    return number(name, value, whole=wanted is int)


def labels_text(chosen_names: object, info: DataInfo) -> str:
    """Write chosen class names as `config.sample.labels` reads them.

    Args:
        chosen_names: list of `info.label_names` and "none".
        info: of the model's data.

    Raises:
        UserError: it is something else.
    """
    known = list(info.label_names or ())
    if not isinstance(chosen_names, list | tuple):
        raise UserError("sample.labels is not a list; choose labels of the list.")
    for name in chosen_names:
        if name not in (*known, "none"):
            raise UserError(f"label {name!a:.80} is not known; choose one of the list.")
    return ",".join(
        assembly.label_word(known.index(name), known) if name in known else name
        for name in chosen_names
    )


def command_line(cfg: ConfigDict, changed: ConfigDict, mode: str, workdir: str) -> str:
    """Write the command that makes the same images.

    Args:
        cfg: of the model, as the checkpoint has it.
        changed: the options of the request.
        mode: a command, or a way to edit.
        workdir: of the model.
    """
    command = mode if mode in COMMANDS else f"edit {mode}"
    words = ["python", "main.py", *command.split(), workdir]
    for option, name in sections_of(COMMANDS[command]).items():
        section, _, rest = option.partition(".")
        value = changed[section][rest]
        if value != cfg[section][rest]:
            words.append(spelled(name, value))
    return " ".join(map(shlex.quote, words))
