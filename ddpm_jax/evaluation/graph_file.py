"""Reading the constants of a TensorFlow graph without TensorFlow.

    read_constants("inception-2015-12-05.tgz")     # {"conv/conv2d_params": ..., ...}

A frozen graph is one message in protobuf's wire format: fields, each a number with a
kind, then an integer, eight or four bytes, or a length and so many bytes, which may be
a message again. Of the messages, five are needed here:

    GraphDef          1 node*
    NodeDef           1 name, 2 op, 5 attr*           (attr: 1 key, 2 value)
    AttrValue         8 tensor
    TensorProto       1 dtype, 2 shape, 4 content, 5 floats, 6 doubles, 7 ints, 10 longs
    TensorShapeProto  2 dim*                          (dim: 1 size)

Source: the .proto files of tensorflow/core/framework, and protobuf.dev, "Encoding".
"""

import gzip
import io
import math
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ddpm_jax.errors import UserError

GZIP_START = b"\x1f\x8b"
NODE_START = b"\x0a"
"""The key of the first field of a graph: a node, of so many bytes."""

GRAPH_NAME = "classify_image_graph_def.pb"

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_LARGEST = 2**31  # bytes: no message of protobuf may be larger


class _Number(NamedTuple):
    """A type of tensor, as TensorProto stores it."""

    dtype: str
    field: int  # of the values, if they are not in the content


_NUMBERS = {
    1: _Number("<f4", 5),
    2: _Number("<f8", 6),
    3: _Number("<i4", 7),
    9: _Number("<i8", 10),
}


class _Damaged(Exception):
    """What was read is no graph."""


# --- The wire format ------------------------------------------------------------------


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read seven bits a byte, the lowest first: (value, position behind it)."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise _Damaged("a number is cut short")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value & (2**64 - 1), position


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Read the fields of a message in turn: (number, value)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _varint(data, position)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise _Damaged(f"a field of kind {kind}")
        if position + length > len(data):
            raise _Damaged("a field is cut short")
        yield number, data[position : position + length]
        position += length


def _all(data: memoryview, wanted: int) -> list[int | memoryview]:
    return [value for number, value in _fields(data) if number == wanted]


Value = TypeVar("Value", int, memoryview)


def _last(data: memoryview, wanted: int, default: Value) -> Value:
    """Return the value of a field that stands once; the last, as protobuf has it."""
    found = _all(data, wanted)
    value = found[-1] if found else default
    if not isinstance(value, type(default)):
        raise _Damaged(f"field {wanted} is of another kind")
    return value


def _messages(data: memoryview, wanted: int) -> list[memoryview]:
    found = _all(data, wanted)
    messages = [value for value in found if isinstance(value, memoryview)]
    if len(messages) != len(found):
        raise _Damaged(f"field {wanted} is of another kind")
    return messages


# --- The messages ---------------------------------------------------------------------

_NOTHING = memoryview(b"")


def _text(data: memoryview) -> str:
    return bytes(data).decode()


def _values(data: memoryview, number: _Number) -> np.ndarray:
    """Collect values of a repeated field, packed or one by one."""
    parts = []
    for value in _all(data, number.field):
        if isinstance(value, int):
            parts.append(np.array([value], np.uint64).astype(number.dtype))
        elif number.dtype in ("<f4", "<f8"):
            parts.append(np.frombuffer(value, number.dtype))
        else:  # packed varints
            position = 0
            while position < len(value):
                one, position = _varint(value, position)
                parts.append(np.array([one], np.uint64).astype(number.dtype))
    return np.concatenate(parts) if parts else np.empty(0, number.dtype)


def _tensor(data: memoryview) -> np.ndarray | None:
    """Read a TensorProto; None if it does not hold numbers."""
    number = _NUMBERS.get(_last(data, 1, 0))
    if number is None:
        return None
    dims = _messages(_last(data, 2, _NOTHING), 2)
    shape = [_last(dim, 1, 0) for dim in dims]
    count = math.prod(shape)
    content = _last(data, 4, _NOTHING)
    if len(content):
        values = np.frombuffer(content, number.dtype)
    else:
        values = _values(data, number)
        # Values that are left out at the end are equal to the last.
        if 0 < len(values) < count < _LARGEST:
            values = np.pad(values, (0, count - len(values)), "edge")
    if len(values) != count:
        raise _Damaged(f"{len(values)} values for a tensor of shape {shape}")
    return values.reshape(shape)


def _constants(graph: memoryview) -> dict[str, np.ndarray]:
    found = {}
    for node in _messages(graph, 1):
        if _text(_last(node, 2, _NOTHING)) != "Const":
            continue
        for attribute in _messages(node, 5):
            if _text(_last(attribute, 1, _NOTHING)) == "value":
                proto = _last(_last(attribute, 2, _NOTHING), 8, _NOTHING)
                tensor = _tensor(proto)
                if tensor is not None:
                    found[_text(_last(node, 1, _NOTHING))] = tensor
    return found


def _graph_of(path: Path) -> bytes:
    """Return the bytes of the graph; of an archive, nothing is written to disk."""
    with path.open("rb") as stream:
        packed = stream.read(len(GZIP_START)) == GZIP_START
    if not packed:
        return path.read_bytes()
    # All of it, whose checksum comes last; tarfile would stop at the member.
    with gzip.open(path) as unpacked:
        content = unpacked.read(_LARGEST)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(GRAPH_NAME)
        if member is None:
            raise _Damaged(f"its {GRAPH_NAME} is no file")
        return member.read()


# Whatever a damaged file makes of the reader.
_BROKEN = (
    _Damaged,
    tarfile.TarError,
    zlib.error,
    EOFError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
)


def read_constants(path: str | Path) -> dict[str, np.ndarray]:
    """Read the constants of a graph, by the names of their nodes.

    Args:
        path: a GraphDef (.pb), or a .tgz with `classify_image_graph_def.pb` in it.

    Returns:
        float32, float64, int32 and int64 constants, read only; others are left out.

    Raises:
        UserError: the file is no graph, is cut short or damaged, or has no constants.
    """
    path = Path(path)
    try:
        found = _constants(memoryview(_graph_of(path)))
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} is no TensorFlow graph, or is cut short or damaged ({reason}); "
            "fetch it again."
        ) from error
    if not found:
        raise UserError(
            f"{path} has no constants; give a frozen graph, with its weights in it."
        )
    return found
