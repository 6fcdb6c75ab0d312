"""Latents of a data set on disk: encoded once for each autoencoder.

cache folder/latents/KEY/
    labels.npy      int32 [N], of data that have them
    moments.npy     float32 [N, ...], what the encoder says of each image; written last

KEY names the images, the autoencoder and how the one was shown to the other, so that a
change of any of them leads to another KEY. A file appears under its name only when
whole, and without `moments.npy` nothing is taken to be there.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ddpm_jax import files
from ddpm_jax.data.dataset import MAX_BYTES, Arrays, Dataset, fingerprint_of
from ddpm_jax.errors import UserError

_MOMENTS, _LABELS = "moments.npy", "labels.npy"
_AT_WORK = 3600  # seconds within which a process that writes has written something

Batches = Iterable[tuple[np.ndarray, np.ndarray | None]]
"""Moments float32 [B, ...] and labels int32 [B] or None, in the order of the data."""


def encoded(
    dataset: Dataset,
    identity: Iterable[object],
    shape: tuple[int, int, int],
    encode: Callable[[], Batches],
    *,
    cache: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Dataset:
    """Return a data set whose images are replaced by their moments.

    Args:
        dataset: any; nothing of it is read if its moments are on disk.
        identity: of all that decides the moments, beside the data.
        shape: of an image's moments.
        encode: makes the moments of all images, if they are not there.
        cache: look for them on disk, and keep them there.
        report: called with a line about the cache.

    Raises:
        UserError: an image is broken, the disk is full, or the cache is damaged.
    """
    key = fingerprint_of([dataset.fingerprint, shape, *identity])
    folder = files.cache_folder("latents", key)
    size = len(dataset) * int(np.prod(shape)) * 4
    if not cache:
        moments, labels = zip(*encode(), strict=True)
        told = None if labels[0] is None else np.concatenate(labels)
        return _as_dataset(dataset, np.concatenate(moments), told, key)
    if not (folder / _MOMENTS).exists():
        report(f"latents  writing {size / 1e6:,.0f} MB to {folder}")
        _write(folder, (len(dataset), *shape), encode)
    report(f"latents  {size / 1e6:,.0f} MB in {folder}")
    has_labels = dataset.label_names is not None
    return _as_dataset(
        dataset,
        _read(folder / _MOMENTS, (len(dataset), *shape), np.float32),
        _read(folder / _LABELS, (len(dataset),), np.int32) if has_labels else None,
        key,
    )


def _as_dataset(
    dataset: Dataset, moments: np.ndarray, labels: np.ndarray | None, key: str
) -> Dataset:
    return replace(
        dataset,
        source=Arrays(moments, labels),
        image_shape=moments.shape[1:],
        fingerprint=key,
        listing=None,
        cache_key="",
    )


def _write(folder: Path, shape: tuple[int, ...], encode: Callable[[], Batches]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        labels: list[np.ndarray] = []
        with _whole(folder / _MOMENTS) as file:
            about = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, about)
            for found, told in encode():
                file.write(found.astype("<f4").tobytes())
                labels += [] if told is None else [told]
            if labels:
                with _whole(folder / _LABELS) as beside:
                    np.save(beside, np.concatenate(labels).astype(np.int32))
        _remove_leftovers(folder)
    except OSError as error:
        raise UserError(
            f"cannot write latents to {folder} ({error.strerror or error}); make room "
            f"there, name another place in ${files.CACHE_VARIABLE}, or keep them in "
            "memory: --config.data.cache=False."
        ) from error


def _remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed has left; one at work writes all along."""
    for partial in folder.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > _AT_WORK:
                partial.unlink()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name when all is written.

    Not as `files.write` does: each host of several may have a cache of its own, or all
    the same, where processes of different hosts may have one number.

    Yields:
        The file.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Open an array: in memory if it is small, else as a view of the file."""
    small = np.prod(shape) * np.dtype(dtype).itemsize <= MAX_BYTES
    try:
        found = np.load(path, mmap_mode=None if small else "r")
        if (found.shape, found.dtype) != (shape, dtype):
            raise ValueError(f"it holds {found.dtype} {list(found.shape)}")
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the latents in {path.parent} are damaged ({reason}); remove that folder, "
            "and give the same command again."
        ) from error
    return found
