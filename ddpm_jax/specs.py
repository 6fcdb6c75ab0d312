"""Specs: frozen dataclasses, to and from recipes, stored JSON and the command line.

A spec is the dataclass of the thing itself, beside its code, validated in its own
`__post_init__`. Here, and nowhere else, one becomes a node of a recipe (a ConfigDict)
or of a JSON file, and is read back by its `kind`:

    config = recipe(Diffusion(schedule=Cosine(1000)), fit=Fit(num_steps=800))
    config = override(config, ["--config.schedule.num_levels=500"])
    spec, others = from_recipe(config)  # a Diffusion, and {"fit": a Fit}

A kind of your own is a frozen dataclass anywhere, registered where it is defined:

    @register
    @dataclasses.dataclass(frozen=True)
    class Polynomial(ScheduleSpec):
        power: float = 2.0

A field may be bool, int, float, str, a Literal of these, another spec (its class, or a
base class of all that fit, or Any), a tuple, a mapping with str keys, or one of several
(`int | None`). JSON never imports code: a kind that no imported module has registered
is refused.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddpm_jax.errors import UserError
from ddpm_jax.limits import MAX_INT
from ddpm_jax.networks.ports import FROM_DATA

KIND = "kind"

_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_SCALARS = {int: "an integer", float: "a number", bool: "True or False", str: "text"}
_OF_FLAX = ("parent", "name")  # fields of every Flax module, no part of what it is
T = TypeVar("T")

# --- Kinds ----------------------------------------------------------------------------

_known: dict[str, type] = {}


def register(cls: type[T], kind: str | None = None) -> type[T]:
    """Make a dataclass known by its kind; also a decorator.

    Args:
        cls: frozen, with fields of the types that a spec may have.
        kind: its name in recipes and JSON; None for that of the class, in snake case.

    Raises:
        TypeError: it is no such dataclass, or the kind is another's.
    """
    name = kind or _snake_case(cls.__name__)
    if KIND in _annotations(cls):
        raise TypeError(f"{cls.__name__} has a field {KIND!r}, which is reserved")
    other = _known.get(name, cls)
    if not _is_again(other, cls):
        raise TypeError(
            f"kind {name!r} is that of {other.__module__}.{other.__qualname__}; give "
            "another: register(cls, kind=...)"
        )
    _known[name] = cls
    return cls


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _is_again(old: type, new: type) -> bool:
    """Say whether a class is the same, perhaps of a recipe that was run again."""
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def kind_of(spec: Any) -> str:
    """Return the kind of a spec, or of its class.

    Raises:
        UserError: the class is not registered.
    """
    cls = spec if isinstance(spec, type) else type(spec)
    for name, known in _known.items():
        if _is_again(known, cls):
            return name
    raise UserError(
        f"{cls.__name__} is not registered; decorate it with ddpm_jax.specs.register."
    )


def kinds(slot: Any = Any) -> dict[str, type]:
    """Return kind -> class of all specs that fit a slot, sorted.

    Args:
        slot: a class that they derive from, or a union of such; Any for all.
    """
    wanted = tuple(object if cls is Any else cls for cls in _classes_in(slot))
    return {
        name: cls for name, cls in sorted(_known.items()) if issubclass(cls, wanted)
    }


def _classes_in(slot: Any) -> list[Any]:
    parts = get_args(slot) if _is_union(slot) else (slot,)
    return [part for part in parts if _holds_specs(part)]


def _read_annotations(cls: Any) -> Mapping[str, Any]:
    """Return field -> annotation of a dataclass, in order.

    Raises:
        TypeError: it is not a frozen dataclass, or a field is of a type that no spec
            may have.
    """
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    if not cls.__dataclass_params__.frozen and not _is_flax(cls):  # type: ignore[attr-defined]
        raise TypeError(f"{cls.__name__} is not frozen; a spec never changes")
    hints = typing.get_type_hints(cls)
    left_out = _OF_FLAX if _is_flax(cls) else ()
    found = {
        field.name: hints[field.name]
        for field in dataclasses.fields(cls)
        if field.init and field.name not in left_out and FROM_DATA not in field.metadata
    }
    for name, wanted in found.items():
        if not _is_possible(wanted):
            raise TypeError(
                f"{cls.__name__}.{name} is of type {wanted}, which no recipe or JSON "
                "can hold; see ddpm_jax.specs for those that can"
            )
    return types.MappingProxyType(found)


_annotations: Callable[[Any], Mapping[str, Any]] = functools.cache(_read_annotations)


def _is_flax(cls: type) -> bool:
    return any(base.__module__.startswith("flax.") for base in cls.__mro__)


def _is_union(wanted: Any) -> bool:
    return get_origin(wanted) in (Union, types.UnionType)


def _is_mapping(wanted: Any) -> bool:
    origin = get_origin(wanted)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _holds_specs(wanted: Any) -> bool:
    """Say whether an annotation is a class of specs, a base of some, or Any."""
    return wanted is Any or (
        isinstance(wanted, type)
        and get_origin(wanted) is None
        and (
            dataclasses.is_dataclass(wanted)
            or getattr(wanted, "_is_runtime_protocol", False)
        )
    )


def _is_possible(wanted: Any) -> bool:
    if wanted in _SCALARS or wanted is type(None) or _holds_specs(wanted):
        return True
    args = get_args(wanted)
    if _is_union(wanted):
        return all(map(_is_possible, args))
    if get_origin(wanted) is Literal:
        return all(type(choice) in _SCALARS for choice in args)
    if get_origin(wanted) is tuple:
        return all(_is_possible(arg) for arg in args if arg is not ...)
    return _is_mapping(wanted) and args[0] is str and _is_possible(args[1])


def descriptions(cls: type) -> dict[str, str]:
    """Return field -> what it is, from the "Attributes:" of docstrings.

    Args:
        cls: the dataclass of a spec; what its bases document counts as well.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        _, _, section = text.partition("Attributes:\n")
        for name, what in re.findall(
            r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE
        ):
            found[name] = re.sub(r"\s+", " ", what)
    return {name: found[name] for name in _annotations(cls) if name in found}


