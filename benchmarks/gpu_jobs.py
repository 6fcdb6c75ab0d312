"""Processes that share one device: each with its own end, its lines in one log.

One that crashes, runs out of memory or hangs costs its own result alone. While some
compile, which needs the CPU, others may; while one measures, all others wait. They are
told apart by files in a common folder: `Turns`.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.2


class Log:
    """Lines with the second and the process they came from, to a file and stdout."""

    def __init__(self, path: Path) -> None:
        """Open the file; seconds count from here."""
        self._stream = path.open("w", buffering=1)
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def seconds(self) -> float:
        """Return how long ago this was opened."""
        return time.monotonic() - self._started

    def line(self, name: str, text: str) -> None:
        """Write one line."""
        with self._lock:
            written = f"{self.seconds():6.1f} {name:<14} {text.rstrip()}"
            self._stream.write(written + "\n")
            print(written, flush=True)

    def follow(self, name: str, stream: IO[str]) -> None:
        """Write every line of a stream, until it ends."""
        for text in stream:
            if text.strip():
                self.line(name, text)


class Job:
    """A process that ends within its time, or is ended."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Log, limit: float
    ) -> None:
        """Start it, in a group of its own.

        Args:
            name: for the log.
            command: program and arguments.
            log: where its lines go.
            limit: seconds from now after which it is killed.
        """
        self.name, self._log = name, log
        self.deadline = log.seconds() + limit
        self._killed = ""
        spelled = shlex.join(command).replace("\n", " ")
        log.line(name, f"started, for {limit:.0f} s at most: {spelled}")
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(
            target=log.follow, args=(name, self._process.stdout), daemon=True
        )
        self._reader.start()

    def running(self) -> bool:
        """Return whether it still runs; kill it if its time is over."""
        if self._process.poll() is None and self._log.seconds() > self.deadline:
            self.kill("out of time")
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Signal it to save and stop."""
        if self._process.poll() is None:
            self._log.line(self.name, "is signaled to stop")
            self._process.send_signal(signal.SIGTERM)

    def kill(self, reason: str) -> None:
        """End it and all that it started."""
        if self._process.poll() is None:
            self._killed = reason
            self._log.line(self.name, f"killed: {reason}")
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def outcome(self) -> str:
        """Return "running", "done", why it was killed, or its exit status in words."""
        status = self._process.poll()
        if status is None:
            return "running"
        if self._killed:
            return self._killed
        return "done" if status == 0 else f"failed with status {status}"

    def drain(self) -> None:
        """Wait a moment for its last lines."""
        self._reader.join(timeout=2)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition, at most so many seconds; return whether it came."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-u", "-m", module, *arguments]


def repeatable(overrides: Sequence[str]) -> list[str]:
    """Return the options for a record's command: not that there are no data."""
    return [x for x in overrides if not x.startswith("--config.data.data_dir=")]


class Turns:
    """Signals between processes: files in a folder, which are there or not yet."""

    def __init__(self, folder: str | Path) -> None:
        """Use a folder, which is made if need be."""
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def give(self, name: str) -> None:
        """Give a signal."""
        (self._folder / name).touch()

    def given(self, name: str) -> bool:
        """Return whether a signal was given."""
        return (self._folder / name).exists()

    def wait(self, name: str, seconds: float) -> bool:
        """Wait for a signal, at most so many seconds; return whether it came."""
        return wait_until(lambda: self.given(name), seconds)
