"""Numbered folders of results, found again by their request.

    PARENT/0001/request.json    the request, and the model it is for, as plain data
    PARENT/0002/...

A request that was made before has its folder: what is finished there is not computed
again, and what is not goes on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import least_of_hosts, on_every_host

REQUEST_FILE = "request.json"
LAST_FILE = "grid.png"
"""What is written last, so that its presence says that a folder is complete."""
_NONE = 2**31 - 1  # the number of hosts that do not decide


def result_folder(
    parent: Path, request: Mapping[str, Any], out: Path | None = None
) -> Path:
    """Find the folder of a request, or make it, before the work.

    Args:
        parent: of the numbered folders; shared by all hosts.
        request: all that determines the results, as plain data.
        out: a folder to use instead, if it holds no other results.

    Raises:
        UnwritableError: it cannot be made, or written in.
        UserError: `out` holds the results of another request.
    """
    plain = json.loads(json.dumps(request))
    if out is not None:
        return _take(out, plain)
    number = least_of_hosts(_NONE if jax.process_index() else _make(parent, plain))
    return parent / f"{number:04d}"


def is_finished(folder: Path) -> bool:
    """Return whether a folder has its images already, and print that it has.

    Args:
        folder: from `result_folder`.
    """
    grid = folder / LAST_FILE
    if not on_every_host(grid.exists()):
        return False
    print(f"Nothing to do: {folder} is finished. Images: {grid}")
    return True


def find_result(
    parent: Path, request: Mapping[str, Any], out: Path | None = None
) -> Path | None:
    """Find the folder of a request, finished or not; None if it was not made yet.

    Args:
        parent: of the numbered folders.
        request: as of `result_folder`.
        out: as of `result_folder`.
    """
    plain = json.loads(json.dumps(request))
    if out is not None:
        return out if on_every_host(_read(out) == plain) else None
    number = least_of_hosts(_find(parent, plain) or _NONE)
    return None if number == _NONE else parent / f"{number:04d}"


def finished_result(
    parent: Path, request: Mapping[str, Any], out: Path | None = None
) -> Path | None:
    """Find what a request has left, before anything is read that making it takes.

    Args:
        parent: of the numbered folders.
        request: as of `result_folder`.
        out: as of `result_folder`.

    Returns:
        The folder, after printing that it is finished; None if it is not.
    """
    folder = find_result(parent, request, out)
    return folder if folder is not None and is_finished(folder) else None


def _take(out: Path, plain: Any) -> Path:
    files.make_folder(out)
    there = _read(out)
    if there is not None and there != plain:
        raise UserError(
            f"--out={out} holds the results of another request ({REQUEST_FILE}); use "
            "another folder."
        )
    files.write_json(out / REQUEST_FILE, plain)
    return out


def _make(parent: Path, plain: Any) -> int:
    files.make_folder(parent)
    with files.alone_in(parent):
        number = _find(parent, plain)
        if number is None:
            number = max(_numbers(parent), default=0) + 1
            folder = files.make_folder(parent / f"{number:04d}")
            files.write_json(folder / REQUEST_FILE, plain)
    return number


def _find(parent: Path, plain: Any) -> int | None:
    for number in _numbers(parent):
        if _read(parent / f"{number:04d}") == plain:
            return number
    return None


def _numbers(parent: Path) -> list[int]:
    if not parent.is_dir():
        return []
    names = [path.name for path in parent.iterdir()]
    return sorted(int(name) for name in names if name.isdecimal() and len(name) > 3)


def _read(folder: Path) -> Any:
    """Read the request of a folder; None if there is none that can be read."""
    try:
        return files.read_json(folder / REQUEST_FILE)
    except (FileNotFoundError, files.DamagedError):
        return None
