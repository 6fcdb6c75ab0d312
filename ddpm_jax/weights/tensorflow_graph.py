"""Reading the constants of a TensorFlow graph without TensorFlow.

    read_constants("inception-2015-12-05.tgz")     # {"conv/conv2d_params": ..., ...}

A frozen graph is one protobuf message, a GraphDef. tensorboardX, which writes the
event files of a run, ships the generated message classes.

Source: the .proto files of tensorflow/core/framework.
"""

import gzip
import io
import math
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError

GZIP_START = b"\x1f\x8b"
NODE_START = b"\x0a"
"""The key of the first field of a graph: a node, of so many bytes."""

GRAPH_NAME = "classify_image_graph_def.pb"

# The published graph has 91 MiB; a few kB of gzip could unpack to a disk full.
_LARGEST = 2**29  # bytes of a graph, or of what an archive unpacks to
_MOST_REPEATED = 2**24  # values of all constants that are stored as fewer
# Of the types of a TensorProto: its values, where they are not in `tensor_content`.
_VALUES = {
    1: ("<f4", "float_val"),
    2: ("<f8", "double_val"),
    3: ("<i4", "int_val"),
    9: ("<i8", "int64_val"),
}


class _Damaged(Exception):
    """What was read is not a graph."""


def _tensor(proto: Any, room: int) -> np.ndarray | None:
    """Return the values of a TensorProto; None if it does not hold numbers.

    Args:
        proto: the message.
        room: values that may be repeated.

    Raises:
        _Damaged: its values do not fill its shape.
    """
    if proto.dtype not in _VALUES:
        return None
    dtype, field = _VALUES[proto.dtype]
    shape = [dim.size for dim in proto.tensor_shape.dim]
    count = math.prod(shape)
    if proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, dtype)
    else:
        values = np.array(getattr(proto, field), dtype)
        # Values that are left out at the end are equal to the last.
        if 0 < len(values) < count <= room:
            values = np.pad(values, (0, count - len(values)), "edge")
    if min(shape, default=0) < 0 or len(values) != count:
        raise _Damaged(f"{len(values)} values for a tensor of shape {shape}")
    return values.reshape(shape)


def _constants(serialized: bytes) -> dict[str, np.ndarray]:
    from tensorboardX.proto.graph_pb2 import GraphDef

    constants, room = {}, _MOST_REPEATED
    for node in GraphDef.FromString(serialized).node:
        if node.op == "Const" and "value" in node.attr:
            proto = node.attr["value"].tensor
            tensor = _tensor(proto, room)
            if tensor is not None:
                constants[node.name] = tensor
                room -= 0 if proto.tensor_content else tensor.size
    return constants


def _graph_of(path: Path) -> bytes:
    """Return the bytes of the graph; of an archive, nothing is written to disk."""
    with path.open("rb") as stream:
        packed = stream.read(len(GZIP_START)) == GZIP_START
    if not packed:
        if path.stat().st_size > _LARGEST:
            raise _Damaged(f"it has more than {_LARGEST:,} bytes")
        return path.read_bytes()
    # All of it, whose checksum comes last; tarfile would stop at the member.
    with gzip.open(path) as unpacked:
        content = unpacked.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise _Damaged(f"it unpacks to more than {_LARGEST:,} bytes")
    # "r:", or tarfile would try what else the content may be compressed by.
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        member = archive.getmember(GRAPH_NAME)
        opened = archive.extractfile(member)
        if opened is None:
            raise _Damaged(f"its {GRAPH_NAME} is not a file")
        if member.issparse() or member.size > len(content):
            raise _Damaged(f"its {GRAPH_NAME} is larger than the archive")
        return opened.read()


# All that a damaged file can raise.
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
    from google.protobuf.message import DecodeError

    try:
        constants = _constants(_graph_of(path))
    except (*_BROKEN, DecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} is not a TensorFlow graph, or is cut short or damaged ({reason}); "
            "fetch it again."
        ) from error
    if not constants:
        raise UserError(
            f"{path} has no constants; give a frozen graph, with its weights in it."
        )
    return constants
