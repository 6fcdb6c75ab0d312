"""Signal handling: Ctrl-C and SIGTERM, deferred to where nothing is lost.

Python raises KeyboardInterrupt in whatever its main thread runs at that moment. That
may be a callback of the garbage collector, where exceptions are dropped, and it is
never in the middle of a long call into C, such as a compile. So the handler only
records a signal, and a thread of its own, which a signal reaches also during a long
call, makes sure that it is answered:

- `check`, called between two pieces of work, raises `Interrupted`;
- work that has something to save enters `keeping`, tests `received`, saves and ends;
- if neither happens within `GRACE` seconds, the thread ends the process: there was
  nothing to save, or the main thread is inside one long call;
- a second signal ends the process at once.

Only programs call `install`; in a library's use, signals are left to the calling
program.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

GRACE = 1.0  # seconds in which work with nothing to save may end by itself
_ONE_PRESS = 0.2  # seconds; GNU timeout, for one, sends the same signal twice

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The program received a signal to end; `number` is that of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Received:
    """State shared by the main thread and the watching one."""

    def __init__(self) -> None:
        self.installed = False
        self.number = 0  # of the first signal that came
        self.keepers = 0  # how many blocks of `keeping` are entered
        self.answered = False  # whether something else ends the process


_state = _Received()


def install() -> None:
    """Handle SIGINT and SIGTERM from here on; for the main thread of a program."""
    if _state.installed:
        return
    _state.installed = True
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    threading.Thread(target=_watch, args=(ours,), daemon=True).start()
    for number in _NUMBERS:
        signal.signal(number, _note)
    # Written to by the C part of a signal's delivery, whatever Python is doing.
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)


def is_installed() -> bool:
    """Return whether the handlers are installed, as a program does and no library."""
    return _state.installed


def received() -> int:
    """Return the number of the first signal that came, or 0."""
    return _state.number


def check() -> None:
    """Leave here if a signal came and nobody has anything to save.

    Raises:
        Interrupted: a KeyboardInterrupt.
    """
    if _state.number and not _state.keepers:
        raise Interrupted(_state.number)


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Let the process live through a block that tests `received` itself, or saves."""
    _state.keepers += 1
    try:
        yield
    finally:
        _state.keepers -= 1


def answered() -> None:
    """Let the process end by itself: it stops for the signal, or other hosts see to it.

    A second signal ends it as ever.
    """
    _state.answered = True


def end(number: int, line: str = "interrupted.") -> NoReturn:
    """End the process here, with a line to stderr; what is not saved is lost.

    The exit status is 128 + `number`.
    """

    def speak() -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(Exception):
            begin = "\n" if sys.stderr.isatty() else ""  # below a progress bar
            print(f"{begin}{line}", file=sys.stderr, flush=True)

    # The main thread may hold a stream's lock, or nobody may read it.
    speaking = threading.Thread(target=speak, daemon=True)
    speaking.start()
    speaking.join(1.0)
    os._exit(128 + number)


def _note(number: int, frame: object) -> None:
    del frame
    _state.number = _state.number or number


def _watch(wakeups: socket.socket) -> None:
    """Answer what the main thread does not; runs as long as the process does."""
    quiet = 0.0  # seconds that a signal has waited with nothing to save
    first = 0.0  # when it came
    tick = 0.1
    while True:
        wakeups.settimeout(tick if _state.number else None)
        try:
            came_now = [n for n in wakeups.recv(64) if n in _NUMBERS]
        except TimeoutError:
            came_now = []
            idle = not (_state.keepers or _state.answered)
            quiet = quiet + tick if idle else 0.0
        for number in came_now:
            if first and time.monotonic() - first > _ONE_PRESS:
                kept = _state.keepers or _state.answered
                end(number, "stopped without saving." if kept else "interrupted.")
            first = first or time.monotonic()
            _state.number = _state.number or number
        if quiet >= GRACE:
            end(_state.number)