# --- From specs -----------------------------------------------------------------------


def recipe(spec: Any, /, **others: Any) -> ConfigDict:
    """Compose a recipe: a locked ConfigDict whose nodes carry their `kind`.

    Args:
        spec: what its options are named by without a section, such as a Diffusion.
        others: name of a section -> a further spec, such as a Fit.

    Raises:
        UserError: a field has a value of a wrong type.
    """
    made = _node(_checked(spec, "config"))
    for name, other in others.items():
        if name in _annotations(type(spec)):
            raise UserError(
                f"a recipe of {kind_of(spec)} has a field {name!r} already; give the "
                "other spec another name."
            )
        made[name] = _node(_checked(other, f"config.{name}"))
    return made.lock()


def _checked(spec: Any, path: str) -> Any:
    return _read_spec(to_json(spec), type(spec), path)


def _node(value: Any, wanted: Any = None) -> Any:
    """Make of a value what a ConfigDict holds."""
    if value is None:
        scalars = [arg for arg in get_args(wanted) if arg is not type(None)]
        single = scalars[0] if len(scalars) == 1 else object
        return placeholder(single if single in _SCALARS else object)
    if isinstance(value, tuple):
        return tuple(_node(entry) for entry in value)
    if isinstance(value, Mapping):
        node = ConfigDict({})
        for name, entry in value.items():
            node[name] = _node(entry)
        return node
    if not dataclasses.is_dataclass(value):
        return value
    node = ConfigDict({KIND: kind_of(value)})
    for name, of_field in _annotations(type(value)).items():
        node[name] = _node(getattr(value, name), of_field)
    return node


def to_json(spec: Any) -> Any:
    """Return a spec as plain JSON data, every field of it.

    Raises:
        UserError: it, or one within it, is not registered.
    """
    if isinstance(spec, ConfigDict):
        return to_json(dict(spec.items()))
    if isinstance(spec, Mapping):
        return {name: to_json(value) for name, value in spec.items()}
    if isinstance(spec, tuple | list):
        return [to_json(value) for value in spec]
    if not dataclasses.is_dataclass(spec) or isinstance(spec, type):
        return spec
    fields = _annotations(type(spec))
    return {
        KIND: kind_of(spec),
        **{name: to_json(getattr(spec, name)) for name in fields},
    }


