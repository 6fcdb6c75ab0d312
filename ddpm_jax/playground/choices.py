"""Conversion of the page's fields to a request and to the equivalent command line.

Fields arrive as JSON that anyone can have written, so their types are checked as well.
"""

import math
import shlex
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import COMMANDS, Edit, Sample
from ddpm_jax.requests.flags import sections_of, spelled
from ddpm_jax.requests.sample import sample_of

R = TypeVar("R", Sample, Edit)

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
    recipe: Recipe[Diffusion],
    info: DataInfo,
    request: type[R],
    options: Mapping[str, Any],
    *,
    most_images: int | None = None,
) -> R:
    """Make a request of options such as "sample.seed", and refuse what cannot work.

    Args:
        recipe: of the model, with the defaults of what is not given.
        info: of the model's data.
        request: its class.
        options: by their names in a recipe, as the page gives them: a number may be a
            float without a fraction, or None where its field was left empty.
        most_images: refuse more than this many images, or points of an interpolation.

    Raises:
        UserError: naming the first option that cannot be.
    """
    fields, types_of = sections_of(request), typing.get_type_hints(request)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in fields:
            raise UserError(f"{name} is no option of this tab; reload the page.")
        if value is None and name not in _MAY_BE_EMPTY:
            raise UserError(f"{name} is empty; give a number.")
        wanted = types_of[fields[name]]
        kind = next((c for c in typing.get_args(wanted) if c is not type(None)), wanted)
        if value is not None:
            values[fields[name]] = _typed(name, value, kind)
        elif kind is not str:
            values[fields[name]] = None
    for name in _COUNTS:
        count = values.get(fields.get(name, ""))
        if most_images is not None and count is not None and count > most_images:
            raise UserError(
                f"{name}={count} is more than the page draws at a time; use 1 to "
                f"{most_images}."
            )
    asked = recipe.request(request, **values)
    given = _changed(recipe, request, values)
    asked = assembly.leave_out_idle(recipe.task, asked, given)
    if isinstance(asked, Edit):
        assembly.check_sample(
            recipe.task, info, assembly.sample_of_edit(recipe.task, asked)
        )
    else:
        assembly.check_sample(recipe.task, info, sample_of(asked))
    assembly.refuse_idle(recipe.task, asked)
    return asked


def _changed(
    recipe: Recipe[Diffusion], request: type[R], values: Mapping[str, Any]
) -> set[str]:
    """Name the fields that are not as the page has them when it is opened.

    A page gives a value to each of its options, whether anyone asked for it or not.
    """
    shown, spec = vars(recipe.request(request)), recipe.task
    plain = recipe.request(Sample)
    shown = {
        **shown,
        "seed": assembly.seed_of(spec, plain),
        "num_steps": assembly.num_steps(spec, plain),
    }
    return {name for name, value in values.items() if value != shown[name]}


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


def command_line(recipe: Recipe, asked: Sample | Edit, workdir: str) -> str:
    """Write the command that makes the same images.

    Args:
        recipe: of the model, as the checkpoint has it.
        asked: the request.
        workdir: of the model.
    """
    request = type(asked)
    (command,) = (name for name, one in COMMANDS.items() if one is request)
    words = ["python", "main.py", *command.split(), workdir]
    defaults = recipe.request(request)
    idle = assembly.idle_fields(recipe.task, asked)  # left out of any command
    for name in sections_of(request).values():
        value = getattr(asked, name)
        if value != getattr(defaults, name) and name not in idle:
            words.append(spelled(name, value))
    return " ".join(map(shlex.quote, words))
