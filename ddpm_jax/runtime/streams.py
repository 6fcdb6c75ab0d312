"""stdout and stderr of the program: output errors do not end it.

A pipe that is closed (`| head`), a terminal that is closed or a log on a full disk
costs what is printed, and not the work: results are in files. A character that a stream
cannot hold is written as its escape sequence.
"""

import io
import os
import sys
from typing import Any, TextIO

_replaced: list[TextIO | None] = []  # closing them would close what they stand for


class _Lenient(io.FileIO):
    """A text stream whose writes never raise."""

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Replace stdout and stderr of the process; for a program, not for a library.

    To be called first: what is opened while one of them is closed would take its place,
    and get what is written there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        _replaced.append(old)
        setattr(sys, name, _lenient(old))


def _lenient(old: TextIO | None) -> TextIO:
    try:
        number = -1 if old is None else old.fileno()
    except (OSError, ValueError):
        number = -1
    if old is None or number < 0:  # it was closed before the program began
        return open(os.devnull, "w")
    if os.name != "posix" or not isinstance(old, io.TextIOWrapper):
        return old  # a console of Windows is not a file
    old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lenient(number, "wb", closefd=False)),
        encoding=old.encoding,
        errors="backslashreplace",
        line_buffering=old.line_buffering or old.write_through,
    )
