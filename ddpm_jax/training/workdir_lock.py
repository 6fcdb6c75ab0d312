"""Lock of a workdir: one trainer at a time, across hosts, safe after a crash.

workdir/trainer.json    who trains here: host, process, and a token of its own

The file is linked into place, which on every file system only one of two can do, and a
thread touches it every few seconds. Another process then checks whether its owner
lives:

- on the same host, by its process: that is certain and costs no time;
- else, as on a shared file system, by the file's time, compared with that of a file
  which is written now, so that clocks of hosts do not matter. One that has not been
  touched for long is of an owner that is gone, as after a kill or the loss of its host.

An owner whose host was asleep notices at its next save that another has taken its
place, and stops.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import on_every_host

FILE = "trainer.json"
BEAT = 2.0  # seconds from one touch to the next
STALE = 16.0  # seconds without a touch after which an owner elsewhere is gone


class OwnedError(UserError):
    """Another process trains in this workdir."""


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[Callable[[], None]]:
    """Be the one process that trains in a workdir.

    Args:
        workdir: it exists and can be written.

    Yields:
        To be called before a save: raises an `OwnedError` if another process has taken
        this one's place.

    Raises:
        OwnedError: another one trains there.
    """
    path = workdir / FILE
    mine = {
        "token": secrets.token_hex(16),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "system": _system(),
        "began": _began(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    _take(path, mine)
    over = threading.Event()
    beating = threading.Thread(
        target=_beat, args=(path, mine, over), name="trainer", daemon=True
    )
    beating.start()

    def check() -> None:
        now = _read(path)
        if now is not None and now.get("token") != mine["token"]:
            raise OwnedError(
                f"another process trains in {workdir} since {now.get('since')} "
                f"({_who(now)}); this one was not heard of for too long, and stops. "
                "What it saved is there."
            )

    try:
        yield check
    finally:
        over.set()
        beating.join(timeout=BEAT)
        if (_read(path) or {}).get("token") == mine["token"]:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def only_trainer(workdir: Path) -> Iterator[Callable[[], None]]:
    """Be the one run that trains in a workdir; of its hosts the first holds it.

    Args:
        workdir: as in `hold`.

    Yields:
        As `hold` does.

    Raises:
        UserError: another run trains there; raised on every host.
    """
    with contextlib.ExitStack() as stack:
        check: Callable[[], None] = lambda: None  # noqa: E731
        refusal = None
        if jax.process_index() == 0:
            try:
                check = stack.enter_context(hold(workdir))
            except UserError as error:
                refusal = error
        if not on_every_host(refusal is None):
            raise refusal or OwnedError(f"another process trains in {workdir}.")
        yield check


def is_held(workdir: Path) -> bool:
    """Return whether a process trains in a workdir, by a check that does not wait."""
    path = workdir / FILE
    owner = _read(path)
    if owner is None:
        return False
    alive = _is_alive_here(owner)
    if alive is not None:
        return alive
    with contextlib.suppress(OSError):
        return _age(path) < STALE
    return False


def _take(path: Path, mine: dict[str, Any]) -> None:
    """Put a file of one's own into the place, or refuse.

    Raises:
        OwnedError: another one lives.
        UnwritableError: the file cannot be written.
    """  # noqa: DOC501 (a function makes it)
    own = path.with_name(f".{mine['token']}.partial")
    try:
        own.write_text(json.dumps(mine, indent=2) + "\n")
        while not _linked(own, path):
            _remove_if_gone(path)
    except OSError as error:
        raise files.cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            own.unlink()


def _linked(own: Path, path: Path) -> bool:
    """Give a file the name, unless there is one of that name."""
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except (
        OSError
    ):  # no links here, as on FAT: created by one process alone all the same
        try:
            with path.open("xb") as file:
                file.write(own.read_bytes())
        except FileExistsError:
            return False
    return True


def _remove_if_gone(path: Path) -> None:
    """Remove the file of an owner that is gone.

    Raises:
        OwnedError: it lives.
    """
    with contextlib.suppress(FileNotFoundError):
        owner = _read(path)
        if _lives(path, owner):
            raise OwnedError(
                f"another process trains in {path.parent} since "
                f"{(owner or {}).get('since', 'a while')} ({_who(owner or {})}); let "
                "it end or stop it, or use another --workdir."
            )
        # Renamed first, and checked again: another may have taken the place by now.
        aside = path.with_name(f".{secrets.token_hex(16)}.partial")
        path.rename(aside)
        if _read(aside) != owner:
            _linked(aside, path)
        aside.unlink()


def _lives(path: Path, owner: dict[str, Any] | None) -> bool:
    """Return whether the owner of a file lives, watching it for a while if need be."""
    if owner is not None:
        alive = _is_alive_here(owner)
        if alive is not None:
            return alive
    touched = path.stat().st_mtime_ns
    until = time.monotonic() + STALE  # a file may bear a time that is still to come
    while _age(path) < STALE and time.monotonic() < until:
        if path.stat().st_mtime_ns != touched:
            return True
        time.sleep(BEAT / 4)
    return False


def _age(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of its file system."""
    probe = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        probe.touch()
        now = probe.stat().st_mtime
    except OSError:  # who only reads has to trust its own clock
        now = time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return now - path.stat().st_mtime


def _is_alive_here(owner: dict[str, Any]) -> bool | None:
    """Return whether the owner lives, if its process is visible from here."""
    if owner.get("host") != socket.gethostname() or owner.get("system") != _system():
        return None
    number = owner.get("process")
    if not isinstance(number, int) or number < 1 or _system() is None:
        return None
    # The number may be another process's by now, which then began at another time.
    began = _began(number)
    return began is not None and began == owner.get("began")


def _system() -> str | None:
    """Name this start of this system, and its visible processes; None unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _began(process: int) -> str | None:
    """Return when a process began, in ticks since the start; None if there is none."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]  # a zombie has ended


def _beat(path: Path, mine: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(BEAT):
        if (_read(path) or {}).get("token") == mine["token"]:
            with contextlib.suppress(OSError):
                os.utime(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return files.read_json(path)
    except (OSError, files.DamagedError):
        return None


def _who(owner: dict[str, Any]) -> str:
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
