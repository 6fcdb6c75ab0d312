"""Reading the tensors of a PyTorch file without running what is in it.

    read_tensors("weights.pth")       # {"fc.weight": float32 [1008, 2048], ...}

Both containers are read: the zip archive of PyTorch 1.6 and later, with a pickle
`data.pkl` and a file a storage, and the older sequence of five pickles (a magic number,
a version, the machine, the dictionary, the keys of the storages) followed by the
storages, each after its length.
"""

import io
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.weights.torch_pickle import Refused, Tensor, run

ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickle of the magic number that older files begin with."""

Stored = dict[str, bytes | memoryview]
"""The numbers of every storage, by its key."""


def _read_zip(path: Path) -> tuple[Any, Stored]:
    with zipfile.ZipFile(path) as archive:
        if any(i.compress_type != zipfile.ZIP_STORED for i in archive.infolist()):
            raise Refused("compressed parts")
        if sum(i.file_size for i in archive.infolist()) > path.stat().st_size:
            raise Refused("parts that overlap")
        names = archive.namelist()
        (pickled,) = [name for name in names if name.endswith("data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        order = folder + "byteorder"
        if order in names and archive.read(order) != b"little":
            raise Refused("numbers with the large end first")
        loaded, _ = run(io.BytesIO(archive.read(pickled)))
        start = folder + "data/"
        stored: Stored = {
            n[len(start) :]: archive.read(n) for n in names if n.startswith(start)
        }
    return loaded, stored


def _read_legacy(path: Path) -> tuple[Any, Stored]:
    # In memory, where a length that is claimed and not there takes none.
    stream = io.BytesIO(path.read_bytes())
    run(stream)  # the magic number, known from the start of the file
    version, _ = run(stream)
    machine, _ = run(stream)
    if version != 1001:
        number = version if isinstance(version, int) else "unknown"
        raise Refused(f"version {number} of the format")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("numbers with the large end first")
    loaded, widths = run(stream)
    keys, _ = run(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("storages that have no names")
    body, position = stream.getbuffer().toreadonly(), stream.tell()
    stored: Stored = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", body, position)
        stop = position + 8 + count * widths[key]
        if count < 0 or stop > len(body):
            raise EOFError("its numbers end too early")
        stored[key] = body[position + 8 : stop]
        position = stop
    return loaded, stored


def _view(tensor: Tensor, body: bytes | memoryview) -> np.ndarray:
    """View a tensor in the bytes of its storage, once its bounds are checked."""
    storage = tensor.storage
    whole = np.frombuffer(body, storage.dtype)
    numbers = whole[storage.start : storage.start + storage.count]
    reach = [
        (size - 1) * stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    ]
    if 0 in tensor.shape:
        return numbers[:0].reshape(tensor.shape)
    if len(numbers) < storage.count or tensor.offset + sum(reach) >= len(numbers):
        raise EOFError("a tensor reaches beyond its storage")
    if math.prod(tensor.shape) > len(numbers):
        raise Refused("a tensor of more numbers than its storage has")
    strides = [stride * storage.dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )


# All that a damaged file can raise.
_BROKEN = (
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RecursionError,
    RuntimeError,  # one that wants a password
    TypeError,
    ValueError,
)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a dictionary of tensors, as torch.save writes a state dict.

    Args:
        path: the file; its first bytes decide which container it is.

    Returns:
        The tensors by name, in the file's order; read only, and sharing memory where
        they share a storage.

    Raises:
        UserError: the file is no such dictionary, is cut short or damaged, or calls
            anything that reading tensors does not need.
    """  # noqa: DOC501 (a Refused is caught here)
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is not a file; give one that torch.save wrote.")
    with path.open("rb") as stream:
        start = stream.read(len(LEGACY_START))
    zipped = start.startswith(ZIP_START)
    if not zipped and start != LEGACY_START:
        raise UserError(
            f"{path} is not a PyTorch file; give one that torch.save wrote."
        )
    try:
        loaded, stored = _read_zip(path) if zipped else _read_legacy(path)
        if not isinstance(loaded, dict):
            raise Refused("something else than a dictionary")
        for name, value in loaded.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                raise Refused(f"{name!a}, which is not a tensor")
        return {name: _view(t, stored[t.storage.key]) for name, t in loaded.items()}
    except Refused as refusal:
        raise UserError(
            f"{path} holds {refusal}, and only named tensors are read; give a plain "
            "state dict."
        ) from refusal
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} is cut short or damaged ({reason}); fetch it again."
        ) from error
