"""Flags and help of a request, made of the fields of its dataclass.

argparse does the reading. Libraries that do all of it from a dataclass (tyro 1.0 was
tried) print an error as a box of many lines, of which nothing can be had as data, and
take 0.4 s to import; here a mistake is one line that names the flag as it was typed.
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from ddpm_jax.errors import UserError
from ddpm_jax.requests import options
from ddpm_jax.requests.options import Request

_EPILOG = """\
A recipe may set other defaults. Beside these: --config=RECIPE in place of that which
the run carries, --config.SECTION.NAME=VALUE for options of the model, and the flags for
several processes of `main.py --help`.
"""


_WIDTH = 88  # of the help


class Line(NamedTuple):
    """A command line, read.

    Attributes:
        command: such as "edit inpaint".
        values: fields of the request that were given.
        known: flags that all commands have; None where they were not given.
        overrides: options of a recipe, "--config.SECTION.NAME=VALUE".
    """

    command: str
    values: dict[str, Any]
    known: argparse.Namespace
    overrides: list[str]


def read(
    command: str,
    request: type[Request],
    words: list[str],
    common: argparse.ArgumentParser,
) -> Line:
    """Read the words after a command.

    Args:
        command: such as "edit inpaint".
        request: what it asks for.
        words: of the command line.
        common: the flags that all commands have.

    Raises:
        UserError: a flag is not known, a value is of a wrong type, a place is missing.
    """
    parser = make_parser(command, request, common)
    try:
        known, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(_fault(error)) from None
    fields = {field.name: field for field in dataclasses.fields(request)}
    types_of = typing.get_type_hints(request)
    values = {
        name: value_of(flag_of(name), text, types_of[name])
        for name, text in vars(known).items()
        if name in fields
    }
    overrides = [word for word in rest if word.startswith("--config.")]
    rest = [word for word in rest if not word.startswith("--config.")]
    values |= _places(command, request, rest, _flags(request))
    shared = {name: value for name, value in vars(known).items() if name not in fields}
    if shared["config"] is None:  # which names a run of its own
        _check_places(command, request, values)
    return Line(command, values, argparse.Namespace(**shared), overrides)


def make_parser(
    command: str,
    request: type[Request],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Describe the flags of a command.

    Places have no flag, and are left over for whoever parses: argparse takes one that
    may be left out for missing where a flag comes before it.
    """
    places = [_metavar(field) for field in _positional(request)]
    parser = _Parser(
        prog=f"{common.prog} {command}",
        usage=" ".join([f"{common.prog} {command}", *places, "[--NAME=VALUE ...]"]),
        description=_description(request),
        epilog=_EPILOG,
        formatter_class=_help_formatter,
        parents=[common],
        allow_abbrev=False,
        exit_on_error=False,
    )
    types_of = typing.get_type_hints(request)
    groups: dict[type, Any] = {}
    for field in dataclasses.fields(request):
        if field.metadata.get("positional"):
            continue
        owner = _owner(request, field.name)
        if owner not in groups:
            is_shared = owner.__module__ == options.__name__
            groups[owner] = (
                parser.add_argument_group(_title(owner)) if is_shared else parser
            )
        common_arguments = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": _help(field),
        }
        if types_of[field.name] is bool:
            action = argparse.BooleanOptionalAction
            groups[owner].add_argument(
                flag_of(field.name), action=action, **common_arguments
            )
        else:
            groups[owner].add_argument(
                flag_of(field.name), metavar="", **common_arguments
            )
    return parser


def flag_of(name: str) -> str:
    """Spell a field as a flag."""
    return f"--{name.replace('_', '-')}"


def spelled(name: str, value: Any) -> str:
    """Spell a field and its value as a word of the command line."""
    if isinstance(value, bool):
        return flag_of(name if value else f"no_{name}")
    return f"{flag_of(name)}={value}"


