"""Where a run writes what it sees: metrics.jsonl, TensorBoard, the terminal, W&B."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

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
        tracker: where else numbers and images go.

    Yields:
        The open log.
    """
    from tensorboardX import SummaryWriter

    path = workdir / METRICS_FILE
    _truncate(path, start)
    board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
    bar = tqdm(
        total=num_steps, initial=start, unit="step", disable=None, dynamic_ncols=True
    )
    opened = time.perf_counter()
    with path.open("a") as stream:

        def report(what: Report) -> None:
            record = as_record(what, learning_rate(what.step - 1))
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            tracker.numbers(record, what.step)
            for name, value in record.items():
                if name != "step" and value is not None:
                    board.add_scalar(name, value, what.step)
            shown = f"loss {what.loss:.4f}, {what.images_per_second:,.0f} images/s"
            if bar.disable:
                per_step = (time.perf_counter() - opened) / (what.step - start)
                left = tqdm.format_interval((num_steps - what.step) * per_step)
                print(f"step {what.step}/{num_steps}: {shown}, {left} left", flush=True)
            else:
                bar.set_postfix_str(shown)

        def image(name: str, picture: np.ndarray, step: int) -> None:
            board.add_image(name, picture, step, dataformats="HWC")
            tracker.image(name, picture, step)

        try:
            yield Log(report, image, bar.update)
        finally:
            bar.close()
            board.close()


@contextmanager
def quiet_log() -> Iterator[Log]:
    """Open a log that keeps nothing: of the hosts, one writes."""
    yield Log(lambda report: None, lambda name, picture, step: None, lambda: None)


def as_record(report: Report, learning_rate: float) -> dict[str, float | None]:
    """Flatten a report to what a line of metrics.jsonl holds; JSON has no nan."""
    record: dict[str, float | None] = {"step": report.step, "loss": report.loss}
    for i, value in enumerate(report.loss_by_quartile):
        record[f"loss_q{i}"] = value if math.isfinite(value) else None
    record["grad_norm"] = report.grad_norm
    record["learning_rate"] = float(learning_rate)
    record["images_per_second"] = round(report.images_per_second, 2)
    return record


def read_metrics(workdir: Path) -> list[dict[str, float | None]]:
    """Read metrics.jsonl; a last line cut short by a kill is left out."""
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _truncate(path: Path, start: int) -> None:
    if not path.exists():
        return
    kept = [r for r in read_metrics(path.parent) if (r["step"] or 0) <= start]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.replace(partial, path)
