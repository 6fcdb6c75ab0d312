"""Requests and the sections of a recipe that hold their defaults, there and back.

Messages name the options of a recipe, since a recipe may hold what is refused; on a
command line they name the flags.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ddpm_jax.errors import UserError
from ddpm_jax.requests import COMMANDS
from ddpm_jax.requests.exchange import Import
from ddpm_jax.requests.flags import flag_of, mentions, sections_of
from ddpm_jax.requests.options import Request
from ddpm_jax.requests.training import Look, Options, Plan

SECTIONS = ("sample", "edit", "extend", "cascade", "likelihood", "evaluate")
"""Sections that hold nothing but defaults of requests."""
_OF_TRAINING = ("init_from", "preview_steps")  # beside the section `training`

R = TypeVar("R", bound=Request)


def request_of(
    request: type[R], defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> R:
    """Make a request of the defaults of a recipe, and what was given.

    One option of a recipe may be of several commands, such as `edit.method`: a value
    that another of them knows, and this one does not, is left out.

    Args:
        request: its class.
        defaults: section -> what has its options as attributes.
        given: fields, and their values.

    Raises:
        UserError: a value cannot be.
    """
    values = {
        name: getattr(defaults[section], option)
        for (section, option), name in _split(request).items()
    }
    kept = {n: v for n, v in values.items() if not _is_of_others(request, n, v)}
    return request(**{**kept, **given})


def _is_of_others(request: type[Request], name: str, value: Any) -> bool:
    """Say whether only other commands know the value of an option."""
    own = request.__dataclass_fields__[name]
    if value in (*own.metadata["choices"], own.default):
        return False
    option = own.metadata["of"]
    return any(
        value in field.metadata["choices"]
        for other in COMMANDS.values()
        for field in dataclasses.fields(other)
        if field.metadata.get("of") == option
    )


def options_in(request: Request, section: str) -> dict[str, Any]:
    """Return option -> value of what a request asks for of a section of a recipe."""
    return {
        option: getattr(request, name)
        for (where, option), name in _split(type(request)).items()
        if where == section
    }


def refuse_sections(command: str, request: type[Request], names: list[str]) -> None:
    """Refuse options of a recipe that are flags of the command, or of training.

    Args:
        command: such as "sample".
        request: what it asks for.
        names: of options that were given, "sample.num_steps".

    Raises:
        UserError: naming the flag.
    """
    if request in (Import, Look, Options, Plan):
        return  # they take the line of a training
    known = sections_of(request)
    for name in names:
        section, _, option = name.partition(".")
        if name in known:
            raise UserError(
                f"--config.{name} sets the default of a recipe; here it is "
                f"{flag_of(known[name])}."
            )
        if section in SECTIONS and option in known.values():
            raise UserError(
                f"--config.{name} is no option of a recipe; {command} has "
                f"{flag_of(option)}."
            )
        if section in SECTIONS:
            is_of_others = any(name in sections_of(one) for one in COMMANDS.values())
            near = "" if is_of_others else _closest(option, known)
            hint = f"leave it out, or see {command} --help."
            if near:
                hint = f"did you mean {near}?"
            raise UserError(f"--config.{name} does nothing in {command}; {hint}")
        decides_devices = name == "training.batch_size"  # in every command
        if name in _OF_TRAINING or (section == "training" and not decides_devices):
            raise UserError(
                f"--config.{name} is of training, and does nothing in {command}; leave "
                "it out."
            )


def _closest(option: str, known: Mapping[str, str]) -> str:
    """Name the flag that was probably meant, "" if there is none like it."""
    by_word = {full.partition(".")[2]: field for full, field in known.items()}
    by_word |= {field: field for field in known.values()}
    near = difflib.get_close_matches(option[:80], list(by_word), n=1, cutoff=0.75)
    return flag_of(by_word[near[0]]) if near else ""


def in_flags(request: type[Request], text: str) -> str:
    """Name flags in a message that names the options of a recipe."""
    for name, written in mentions(request):
        flag = flag_of(name)
        bare = flag.removeprefix("--")
        text = re.sub(rf"{written}=False\b", f"--no-{bare}", text)
        text = re.sub(rf"{written}=True\b", flag, text)
        text = re.sub(rf"{written}='([^' ]*)'", rf"{flag}=\1", text)
        text = re.sub(rf"{written}(?![\w.]*\w)", flag, text)
    return text


def _split(request: type[Request]) -> dict[tuple[str, str], str]:
    found = {}
    for option, name in sections_of(request).items():
        section, _, rest = option.partition(".")
        found[section, rest] = name
    return found
