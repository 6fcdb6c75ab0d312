"""Files that are whole or refused, and where this user's caches lie.

A file is written beside its place under a name that no other process has, brought to
the disk, and renamed into its place: a name always belongs to a finished file, however
the program ends and however many write it, of whom the last one wins. A damaged one, as
copying can leave it, gives one kind of error, whatever it is that the libraries below
stumble over.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddpm_jax.errors import UserError

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None  # type: ignore[assignment]

CACHE_VARIABLE = "DDPM_JAX_CACHE"
_MOST_JSON = 2**28  # bytes
_AT_WORK = 3600  # seconds within which a process that writes has written something
_RETRY = 0.1  # seconds between two attempts to lock a folder
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedError(Exception):
    """A file exists and cannot be read as what it should be; one line says why."""


class UnwritableError(UserError):
    """A file or folder cannot be written: no room, no permission, no such place."""


def cannot_write(place: str | Path, error: OSError) -> UnwritableError:
    """Return the error of a place that cannot be written, with what would help."""
    what = "make it writable, or choose another place"
    if error.errno in _NO_ROOM:
        what = "make room there"
    elif error.errno == errno.ENAMETOOLONG:
        what = "choose a shorter name"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        what = "a file is where a folder has to be: move it, or choose another place"
    return UnwritableError(f"cannot write {place} ({error.strerror or error}); {what}.")


def note(line: str) -> None:
    """Print a note to the user that does not end the program."""
    print(f"note: {line}", file=sys.stderr, flush=True)


def cache_folder(*parts: str) -> Path:
    """Name a folder in `$DDPM_JAX_CACHE`, else in ~/.cache/ddpm_jax."""
    chosen = os.environ.get(CACHE_VARIABLE)
    root = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "ddpm_jax"
    return root.joinpath(*parts)


def printable(name: str | Path) -> str:
    r"""Format a name from the file system so that any UTF-8 terminal or file takes it.

    Args:
        name: as `os` gives it; bytes that are not UTF-8 stand in it as surrogates.

    Returns:
        One line: such bytes, and control characters, as "\xe9" or "\n".
    """
    try:
        encoded = str(name).encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        encoded = str(name).encode(errors="backslashreplace")
    text = encoded.decode(errors="backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def write(
    path: str | Path, content: Callable[[BinaryIO], Any], *, durable: bool = True
) -> None:
    """Make a file, and its folder; what was there before stays until it is whole.

    Hosts that run a program together share its folders, and the first one writes.

    Args:
        path: where to.
        content: writes to the open file that it is given.
        durable: wait until the disk has it. Of many files that another one completes,
            such as the images of a folder, it would take a time for each.

    Raises:
        UnwritableError: it cannot be written.
    """  # noqa: DOC501 (a function makes it)
    if not _writes():
        return
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=durable) as partial, partial.open("wb") as file:
            content(file)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Name a file to be written within, which then takes the place of `path`.

    Of every host, and not of the first alone: it is for caches, of which each host may
    have its own or all the same one.

    Args:
        path: in a folder that exists.
        durable: wait until the disk has it.

    Yields:
        Where to write: in the same folder, a name that no other process has.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        yield partial
        if durable:
            _to_disk(partial)
        os.replace(partial, path)
        if durable:
            with contextlib.suppress(OSError):  # not every file system can, of a folder
                _to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def make_folder(folder: Path) -> Path:
    """Make a folder before the work, and check that it can be written.

    Raises:
        UnwritableError: it cannot be made, or nothing can be written in it.
    """  # noqa: DOC501 (a function makes it)
    probe = folder / f".{secrets.token_hex(8)}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def free_bytes(folder: Path) -> int:
    """Return the free bytes where a folder is, or would be made."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, *, alone: bool = False) -> None:
    """Remove what processes that were killed have left half written in a folder.

    Args:
        folder: where `replacing` was used.
        alone: no other process is at work there; else what is recent stays.
    """
    for partial in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if alone or time.time() - partial.stat().st_mtime > _AT_WORK:
                partial.unlink()


@contextlib.contextmanager
def alone_in(
    folder: Path | None,
    *,
    stop: Callable[[], Any] = lambda: False,
    report: Callable[[str], None] = note,
) -> Iterator[bool]:
    """Be the one process at work in a folder, after any other that is.

    Where the file system or the system has no locks, nobody waits: what is stored
    must be such that the last complete one wins. The lock ends with its process,
    however that ends.

    Args:
        folder: it exists; None is nobody's.
        stop: called while waiting; if true, the wait is over without the lock.
        report: called with a line if there is a wait.

    Yields:
        Whether no other process of this kind is there, for certain.
    """
    handle = None if folder is None or not _locks() else _lock(folder, stop, report)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):  # while it is held, so that none waits
                (folder / _LOCK).unlink()  # type: ignore[operator]
            os.close(handle)