def closest(word: str, known: Iterable[str], what: str) -> str:
    """Name what was probably meant, or all that there is, for the end of a message."""
    listed = list(known)
    near = difflib.get_close_matches(word[:80], listed, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"{what} {', '.join(listed)}."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help.")


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(
        prog, max_help_position=28, width=_WIDTH
    )


def _fault(error: argparse.ArgumentError) -> str:
    flag = (error.argument_name or "").partition("/")[0].partition(",")[0]
    if "expected one argument" in error.message:
        return f"{flag} has no value; write {flag}=VALUE."
    if "explicit argument" in error.message:
        bare = flag.removeprefix("--").removeprefix("no-")
        return f"{flag} takes no value; write --{bare} or --no-{bare}."
    return f"{error}; see --help."


def value_of(flag: str, text: Any, wanted: Any) -> Any:
    """Read a value as what a field holds.

    Args:
        flag: that it was given by.
        text: of the command line; a bool of a flag without a value.
        wanted: the type of the field.

    Raises:
        UserError: it is no such value.
    """
    if wanted is bool:
        return text
    if isinstance(wanted, types.UnionType):
        wanted = next(
            kind for kind in typing.get_args(wanted) if kind is not type(None)
        )
    if wanted is int:
        if not re.fullmatch(r"[+-]?[0-9]+", text.strip()):
            raise UserError(f"{flag}={text} is not a whole number.")
        return int(text)
    if wanted is float:
        try:
            return float(text)
        except ValueError:
            raise UserError(f"{flag}={text} is not a number.") from None
    return text


def _places(
    command: str, request: type[Request], rest: list[str], known: list[str]
) -> dict[str, str]:
    """Take what is left over for the places, in their order."""
    for word in rest:
        if word.startswith("-"):
            flag, _, value = word.partition("=")
            if flag == "--workdir":
                raise UserError(f"write the run without a flag: {command} {value}")
            hint = closest(flag, known, f"the flags of {command} are")
            raise UserError(f"unknown flag {flag}; {hint}")
    fields = _positional(request)
    if len(rest) > len(fields):
        raise UserError(
            f"unknown argument {rest[len(fields)]!r}; {command} takes "
            f"{' '.join(map(_metavar, fields))}, and flags such as {known[0]}=VALUE."
        )
    return dict(zip((field.name for field in fields), rest, strict=False))


def _check_places(command: str, request: type[Request], given: dict[str, Any]) -> None:
    for field in _positional(request):
        if field.name not in given and field.default == "":
            raise UserError(
                f"{command} needs {_metavar(field)} ({field.metadata['help']}); see "
                f"{command} --help."
            )


def _positional(request: type[Request]) -> list[dataclasses.Field]:
    """List the fields without a flag, those that may be left out last."""
    found = [f for f in dataclasses.fields(request) if f.metadata.get("positional")]
    return sorted(found, key=lambda field: field.default is None)


def _metavar(field: dataclasses.Field) -> str:
    name = field.name.upper()
    return f"[{name}]" if field.default is None else name


def _flags(request: type[Request]) -> list[str]:
    """List the flags of a request, its own before those that others have too."""
    types_of = typing.get_type_hints(request)
    own: list[str] = []
    shared: list[str] = []
    for field in dataclasses.fields(request):
        if field.metadata.get("positional"):
            continue
        flag, owner = flag_of(field.name), _owner(request, field.name)
        found = shared if owner.__module__ == options.__name__ else own
        found.append(flag)
        if types_of[field.name] is bool:
            found.append(flag_of(f"no_{field.name}"))
    return [*own, *shared, "--config", "--help"]


def _description(request: type[Request]) -> str:
    places = [
        f"  {_metavar(f):<22}  {f.metadata['help']}" for f in _positional(request)
    ]
    return "\n".join([inspect.getdoc(request) or "", "", *places])


def _owner(request: type, name: str) -> type:
    """Find the class that declares a field first."""
    classes = [c for c in request.__mro__ if name in vars(c).get("__annotations__", {})]
    return classes[-1]


def _title(owner: type) -> str:
    return (inspect.getdoc(owner) or "").splitlines()[0].removesuffix(".").lower()


def _help(field: dataclasses.Field) -> str:
    text = field.metadata["help"].replace("%", "%%")
    default = field.default
    if default in (None, "", 0) or isinstance(default, bool):
        return text + (" (default: yes)" if default is True else "")
    return f"{text} (default: {default})"


def mentions(request: type[Request]) -> list[tuple[str, str]]:
    """List field and pattern of how messages write its option, longest name first."""
    options_of = sorted(sections_of(request).items(), key=lambda item: -len(item[0]))
    return [
        (name, rf"(?<![\w.])(?:--)?(?:config\.)?{re.escape(option)}")
        for option, name in options_of
    ]


def sections_of(request: type[Request]) -> Mapping[str, str]:
    """Return option of a recipe -> field, for all fields that have one."""
    fields = dataclasses.fields(request)
    return {f.metadata["of"]: f.name for f in fields if "of" in f.metadata}