# --- To specs -------------------------------------------------------------------------


def from_config(config: Any, slot: Any = Any, path: str = "config") -> Any:
    """Read a spec from a node of a recipe, or from JSON.

    Args:
        config: a ConfigDict or plain data, with a `kind` wherever several fit. Fields
            that it lacks, since they are newer, take their default.
        slot: what is wanted: the class of the spec, or a base class; Any for any.
        path: of the node, for messages.

    Raises:
        UserError: naming the first option that is unknown, or has a wrong type or
            value.
    """
    try:
        return _read_spec(to_json(config), slot, path)
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; no recipe is.") from None


def from_recipe(
    config: Any, slot: Any = Any, path: str = "config"
) -> tuple[Any, dict[str, Any]]:
    """Read what `recipe` made: its spec, and the others by the names of their sections.

    Args:
        config: a ConfigDict or plain data.
        slot: what the first is wanted to be; Any for any.
        path: of the recipe, for messages.

    Raises:
        UserError: as `from_config`.
    """
    try:
        first, others = _split(to_json(config), slot, path)
        return _read_spec(first, slot, path, also=tuple(others)), {
            name: _read_spec(other, Any, f"{path}.{name}")
            for name, other in others.items()
        }
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; no recipe is.") from None


def _split(data: Any, slot: Any, path: str) -> tuple[Any, dict[str, Any]]:
    """Divide a recipe into the data of its spec, and those of the others by name."""
    if not isinstance(data, Mapping):
        return data, {}
    fields = _annotations(_class_of(data, slot, path))
    others = {
        name: value
        for name, value in data.items()
        if name not in fields and isinstance(value, Mapping) and KIND in value
    }
    return {name: v for name, v in data.items() if name not in others}, others


@contextlib.contextmanager
def located(path: str) -> Iterator[None]:
    """Put in front of the message of a ValueError where its spec stands.

    Args:
        path: of the spec, such as "config.schedule".

    Raises:
        UserError: the same, said with the path.
    """
    try:
        yield
    except ValueError as error:
        message = str(error)
        names_a_field = re.match(r"\w+(=|\.\w)", message)
        raise UserError(f"{path}{'.' if names_a_field else ': '}{message}") from error


def _class_of(data: Mapping[str, Any], slot: Any, path: str) -> type:
    fitting = kinds(slot)
    if KIND not in data and len(fitting) == 1:
        return next(iter(fitting.values()))
    if KIND not in data:
        raise UserError(
            f"{path} does not say its {KIND}; it is one of {', '.join(fitting)}."
        )
    kind = data[KIND]
    if not isinstance(kind, str) or kind not in fitting:
        raise UserError(
            f"{path}.{KIND}={_shown(kind)} is not known; use "
            f"{', '.join(fitting)}{_closest(kind, fitting)}. A kind of your own is "
            "known once the module that registers it is imported."
        )
    return fitting[kind]


def _read_spec(data: Any, slot: Any, path: str, also: Sequence[str] = ()) -> Any:
    if not isinstance(data, Mapping):
        raise UserError(f"{path} is {_shown(data)}; it holds options by name.")
    cls = _class_of(data, slot, path)
    annotations = _annotations(cls)
    values = {}
    for name, value in data.items():
        if name == KIND:
            continue
        if name not in annotations:
            raise _unknown(name, path, cls, also)
        values[name] = _read(value, annotations[name], f"{path}.{name}")
    lacking = [n for n in annotations if n not in values and not _has_default(cls, n)]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}; give a value to each.")
    with located(path):
        return cls(**values)


def _has_default(cls: type, name: str) -> bool:
    return _default(cls, name) is not dataclasses.MISSING


def _default(cls: type, name: str) -> Any:
    field = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _unknown(name: Any, path: str, cls: type, also: Sequence[str]) -> UserError:
    known = sorted([*_annotations(cls), *also])
    listed = ", ".join(known) or "no options"
    return UserError(
        f"unknown option {path}.{name!s:.80}{_closest(name, known)}; {path} "
        f"({kind_of(cls)}) has {listed}."
    )


