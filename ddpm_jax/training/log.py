"""Logging of a run: metrics.jsonl, TensorBoard, the terminal, W&B."""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.training.loop import Report
from ddpm_jax.training.tracker import NO_TRACKER, Tracker

METRICS_FILE = "metrics.jsonl"


class Log(NamedTuple):
    """An open log; every part is a function."""

    report: Callable[[Report], None]
    image: Callable[[str, np.ndarray, int], None]  # (name, uint8 [H, W, C], step)
    step: Callable[[], Any]  # moves the progress bar


@contextmanager
def open_log(
    workdir: Path,
    *,
    start: int,
    num_steps: int,
    learning_rate: Callable[[int], float],
    shown: tuple[str, ...] = ("loss",),
    tracker: Tracker = NO_TRACKER,
) -> Iterator[Log]:
    """Open the logs of a run that goes on from step `start`.

    What an earlier run wrote for later steps, having been killed before it could save
    them, is dropped: metrics.jsonl holds every step once.

    Args:
        workdir: folder of the run.
        start: steps already taken.
        num_steps: steps in all.
        learning_rate: step -> rate, to be logged beside the loss.
        shown: which numbers of a report go beside the progress bar.
        tracker: where else numbers and images go.

    Yields:
        The open log.
    """
    path = workdir / METRICS_FILE
    _truncate(path, start)
    bar = tqdm(
        total=num_steps, initial=start, unit="step", disable=None, dynamic_ncols=True
    )
    opened = time.perf_counter()
    with _tensorboard(workdir / "tensorboard", start) as board:

        def report(what: Report) -> None:
            record = as_record(what, learning_rate(what.step - 1))
            _append(path, json.dumps(record) + "\n")
            tracker.numbers(record, what.step)
            for name, value in record.items():
                if name != "step" and value is not None:
                    board.add_scalar(name, value, what.step)
            texts = [
                f"{name.replace('_', ' ')} {what.numbers[name]:.4g}"
                for name in shown
                if name in what.numbers
            ]
            line = ", ".join([*texts, f"{what.examples_per_second:,.0f} examples/s"])
            if bar.disable:
                per_step = (time.perf_counter() - opened) / (what.step - start)
                left = tqdm.format_interval((num_steps - what.step) * per_step)
                print(f"step {what.step}/{num_steps}: {line}, {left} left", flush=True)
            else:
                bar.set_postfix_str(line)

        def image(name: str, pixels: np.ndarray, step: int) -> None:
            board.add_image(name, pixels, step, dataformats="HWC")
            tracker.image(name, pixels, step)

        try:
            yield Log(report, image, bar.update)
        finally:
            bar.close()


def _append(path: Path, line: str) -> None:
    """Add a line to a file, unbuffered: nothing is left to be written at the end."""
    try:
        with path.open("ab", buffering=0) as stream:
            _write_all(stream, line.encode())
    except OSError as error:
        raise files.cannot_write(path, error) from error


def _write_all(stream: Any, content: bytes) -> None:
    """Write to an unbuffered file, which may take a part where there is no more room.

    Raises:
        OSError: not all could be written.
    """
    if stream.write(content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _tensorboard(folder: Path, start: int) -> Iterator[Any]:
    """Open TensorBoard's log; where it cannot be written, it is done without.

    Its own thread would otherwise end at a full disk, and with it the way to close it.

    Yields:
        Its writer.
    """
    from tensorboardX import SummaryWriter, record_writer

    record_writer.register_writer_factory(_SCHEME, _Forgiving)
    board = SummaryWriter(f"{_SCHEME}:{folder}", purge_step=start + 1)
    try:
        yield board
    finally:
        board.close()


_SCHEME = "ddpm-jax"


class _Forgiving:
    """A log file that warns once when it cannot be written, and then drops the rest."""

    def __init__(self, path: Path) -> None:
        self._path, self._stream = path, None
        with self._noting():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("wb", buffering=0)

    @staticmethod
    def directory_check(path: str) -> None:
        """Do nothing: the folder is made with the file."""

    @classmethod
    def open(cls, path: str) -> "_Forgiving":
        """Open a file of TensorBoard's, whose name carries the scheme."""
        return cls(Path(path.removeprefix(f"{_SCHEME}:")))

    def write(self, content: bytes) -> None:
        """Write, if that is still possible."""
        if self._stream is not None:
            with self._noting():
                _write_all(self._stream, content)

    def flush(self) -> None:
        """Do nothing: it is unbuffered."""

    def close(self) -> None:
        """Close it, as far as it is open."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OSError):
                stream.close()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            reason = error.strerror or error
            files.note(
                f"TensorBoard's log in {self._path.parent} cannot be written "
                f"({reason}); going on without it."
            )


@contextmanager
def quiet_log() -> Iterator[Log]:
    """Open a log that keeps nothing: of the hosts, one writes."""
    yield Log(lambda report: None, lambda name, pixels, step: None, lambda: None)


def as_record(report: Report, learning_rate: float) -> dict[str, float | None]:
    """Flatten a report to what a line of metrics.jsonl holds; JSON has no nan."""
    record: dict[str, float | None] = {"step": report.step}
    for name, value in report.numbers.items():
        record[name] = value if math.isfinite(value) else None
    record["learning_rate"] = float(learning_rate)
    record["examples_per_second"] = round(report.examples_per_second, 2)
    return record


def read_metrics(workdir: Path) -> list[dict[str, float | None]]:
    """Read metrics.jsonl, leaving out lines that cannot be read.

    The last one may have been cut short by a kill.

    Raises:
        UserError: the file cannot be opened.
    """
    path = workdir / METRICS_FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); restore or remove it."
        ) from error
    return [record for record in map(_record, lines) if record is not None]


def _record(line: bytes) -> dict[str, float | None] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(record, dict) and all(
        isinstance(record.get(name), int | float) for name in ("step", "loss")
    )
    return record if known else None


def _truncate(path: Path, start: int) -> None:
    if not path.exists():
        return
    records = read_metrics(path.parent)
    lines = [line for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]
    bad = len(lines) - sum(_record(line) is not None for line in lines)
    if bad:
        files.note(f"{bad} line(s) of {path} cannot be read, and are left out.")
    kept = [r for r in records if (r["step"] or 0) <= start]
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