_LOCK = ".lock"


def _locks() -> bool:
    """Return whether to lock: hosts of one run share a folder."""
    jax = sys.modules.get("jax")
    return fcntl is not None and (jax is None or not jax.distributed.is_initialized())


def _lock(
    folder: Path, stop: Callable[[], Any], report: Callable[[str], None]
) -> int | None:
    path, waited = folder / _LOCK, False
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, there = os.fstat(handle), os.stat(path)
            if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
                os.write(handle, f"{socket.gethostname()} {os.getpid()}\n".encode())
                return handle
        except BlockingIOError:
            if not waited:
                report(f"another process is at work in {folder}; waiting for it.")
                waited = True
            if stop():
                os.close(handle)
                return None
            time.sleep(_RETRY)
        except FileNotFoundError:
            pass  # the other removed it, being done: there is a new one to be made
        except OSError:  # a full disk is not a reason to wait, nor are missing locks
            os.close(handle)
            return None
        os.close(handle)


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Continue without something that is only stored to save time, with a note.

    Args:
        what: it is, such as "the features of the reference".
    """
    try:
        yield
    except (OSError, UnwritableError) as error:
        note(f"{what} are not kept for next time: {str(error).rstrip('.')}.")


def _writes() -> bool:
    jax = sys.modules.get("jax")  # imported here, it would read the environment
    return (
        jax is None or not jax.distributed.is_initialized() or not jax.process_index()
    )


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes as they are; see `write`."""
    write(path, lambda file: file.write(content))


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, escaping what that cannot hold; see `write`."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Write plain data as indented JSON; see `write`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path, kind: type = dict) -> Any:
    """Read plain data.

    Args:
        path: a file of anyone's.
        kind: what it holds at the top: dict or list.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not JSON, or holds something else.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            raise DamagedError("it is not a regular file")
        if status.st_size > _MOST_JSON:
            raise DamagedError(f"it has {status.st_size:,} bytes, too many for JSON")
        value = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except RecursionError as error:
        raise DamagedError("it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise DamagedError(" ".join(str(error).split())) from error
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "an object", list: "a list"}
        raise DamagedError(
            f"it holds {names.get(type(value), type(value).__name__)}, not "
            f"{names[kind]}"
        )
    return value


def read_npz(
    path: str | Path, only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Read named arrays; nothing in the file is executed.

    Args:
        path: an .npz of anyone's.
        only: names to read, some of which may be absent; None reads all.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not an .npz of plain arrays, or a part of it is broken.
    """
    with _damage_named():
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for ever
            raise DamagedError("it is not a regular file")
        opened = np.load(path)
        if isinstance(opened, np.ndarray):
            raise DamagedError("it is a single array, an .npy")
        with opened as file:
            names = file.files if only is None else set(only) & set(file.files)
            _check_unpacked(file, names)
            arrays = {name: file[name] for name in names}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise DamagedError(f"{name} in it is not an array")
        return arrays


def read_npy(path: str | Path, mmap_above: int) -> np.ndarray:
    """Read one array; nothing in the file is executed.

    Args:
        path: an .npy of anyone's.
        mmap_above: bytes from which on the array [...] is a view of the file.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not an .npy of plain numbers, or a part of it is broken.
    """
    with _damage_named():
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            raise DamagedError("it is not a regular file")
        array = np.load(path, mmap_mode="r" if status.st_size > mmap_above else None)
        if not isinstance(array, np.ndarray):
            array.close()
            raise DamagedError("it is an .npz")
        return array


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Raise all that reading a broken file raises as one error."""
    try:
        yield
    except (FileNotFoundError, DamagedError):
        raise
    except Exception as error:  # of zip, of zlib, of the parser of headers, of NumPy
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(reason) from error


def _check_unpacked(file: Any, names: Collection[str]) -> None:
    """Refuse arrays that no memory holds, before a small file unpacks to them."""
    members = {info.filename: info.file_size for info in file.zip.infolist()}
    needed = sum(members.get(f"{name}.npy", members.get(name, 0)) for name in names)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise DamagedError(
            f"it unpacks to {needed / 1e9:,.1f} GB, and this machine has "
            f"{memory / 1e9:,.1f} GB of memory"
        )


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays [...], uncompressed; see `write`."""
    whole: dict[str, Any] = dict(arrays)  # savez has an option among its names
    write(path, lambda file: np.savez(file, **whole))
