"""Files that are whole or refused, and where this user's caches lie.

A file is written beside its place and renamed into it, so that a name always belongs to
a finished file, however the program ends. A damaged one, as copying can leave it, gives
one kind of error, whatever it is that the libraries below stumble over.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddpm_jax.errors import UserError

CACHE_VARIABLE = "DDPM_JAX_CACHE"


class DamagedError(Exception):
    """A file is there and cannot be read as what it should be; says why in a line."""


def cache_folder(*parts: str) -> Path:
    """Name a folder in `$DDPM_JAX_CACHE`, else in ~/.cache/ddpm_jax."""
    chosen = os.environ.get(CACHE_VARIABLE)
    root = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "ddpm_jax"
    return root.joinpath(*parts)


def write(path: str | Path, content: Callable[[BinaryIO], Any]) -> None:
    """Make a file, and its folder; what was there before stays until it is whole.

    Hosts that run a program together share its folders, and the first one writes.

    Args:
        path: where to.
        content: writes to the open file that it is given.

    Raises:
        UserError: it cannot be written.
    """
    if not _writes():
        return
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            content(file)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); make room there, or "
            "choose another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _writes() -> bool:
    jax = sys.modules.get("jax")  # imported here, it would read the environment
    return (
        jax is None or not jax.distributed.is_initialized() or not jax.process_index()
    )


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes as they are; see `write`."""
    write(path, lambda file: file.write(content))


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8; see `write`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write plain data as JSON that people can read; see `write`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_npz(
    path: str | Path, only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Read named arrays; nothing in the file is executed.

    Args:
        path: an .npz of anyone's.
        only: names to read, of which some may be absent; None reads all.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is no .npz of plain arrays, or a part of it is broken.
    """
    try:
        opened = np.load(path)
        if isinstance(opened, np.ndarray):
            raise DamagedError("it is a single array, an .npy")
        with opened as file:
            names = file.files if only is None else set(only) & set(file.files)
            arrays = {name: file[name] for name in names}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise DamagedError(f"{name} in it is no array")
        return arrays
    except (FileNotFoundError, DamagedError):
        raise
    except Exception as error:  # of zip, of zlib, of the parser of headers, of NumPy
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(reason) from error


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays [...], uncompressed; see `write`."""
    whole: dict[str, Any] = dict(arrays)  # savez has an option among its names
    write(path, lambda file: np.savez(file, **whole))
