"""Requests and the sections of a recipe that hold their defaults, there and back.

Messages name the options of a recipe, since a recipe may hold what is refused; on a
command line they name the flags.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ddpm_jax.errors import UserError
from ddpm_jax.requests.exchange import Import
from ddpm_jax.requests.flags import flag_of, mentions, sections_of
from ddpm_jax.requests.options import Request
from ddpm_jax.requests.training import Look, Options, Plan

SECTIONS = ("sample", "edit", "cascade", "likelihood", "evaluate")
"""Sections that hold nothing but defaults of requests."""

R = TypeVar("R", bound=Request)


def request_of(
    request: type[R], defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> R:
    """Make a request of the defaults of a recipe, and what was given.

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
    return request(**{**values, **given})


def options_in(request: Request, section: str) -> dict[str, Any]:
    """Return option -> value of what a request asks for of a section of a recipe."""
    return {
        option: getattr(request, name)
        for (where, option), name in _split(type(request)).items()
        if where == section
    }


def refuse_sections(command: str, request: type[Request], names: list[str]) -> None:
    """Refuse options of a recipe that are flags of the command.

    Args:
        command: such as "sample".
        request: what it asks for.
        names: of options that were given, "sample.num_steps".

    Raises:
        UserError: naming the flag.
    """
    known = sections_of(request)
    for name in names:
        if name in known:
            raise UserError(
                f"--config.{name} sets the default of a recipe; here it is "
                f"{flag_of(known[name])}."
            )
        section = name.partition(".")[0]
        takes_recipes = request in (Import, Look, Options, Plan)
        if section in SECTIONS and not takes_recipes:
            raise UserError(
                f"--config.{name} does nothing in {command}; leave it out, or see "
                f"{command} --help."
            )


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
