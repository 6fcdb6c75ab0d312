"""Result files: items, their trajectory and how they were made, in one folder.

    request.json        all that decides them; see `runtime.results`
    images/             a file for each item, and metadata.jsonl with their captions
    samples.npz         all items, and classes
    film.png, film-x0.png   the trajectory of the first items, and their x0 predictions
    chain.gif           that trajectory as an animation
    sample.json         how they were made
    grid.png            all on one sheet; written last

Every command that samples or edits writes these, by `write_results`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.codecs.display import IMAGES, Display
from ddpm_jax.runtime import files, images
from ddpm_jax.runtime.results import LAST_FILE
from ddpm_jax.sampling.plan import Trajectory

SAMPLES = "samples.npz"
TRAJECTORY_FILES = "film.png", "film-x0.png", "chain.gif"


class Results(NamedTuple):
    """What was made, of N items.

    Attributes:
        items: [N, ...], as the codec stores them; of images uint8 [N, H, W, C].
        sheet: all on one image, uint8 [rows, columns, C].
        trajectory: leaves [K, F, ...] of the first F items, stored alike; `x0` may be
            None.
        record: how they were made, as plain data.
        labels: integers [N], or None.
        names: of their files, without suffix; None numbers them.
        captions: N texts, for which there are `names`; or None.
        columns: items side by side in the animation; None for about a square.
        film_rows: of the film strips, at most; None for all that were recorded.
    """

    items: np.ndarray
    sheet: np.ndarray
    trajectory: Trajectory
    record: Mapping[str, Any]
    labels: np.ndarray | None = None
    names: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    columns: int | None = None
    film_rows: int | None = None


def write_results(
    folder: Path,
    made: Results,
    show: Display = IMAGES,
    *,
    arrays_file: str = SAMPLES,
    record_file: str = "sample.json",
) -> None:
    """Write all files of a result but its request, the sheet last.

    Args:
        folder: where to.
        made: what.
        show: how items are shown, of the codec.
        arrays_file: name of the file of all items.
        record_file: name of the file of the record.

    Raises:
        UserError: a file cannot be written.
    """
    show.save(folder / "images", made.items, made.names)
    if made.captions is not None:
        _write_captions(folder / "images", made.names or [], made.captions)
    columns = made.columns or max(1, round(len(made.trajectory.x_t[0]) ** 0.5))
    write_trajectory(folder, made.trajectory, columns, show, rows=made.film_rows)
    files.write_json(folder / record_file, made.record)
    write_items(folder, made.items, made.sheet, made.labels, arrays_file=arrays_file)


def write_trajectory(
    folder: Path,
    trajectory: Trajectory,
    columns: int | None,
    show: Display = IMAGES,
    *,
    rows: int | None = None,
) -> None:
    """Write `TRAJECTORY_FILES`, the second only if the predictions were kept.

    Args:
        folder: where to.
        trajectory: leaves [K, F, ...].
        columns: items side by side in the animation; None for about a square.
        show: how items are shown, of the codec.
        rows: of the sheets, at most; None for all F.
    """
    for name, frames in zip(TRAJECTORY_FILES[:2], trajectory, strict=True):
        if frames is not None:
            images.save_png(folder / name, show.trajectory(frames[:, :rows]))
    animation = show.animation(trajectory.x_t, columns)
    images.save_gif(folder / TRAJECTORY_FILES[2], animation, fps=8, hold_last=2.0)


def write_items(
    folder: Path,
    items: np.ndarray,
    sheet: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    arrays_file: str = SAMPLES,
) -> None:
    """Write all items to one file, and then their sheet, which marks a whole result.

    Args:
        folder: where to.
        items: [N, ...].
        sheet: uint8 [rows, columns, C].
        labels: integers [N], or None.
        arrays_file: name of the file of all items.
    """
    images.save_npz(folder / arrays_file, items, labels)
    images.save_png(folder / LAST_FILE, sheet)


def _write_captions(folder: Path, names: Sequence[str], texts: Sequence[str]) -> None:
    """Write which item is of which prompt, as a folder of training data has it."""
    lines = [
        json.dumps({"file_name": f"{name}.png", "text": text}, ensure_ascii=False)
        for name, text in zip(names, texts, strict=True)
    ]
    files.write_text(folder / "metadata.jsonl", "".join(f"{line}\n" for line in lines))