def _closest(name: Any, known: Any) -> str:
    found = difflib.get_close_matches(str(name)[:80], list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _read(value: Any, wanted: Any, path: str) -> Any:
    """Make of plain data what an annotation wants, or refuse it."""
    if _is_union(wanted):
        return _read_one_of(value, get_args(wanted), wanted, path)
    if get_origin(wanted) is Literal:
        for choice in get_args(wanted):
            if type(choice) is type(value) and choice == value:
                return choice
        known = [str(choice) for choice in get_args(wanted)]
        raise UserError(
            f"{path}={_shown(value)} is not known; use "
            f"{', '.join(known)}{_closest(value, known)}."
        )
    if get_origin(wanted) is tuple:
        return _read_tuple(value, wanted, path)
    if _is_mapping(wanted):
        if not isinstance(value, Mapping):
            raise _wrong_type(value, wanted, path)
        entry = get_args(wanted)[1]
        return {name: _read(v, entry, f"{path}.{name}") for name, v in value.items()}
    if wanted in _SCALARS:
        return _read_scalar(value, wanted, path)
    if wanted is type(None):
        if value is not None:
            raise _wrong_type(value, wanted, path)
        return None
    return _read_spec(value, wanted, path)


def _read_scalar(value: Any, wanted: type, path: str) -> Any:
    if isinstance(value, int) and abs(value) > MAX_INT:
        bound = f"{MAX_INT:,} or less" if value > 0 else f"{-MAX_INT:,} or more"
        raise UserError(f"{path} is out of range; use {bound}.")
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise _wrong_type(value, wanted, path)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}={value} is not finite; use a number.")
    return value


