"""Writing files whole or not at all, and where this user's caches lie.

A file is written beside its place and renamed into it, so that a name always belongs to
a finished file, however the program ends.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddpm_jax.errors import UserError

CACHE_VARIABLE = "DDPM_JAX_CACHE"


def cache_folder(*parts: str) -> Path:
    """Name a folder in `$DDPM_JAX_CACHE`, else in ~/.cache/ddpm_jax."""
    chosen = os.environ.get(CACHE_VARIABLE)
    root = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "ddpm_jax"
    return root.joinpath(*parts)


def write(path: str | Path, content: Callable[[BinaryIO], Any]) -> None:
    """Make a file, and its folder; what was there before stays until it is whole.

    Args:
        path: where to.
        content: writes to the open file that it is given.

    Raises:
        UserError: it cannot be written.
    """
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


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8; see `write`."""
    write(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any) -> None:
    """Write plain data as JSON that people can read; see `write`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, uncompressed; see `write`."""
    write(path, lambda file: np.savez(file, **arrays))
