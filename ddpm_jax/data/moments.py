"""Latents of a data set on disk: encoded once for each autoencoder.

cache folder/latents/KEY/
    moments.npy     float32 [N, ...], posterior mean and std of the latents of each
    image labels.npy      int32 [N], of data that have them
    index.json      size and checksum of each; written last

KEY names the images, the autoencoder and how images are encoded, so that a
change of any of them leads to another KEY. A file appears under its name only when
whole, and without the index there is nothing. What does not match the index
is made anew.
"""

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ddpm_jax.data.dataset import MAX_BYTES, Arrays, Dataset, fingerprint_of
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

_MOMENTS, _LABELS, _INDEX = "moments.npy", "labels.npy", "index.json"
_CHUNK = 16 * 1024**2  # bytes of a file that are hashed together

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
    agree: Callable[[bool], bool] = lambda flag: flag,
) -> Dataset:
    """Return a data set whose images are replaced by their moments.

    Args:
        dataset: any; nothing of it is read if its moments are on disk.
        identity: of all that decides the moments, beside the data.
        shape: of an image's moments.
        encode: makes the moments of all images, if they are not there.
        cache: look for them on disk, and keep them there; where that cannot be written
            they stay in memory, with a note.
        report: called with a line about the cache.
        agree: whether something holds on every host; the hosts encode together.

    Raises:
        UserError: an image is broken, or the disk is full.
    """
    key = fingerprint_of([dataset.fingerprint, shape, *identity])
    wanted: _Wanted = {_MOMENTS: ((len(dataset), *shape), np.float32)}
    if dataset.label_names is not None:
        wanted[_LABELS] = ((len(dataset),), np.int32)
    folder = files.cache_folder("latents", key)
    found = _open(folder, wanted, report, agree) if cache else None
    if found is None and cache and agree(_can_keep(folder)):
        with files.alone_in(folder, report=report) as alone:
            # Another that was at work may be done.
            found = _open(folder, wanted, lambda line: None, agree)
            if found is None:
                _check_room(folder, wanted)
                report(f"latents  writing {_megabytes(wanted)} to {folder}")
                _write(folder, wanted, encode)
                files.remove_leftovers(folder, alone=alone)
                found = _open(folder, wanted, report, agree)
    if found is None:
        moments, labels = zip(*encode(), strict=True)
        known = None if labels[0] is None else np.concatenate(labels)
        return _as_dataset(dataset, np.concatenate(moments), known, key)
    report(f"latents  {_megabytes(wanted)} in {folder}")
    return _as_dataset(dataset, found[_MOMENTS], found.get(_LABELS), key)


_Wanted = dict[str, tuple[tuple[int, ...], type]]
"""File -> shape and type of what it holds."""


def _num_bytes(wanted: _Wanted) -> int:
    return sum(
        int(np.prod(shape)) * np.dtype(dtype).itemsize
        for shape, dtype in wanted.values()
    )


def _megabytes(wanted: _Wanted) -> str:
    return f"{_num_bytes(wanted) / 1e6:,.0f} MB"


def _can_keep(folder: Path) -> bool:
    found = False
    with files.optional("latents"):
        files.make_folder(folder)
        found = True
    return found


def _check_room(folder: Path, wanted: _Wanted) -> None:
    size, free = _num_bytes(wanted), files.free_bytes(folder)
    if size > free:
        raise UserError(
            f"latents take {size / 1e6:,.0f} MB in {folder}, where {free / 1e6:,.0f} "
            f"MB are free; make room there, name another place in "
            f"${files.CACHE_VARIABLE}, or keep them in memory: "
            "--config.data.cache=False."
        )


def _as_dataset(
    dataset: Dataset, moments: np.ndarray, labels: np.ndarray | None, key: str
) -> Dataset:
    return replace(
        dataset,
        source=Arrays(moments, labels),
        shape=moments.shape[1:],
        fingerprint=key,
        listing=None,
        cache_key="",
    )


def _write(folder: Path, wanted: _Wanted, encode: Callable[[], Batches]) -> None:
    """Write the files, each whole or not at all, and then the index."""
    labels: list[np.ndarray] = []
    shape, _ = wanted[_MOMENTS]
    try:
        with files.replacing(folder / _MOMENTS) as path, path.open("wb") as file:
            about = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, about)
            for found, known in encode():
                file.write(found.astype("<f4").tobytes())
                labels += [] if known is None else [known]
            file.flush()
            stored = {_MOMENTS: _checksum(path)}
        if labels:
            with files.replacing(folder / _LABELS) as path, path.open("wb") as file:
                np.save(file, np.concatenate(labels).astype(np.int32))
                file.flush()
                stored[_LABELS] = _checksum(path)
        # Not by `files.write`: each host of several may have a cache of its own.
        with files.replacing(folder / _INDEX) as path:
            path.write_text(json.dumps(stored))
    except OSError as error:
        raise UserError(
            f"cannot write latents to {folder} ({error.strerror or error}); make room "
            f"there, name another place in ${files.CACHE_VARIABLE}, or keep them in "
            "memory: --config.data.cache=False."
        ) from error


def _checksum(path: Path) -> list[int]:
    """Return a file's size in bytes and its CRC-32."""
    size, total = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size, total = size + len(chunk), zlib.crc32(chunk, total)
    return [size, total]


def _open(
    folder: Path,
    wanted: _Wanted,
    report: Callable[[str], None],
    agree: Callable[[bool], bool],
) -> dict[str, np.ndarray] | None:
    """Open all files; None if one is not there, or is not what was written."""
    found = None
    try:
        stored = files.read_json(folder / _INDEX)
        found = {
            name: _array(folder / name, stored.get(name), *kind)
            for name, kind in wanted.items()
        }
    except FileNotFoundError:
        pass
    except (files.DamagedError, OSError) as error:
        report(f"latents  in {folder} are damaged ({error}): encoding anew")
    return found if agree(found is not None) else None


def _array(
    path: Path, stored: object, shape: tuple[int, ...], dtype: type
) -> np.ndarray:
    """Open an array: in memory if it is small, else as a view of the file.

    Raises:
        DamagedError: it does not match the index, or the request.
    """
    if stored != _checksum(path):
        raise files.DamagedError(f"{path.name} is not what was written")
    small = np.prod(shape) * np.dtype(dtype).itemsize <= MAX_BYTES
    try:
        found = np.load(path, mmap_mode=None if small else "r")
    except (ValueError, EOFError) as error:
        raise files.DamagedError(" ".join(str(error).split())) from error
    if (found.shape, found.dtype) != (shape, dtype):
        raise files.DamagedError(f"{path.name} holds {found.dtype} {found.shape}")
    return found