def _read_tuple(value: Any, wanted: Any, path: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise _wrong_type(value, wanted, path)
    args = get_args(wanted)
    if args[-1:] == (...,):
        args = args[:1] * len(value)
    if len(args) != len(value):
        raise _wrong_type(value, wanted, path)
    pairs = enumerate(zip(value, args, strict=True))
    return tuple(_read(entry, arg, f"{path}.{i}") for i, (entry, arg) in pairs)


def _read_one_of(value: Any, args: tuple, wanted: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    if isinstance(value, Mapping) and _classes_in(wanted):
        return _read_spec(value, _slot(wanted), path)
    others = [arg for arg in args if arg is not type(None)]
    if len(others) == 1:
        return _read(value, others[0], path)
    for arg in sorted(others, key=lambda arg: arg is not type(value)):
        with contextlib.suppress(UserError):
            return _read(value, arg, path)
    raise _wrong_type(value, wanted, path)


def _slot(wanted: Any) -> Any:
    """Return what of a union may be a spec."""
    found = _classes_in(wanted)
    return Any if Any in found else Union[tuple(found)]  # noqa: UP007  # of a list


def _wrong_type(value: Any, wanted: Any, path: str) -> UserError:
    return UserError(f"{path}={_shown(value)} is of a wrong type; use {_said(wanted)}.")


def _said(wanted: Any) -> str:
    if wanted in _SCALARS:
        return _SCALARS[wanted]
    if wanted is type(None):
        return "None"
    args = get_args(wanted)
    if _is_union(wanted):
        return " or ".join(_said(arg) for arg in args)
    if get_origin(wanted) is Literal:
        return ", ".join(map(str, args))
    if get_origin(wanted) is tuple:
        if args[-1:] == (...,):
            return f"a tuple, each {_said(args[0])}, such as (1, 2)"
        return f"a tuple of {len(args)}: {', '.join(map(_said, args))}"
    return "options by name"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- The command line -----------------------------------------------------------------


def override(
    config: ConfigDict | Mapping[str, Any],
    arguments: Sequence[str],
    path: str = "config",
    slot: Any = Any,
) -> ConfigDict:
    """Set options of a recipe from `--config.a.b=value` arguments.

    The types are those of the fields. A `kind` is set before all else: the node becomes
    another, with the defaults of that. An entry of a mapping that is set to None goes.
    Of an option given twice the last counts. A section stays of its class, or of one
    that derives from it.

    Args:
        config: from `recipe`, or the JSON of one.
        arguments: of the command line; `--config.a.b value`, and `--config.a.b` alone
            for True, are understood as well.
        path: what all of them begin with.
        slot: what the recipe may become by another `kind`; Any for any.

    Returns:
        A new recipe.

    Raises:
        UserError: an argument is no option, is unknown, or has a value of a wrong type.
    """
    given = _assignments(arguments, path)
    first, others, slots = _overridden(config, given, path, slot)
    return recipe(
        _read_spec(first, slot, path, also=tuple(others)),
        **{n: _read_spec(v, slots[n], f"{path}.{n}") for n, v in others.items()},
    )


def given_values(
    config: ConfigDict | Mapping[str, Any],
    arguments: Sequence[str],
    path: str = "config",
    slot: Any = Any,
) -> dict[str, Any]:
    """Read `--config.a.b=value` arguments on their own: name -> value.

    Each is read as its field wants it; whether they go with each other and with the
    rest of the recipe is not asked.

    Args:
        config: a recipe that has these options.
        arguments: as for `override`.
        path: what all of them begin with.
        slot: as for `override`.

    Raises:
        UserError: an argument is no option, is unknown, or has a value of a wrong type.
    """
    given = _assignments(arguments, path)
    first, others, _ = _overridden(config, given, path, slot)
    found = {}
    for words in given:
        value: Any = {**first, **others}
        for word in words:
            value = value[int(word)] if isinstance(value, list) else value.get(word)
        found[".".join(words)] = tuple(value) if isinstance(value, list) else value
    return found


def _overridden(
    config: ConfigDict | Mapping[str, Any],
    given: Mapping[tuple[str, ...], str | None],
    path: str,
    slot: Any,
) -> tuple[Any, dict[str, Any], dict[str, type]]:
    """Set options in plain data: of the spec, of the others, and the others' slots."""
    first, others = _split(to_json(config), slot, path)
    slots = {
        name: _class_of(other, Any, f"{path}.{name}") for name, other in others.items()
    }
    for words in sorted(given, key=lambda words: (words[-1] != KIND, len(words))):
        text, name = given[words], words[0]
        if name in others:
            whole = f"{path}.{name}"
            others[name] = _assign(others[name], slots[name], words[1:], text, whole)
        else:
            first = _assign(first, slot, words, text, path, also=tuple(others))
    return first, others, slots


def _assignments(
    arguments: Sequence[str], path: str
) -> dict[tuple[str, ...], str | None]:
    found: dict[tuple[str, ...], str | None] = {}
    waiting = None  # an option whose value is the next argument
    for argument in arguments:
        if not argument.startswith("--"):
            if waiting is None:
                raise UserError(
                    f"unknown argument {argument!r:.80}; an option is --{path}.NAME="
                    "VALUE."
                )
            found[waiting], waiting = argument, None
            continue
        name, equals, text = argument[2:].partition("=")
        if not name.startswith(f"{path}."):
            raise UserError(
                f"unknown flag --{name:.80}; an option is --{path}.NAME=VALUE."
            )
        words = tuple(name.removeprefix(f"{path}.").split("."))
        found.pop(words, None)  # the last counts, and in its place
        found[words] = text if equals else None
        waiting = None if equals else words
    return found


def _assign(
    value: Any,
    wanted: Any,
    words: Sequence[str],
    text: str | None,
    path: str,
    also: Sequence[str] = (),
) -> Any:
    """Return plain data like `value`, in which what the words lead to is set."""
    if not words:
        return _parse_or_refuse(value, text, wanted, path)
    word, *rest = words
    here = f"{path}.{word}"
    if isinstance(value, list):
        entries = _entries(wanted, len(value))
        if not word.isascii() or not word.isdigit() or int(word) >= len(value):
            listed = f"the entries 0 to {len(value) - 1}" if value else "no entries"
            raise UserError(f"unknown option {here}; {path} has {listed}.")
        i = int(word)
        entry = _assign(value[i], entries[i], rest, text, here)
        return [*value[:i], entry, *value[i + 1 :]]
    mapping = _mapping_in(wanted)
    if mapping is not None and isinstance(value, Mapping):
        if word not in value and rest != [KIND]:
            listed = ", ".join(value) or "none"
            raise UserError(
                f"unknown option {here}{_closest(word, value)}; {path} has {listed}."
            )
        if not rest and text == "None":
            return {name: entry for name, entry in value.items() if name != word}
        entry = _assign(value.get(word), get_args(mapping)[1], rest, text, here)
        return {**value, word: entry}
    if word == KIND and not rest:
        return _of_another_kind(value, wanted, text, path)
    if value is None and _classes_in(wanted):
        raise UserError(
            f"unknown option {here}; {path} is None: set {path}.{KIND} as well, to "
            f"one of {', '.join(kinds(_slot(wanted)))}."
        )
    if not isinstance(value, Mapping):
        raise UserError(f"unknown option {here}; {path} is a value, and has no parts.")
    cls = _class_of(value, _slot(wanted), path)
    annotations = _annotations(cls)
    if word not in annotations:
        raise _unknown(word, path, cls, also)
    old = value.get(word)
    return {**value, word: _assign(old, annotations[word], rest, text, here)}


def _entries(wanted: Any, length: int) -> Sequence[Any]:
    parts = get_args(wanted) if _is_union(wanted) else (wanted,)
    args = get_args(next((p for p in parts if get_origin(p) is tuple), tuple[Any, ...]))
    return args[:1] * length if args[-1:] == (...,) else args


def _mapping_in(wanted: Any) -> Any:
    parts = get_args(wanted) if _is_union(wanted) else (wanted,)
    return next((part for part in parts if _is_mapping(part)), None)


def _of_another_kind(value: Any, wanted: Any, text: str | None, path: str) -> Any:
    if isinstance(value, Mapping) and value.get(KIND) == text:
        return value
    cls = _class_of({KIND: text}, _slot(wanted), path)
    made = {KIND: text}
    for name in _annotations(cls):
        if _has_default(cls, name):
            made[name] = to_json(_default(cls, name))
    return made


def _parse_or_refuse(value: Any, text: str | None, wanted: Any, path: str) -> Any:
    if text is None:
        if bool in (wanted, *get_args(wanted)):
            return True
        raise UserError(f"--{path} has no value; write --{path}=VALUE.")
    is_optional = wanted is type(None) or type(None) in get_args(wanted)
    if is_optional and text == "None":
        return None
    if isinstance(value, Mapping) or _is_section(wanted):
        inside = sorted(value) if isinstance(value, Mapping) else [KIND]
        raise UserError(f"--{path} is a section; set one of {', '.join(inside)}.")
    return to_json(_parse(text, wanted, path))


def _is_section(wanted: Any) -> bool:
    parts = [arg for arg in get_args(wanted) if arg is not type(None)]
    if _is_union(wanted):
        return all(map(_is_section, parts))
    return _holds_specs(wanted) or _is_mapping(wanted)


def _parse(text: str, wanted: Any, path: str) -> Any:
    """Read the text of an option as its annotation wants it."""
    if _is_union(wanted):
        parts = [arg for arg in get_args(wanted) if arg is not type(None)]
        parts = [part for part in parts if not _is_section(part)]
        if len(parts) == 1:
            return _parse(text, parts[0], path)
        for part in sorted(parts, key=lambda part: part is str):
            with contextlib.suppress(UserError):
                return _parse(text, part, path)
        raise _wrong_type(text, wanted, path)
    if get_origin(wanted) is Literal:
        by_text = {str(choice): choice for choice in get_args(wanted)}
        return _read(by_text.get(text, text), wanted, path)
    if get_origin(wanted) is tuple:
        inside = re.fullmatch(r"\s*(?:\((.*)\)|\[(.*)\]|(.*))\s*", text, re.DOTALL)
        whole = next((part for part in inside.groups() if part), "") if inside else ""
        words = [word.strip() for word in whole.split(",")]
        if words[-1] == "":  # of a trailing comma, or of nothing
            words.pop()
        entries = _entries(wanted, len(words))
        if len(entries) != len(words):
            raise _wrong_type(text, wanted, path)
        pairs = zip(words, entries, strict=True)
        try:
            return tuple(_parse(word, entry, path) for word, entry in pairs)
        except UserError as error:
            if "out of range" in str(error):
                raise
            raise _wrong_type(text, wanted, path) from error
    if wanted is str:
        return text
    try:
        if wanted is bool:
            return _TRUTH[text.lower()]
        return _read(wanted(text), wanted, path)
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _wrong_type(text, wanted, path) from error


class Option(NamedTuple):
    """An option of a recipe.

    Attributes:
        name: as `--config.NAME=` has it, such as "schedule.num_levels".
        value: plain data.
        what: what it is, from the docstring of its spec; "" if that says nothing.
        kinds: of a `kind`, all that fit there; else ().
    """

    name: str
    value: Any
    what: str
    kinds: tuple[str, ...] = ()


def options(config: ConfigDict | Mapping[str, Any]) -> list[Option]:
    """List every option of a recipe, in the order of its fields.

    Args:
        config: from `recipe`.
    """
    first, others = _split(to_json(config), Any, "config")
    found = list(_options(first, _class_of(first, Any, "config"), "", ""))
    for name, other in others.items():
        found += _options(other, _class_of(other, Any, name), f"{name}.", "")
    return found


def _options(node: Any, wanted: Any, prefix: str, what: str) -> Iterator[Option]:
    """List the options of a node, whose own name is the prefix without its dot."""
    if _are_nodes(node):
        for i, entry in enumerate(node):
            yield from _options(entry, Any, f"{prefix}{i}.", what)
    elif not isinstance(node, Mapping):
        yield Option(prefix.removesuffix("."), node, what)
    elif KIND not in node:  # entries by name
        mapping = _mapping_in(wanted)
        slot = get_args(mapping)[1] if mapping is not None else Any
        added = f"{what.removesuffix('.')}; adds one, and {prefix}NAME=None removes it"
        yield Option(f"{prefix}NAME.{KIND}", None, added, tuple(kinds(slot)))
        for name, entry in node.items():
            yield from _options(entry, slot, f"{prefix}{name}.", "")
    else:
        cls = kinds()[node[KIND]]
        fitting = tuple(kinds(_slot(wanted) if _is_union(wanted) else wanted))
        if fitting != (node[KIND],):
            yield Option(f"{prefix}{KIND}", node[KIND], what, fitting)
        said = descriptions(cls)
        for name, of_field in _annotations(cls).items():
            yield from _options(
                node.get(name), of_field, f"{prefix}{name}.", said.get(name, "")
            )


# --- Comparison -----------------------------------------------------------------------


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """List "name: old -> new" for every option in which two differ.

    Args:
        old: a spec, recipe or JSON of one.
        new: another.
        prefix: before every name.
    """
    return list(_differences(to_json(old), to_json(new), prefix))


def _differences(old: Any, new: Any, prefix: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if old.get(KIND) != new.get(KIND):
            yield f"{prefix}{KIND}: {old.get(KIND)!r} -> {new.get(KIND)!r}"
            return
        for name in sorted({*old, *new}):
            yield from _below(old, new, name, prefix)
    elif _are_nodes(old) and _are_nodes(new) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{prefix}{i}.")
    elif old != new or type(old) is not type(new):
        yield f"{prefix.removesuffix('.')}: {_brief(old)} -> {_brief(new)}"


def _are_nodes(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(v, Mapping) for v in value)


def _below(old: Mapping, new: Mapping, name: str, prefix: str) -> Iterator[str]:
    if name in old and name in new:
        yield from _differences(old[name], new[name], f"{prefix}{name}.")
    elif name in old:
        yield f"{prefix}{name}: {_brief(old[name])} -> none"
    else:
        yield f"{prefix}{name}: none -> {_brief(new[name])}"


def _brief(value: Any) -> str:
    if isinstance(value, Mapping) and KIND in value:
        return str(value[KIND])
    if _are_nodes(value):
        return f"({', '.join(map(_brief, value))})"
    return _shown(tuple(value) if isinstance(value, list) else value)
