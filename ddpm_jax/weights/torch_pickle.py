"""The pickles in a PyTorch file, followed without being run.

A pickle is a program for a stack machine that may call anything there is. This one
walks through the program by the standard library's disassembler and has the few
instructions that a dictionary of tensors takes. Any other call of a file is
refused by its name, and nothing is imported or called.

The few can do harm too: values that stand for themselves twice, thirty times over, are
small in the file and endless to print, compare or hash, and a dictionary can be copied
for every byte. So names are texts, nothing else is printed or hashed, and what calls
take is counted.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_DTYPES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}


_MAX_DIMENSIONS = 64  # as in NumPy 2
_MAX_NAME = 1000  # characters


class Refused(Exception):
    """The file holds something that a dictionary of tensors does not need."""


class Storage(NamedTuple):
    """Numbers in a row, stored under a key; a part of them where `count` is given."""

    key: str
    dtype: np.dtype
    start: int
    count: int  # type: ignore[assignment]  # hides a method of tuples


class Tensor(NamedTuple):
    """Where in a storage the numbers of a tensor lie; offset and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    name: str  # "module name", as the disassembler writes it


# --- What a pickle may call, done here instead ----------------------------------------


def _ordered_dict(pairs: Any = ()) -> dict:
    if not isinstance(pairs, list | tuple):
        raise Refused("a dictionary that is not made of a list")
    result: dict = {}
    for name, value in pairs:
        result[_name(name)] = value
    return result


def _name(value: Any) -> str | int:
    """Let texts and whole numbers be names: to hash others can take for ever."""
    if not isinstance(value, str | int):
        raise Refused("a name that is not a text")
    if isinstance(value, str) and len(value) > _MAX_NAME:
        raise Refused(f"a name of {len(value)} characters")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    del rest  # requires_grad, hooks, metadata
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise Refused("a tensor that has no storage or no shape")
    if len(shape) > _MAX_DIMENSIONS:
        raise Refused(f"a tensor of {len(shape)} dimensions")
    numbers = (offset, *shape, *strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise Refused("a tensor whose offset, shape or strides are no numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *rest: Any) -> Any:
    del rest  # requires_grad, hooks
    return data


_CALLS: dict[str, Callable] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}


# --- The stack machine ----------------------------------------------------------------

_MARK = object()
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_VALUES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINFLOAT",
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """What the instructions of one pickle leave on the stack."""

    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.widths: dict[str, int] = {}  # bytes a number, of every storage named
        self.steps = self.taken = 0  # instructions, and values taken by calls

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise Refused("a pickle that takes more than it has put down")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                taken = self.stack[position + 1 :]
                del self.stack[position:]
                return taken
        raise Refused("a pickle that takes more than it has put down")

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        self.steps += 1
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items(self.pop(2) if name == "SETITEM" else self.pop_to_mark())
        elif name in ("APPEND", "APPENDS"):
            self.append(self.pop(1) if name == "APPEND" else self.pop_to_mark())
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop(2)
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise Refused("a call by a name that is not a text")
            stack.append(_known(f"{module} {attribute}"))
        elif name == "REDUCE":
            function, arguments = self.pop(2)
            self.count(arguments)
            stack.append(_call(function, arguments))
        elif name == "BINPERSID":
            storage = _storage(*self.pop(1))
            self.widths[storage.key] = storage.dtype.itemsize
            stack.append(storage)
        elif name == "BUILD":
            self.build(*self.pop(2))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Refused(f"the instruction {name}")

    def count(self, arguments: Any) -> None:
        """Refuse calls that take more values than the pickle has put down."""
        if not isinstance(arguments, tuple):
            raise Refused("a call that is given no tuple")
        listed = (value for value in arguments if isinstance(value, list | tuple))
        self.taken += len(arguments) + sum(map(len, listed))
        if self.taken > 4 * self.steps:
            raise Refused("a pickle that repeats what it has put down")

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise Refused("items of something that is not a dictionary")
        for name, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_name(name)] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("items of something that is not a list")
        self.stack[-1].extend(items)

    def build(self, target: Any, attributes: Any) -> None:
        # Attributes of the dictionary itself: the versions of the modules.
        if not isinstance(target, dict) or not isinstance(attributes, dict):
            raise Refused("attributes of something that is not a dictionary")
        self.stack.append(target)


def _known(name: str) -> _Global:
    if name not in _CALLS and name not in _DTYPES:
        called = name.replace(" ", ".")[:100]
        raise Refused(f"a call of {called if called.isprintable() else ascii(called)}")
    return _Global(name)


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Global) or function.name not in _CALLS:
        raise Refused("a call of something that is not a function")
    return _CALLS[function.name](*arguments)


def _storage(reference: Any) -> Storage:
    """Read ("storage", type, key, device, count[, (key, start, count) of a view])."""
    if not isinstance(reference, tuple) or len(reference) > 6:
        raise Refused("a stored object that is not a storage of numbers")
    what, kind, key, _, count, *view = reference
    if what != "storage" or not isinstance(kind, _Global) or kind.name not in _DTYPES:
        raise Refused("a stored object that is not a storage of numbers")
    start = 0
    if view and view[0] is not None:
        _, start, count = view[0]
    if not isinstance(key, str) or not all(
        isinstance(number, int) and number >= 0 for number in (start, count)
    ):
        raise Refused("a storage that has no name or no size")
    return Storage(key, np.dtype(_DTYPES[kind.name]), start, count)


def run(stream: BinaryIO) -> tuple[Any, dict[str, int]]:
    """Follow the pickle that `stream` is at, up to its end: (result, widths)."""
    machine = _Machine()
    for instruction, argument, _ in pickletools.genops(stream):
        machine.step(instruction.name, argument)
    (result,) = machine.stack
    return result, machine.widths
