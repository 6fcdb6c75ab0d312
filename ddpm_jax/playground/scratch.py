"""Temporary folder of a server: private, bounded, and gone when the server is.

A server that is killed leaves its folder behind. Each folder therefore has a lock,
which the operating system frees when its process ends, however it ends; the next server
to start removes the folders whose lock is free.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm_jax.errors import UserError

PREFIX = "ddpm_jax-playground-"
MAX_BYTES = 2 * 2**30  # kept at a time; then the oldest files go
MAX_FILES = 10_000
MAX_AGE = 3600.0  # seconds that a file is kept
_LOCK = "lock"
_NO_LOCK_AGE = 86_400.0  # seconds after which a folder without a lock is abandoned


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for the block, after removing what killed servers left.

    Args:
        parent: where to; None: the system's folder for temporary files.

    Yields:
        The folder, its symbolic links resolved.
    """
    parent = Path(tempfile.gettempdir() if parent is None else parent).resolve()
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int:
    # Renamed into place when it is held: nobody sees a free lock of a living server.
    beside = folder / f"{_LOCK}.new"
    lock = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    beside.rename(folder / _LOCK)
    return lock


def remove_abandoned(parent: Path) -> list[Path]:
    """Remove this user's folders of servers that are no longer running.

    Args:
        parent: folder that holds them.

    Returns:
        The folders that were removed.
    """
    removed = []
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another server was faster
            if _abandoned(folder):
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


def _abandoned(folder: Path) -> bool:
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid():
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return time.time() - found.st_mtime > _NO_LOCK_AGE
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def make_room(folder: Path, *, now: float | None = None) -> None:
    """Remove files that are older than an hour, and the oldest of too many.

    Args:
        folder: from `scratch_folder`.
        now: seconds since the epoch; None: the present.
    """
    now = time.time() if now is None else now
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed in the meantime
            status = path.lstat()
            is_folder = path.is_dir() and not path.is_symlink()
            if path != folder / _LOCK and not is_folder:
                found.append((status.st_mtime, status.st_size, path))
    held, count = sum(size for _, size, _ in found), len(found)
    for modified, size, path in sorted(found):
        if held <= MAX_BYTES and count <= MAX_FILES and now - modified <= MAX_AGE:
            break
        path.unlink(missing_ok=True)
        held, count = held - size, count - 1


def own_file(folder: Path, path: object) -> Path:
    """Resolve the path of a file that the page itself keeps.

    Args:
        folder: from `scratch_folder`.
        path: from a request, of any type.

    Raises:
        UserError: it is not a regular file inside the folder.
    """
    found = None
    if isinstance(path, str) and Path(path).is_absolute():
        # It may be absent, hold a NUL byte, or lead through links in a circle.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            found = Path(path).resolve(strict=True)
    if (
        found is None
        or not found.is_relative_to(folder.resolve())
        or not found.is_file()  # a pipe would block
        or found == folder.resolve() / _LOCK
    ):
        raise UserError(
            "the page reads only pictures that were uploaded to it within the last "
            "hour; upload the picture."
        )
    return found
