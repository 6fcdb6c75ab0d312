"""Filters of Orbax's log output about failures that are raised anyway.

A save or a read that fails is raised, and reported here in one line. Orbax and the
event loops below it report it as well, with a traceback for each array and each thread:
through absl's logger, through that of asyncio ("exception was never retrieved"),
through that of concurrent.futures, and, when what is left of a read is freed, through
Python's hook for errors that nobody can catch.
"""

import logging
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_LOOP_IS_GONE = "Event loop is closed"
_OF_ORBAX = ("orbax", "tensorstore")
_FORMATS = ("ocdbt", "OCDBT", "zarr")  # in which they store arrays
_DROPPED = ("exception was never retrieved", "Task was destroyed")


def keep_quiet() -> None:
    """Filter the loggers and the hook, for good; once is enough."""
    for name in ("absl", "asyncio", "concurrent.futures"):
        logger = logging.getLogger(name)
        if _wanted not in logger.filters:
            logger.addFilter(_wanted)
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


def _wanted(record: logging.LogRecord) -> bool:
    """Return whether a record of a logger is for the user."""
    if any(name in record.pathname for name in _OF_ORBAX):
        return False
    _, error, trace = record.exc_info if record.exc_info else (None, None, None)
    if error is not None and _is_of_orbax(error, trace):
        return False
    # Of what was dropped unread or unfinished there may be no trace, but a description.
    text = record.getMessage()
    dropped = any(words in text for words in _DROPPED)
    return not (dropped and any(name in text for name in (*_OF_ORBAX, *_FORMATS)))


class _Hook:
    """Passes on what nobody could catch, except what Orbax leaves of a failed read."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        error, trace = unraisable.exc_value, unraisable.exc_traceback
        if error is None or not _is_of_orbax(error, trace):
            self._before(unraisable)


def _is_of_orbax(error: BaseException, trace: TracebackType | None) -> bool:
    if isinstance(error, RuntimeError) and str(error) == _LOOP_IS_GONE:
        return True
    return any(name in file for file in _files(trace) for name in _OF_ORBAX)


def _files(trace: TracebackType | None) -> Iterator[str]:
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
