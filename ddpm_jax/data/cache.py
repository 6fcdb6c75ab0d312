"""Decoded images on disk, for folders whose images do not fit into memory.

cache folder/decoded/KEY/
    00000-of-00042.array_record    images one after the other, H * W * C bytes each
    index.json                     what is in them; written last

KEY names the folder, the preparation and the state of every file (see `folder`), so a
file that changes leads to another KEY, and what was kept of the folder's former state
is removed. A shard appears under its name only when whole: a process that is killed
while writing goes on with the shards that are missing.
"""

import functools
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ddpm_jax.data.dataset import CORES, MAX_BYTES, Arrays, Dataset, Records, decoded
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

SHARD_BYTES = 128 * 1024**2  # of pixels
_MAX_SHARDS = 512  # files that may be open at once
_INDEX = "index.json"
_WRITER = "group_size:1,zstd:1"  # each image by itself, for random access


def ready(
    dataset: Dataset,
    *,
    max_bytes: int = MAX_BYTES,
    report: Callable[[str], None] = lambda line: None,
) -> Dataset:
    """Return the data set with its images decoded: in memory, or in the disk cache.

    Images that fit neither `max_bytes` nor the cache (TFDS, or a folder opened with
    `cache=False`) stay as they are and are decoded each time.

    Args:
        dataset: any; done twice, nothing happens the second time.
        max_bytes: of pixels that may be held in memory.
        report: called with a line about the cache, before it is written or used.

    Raises:
        UserError: an image is broken, or the disk is full.
    """
    if dataset.num_bytes <= max_bytes:
        return decoded(dataset)
    return cached(dataset, report=report) if dataset.cache_key else dataset


def cached(
    dataset: Dataset,
    *,
    shard_bytes: int = SHARD_BYTES,
    report: Callable[[str], None] = lambda line: None,
) -> Dataset:
    """Return the data set with its images read from the disk cache, written if needed.

    Args:
        dataset: one with a `cache_key`.
        shard_bytes: pixels in a file, about.
        report: as in `ready`.

    Raises:
        UserError: an image is broken, or the disk is full.
    """
    folder = files.cache_folder("decoded", dataset.cache_key)
    names, per_shard = _plan(dataset, shard_bytes)
    if _missing(folder, names):
        try:
            files.make_folder(folder)
        except files.UnwritableError as error:
            files.note(f"images are decoded each time they are used: {error}")
            return replace(dataset, cache_key="")
        with files.alone_in(folder, report=report) as alone:
            missing = _missing(folder, names)  # less, if another was at work
            if missing:
                size = f"{dataset.num_bytes / 1e9:,.1f} GB of pixels"
                report(f"cache    writing {size}, less by compression, to {folder}")
                _check_room(folder, len(missing) * min(shard_bytes, dataset.num_bytes))
                _write(dataset, folder, names, missing, per_shard)
                _remove_former(folder)
                files.remove_leftovers(folder, alone=alone)
    held = sum((folder / name).stat().st_size for name in names)
    report(f"cache    {held / 1e9:,.1f} GB in {folder}")
    source = _source(dataset, folder, names, per_shard)
    return replace(dataset, source=source, cache_key="")


def _plan(dataset: Dataset, shard_bytes: int) -> tuple[list[str], int]:
    """Return the shards' names and the number of images in each but the last."""
    num_shards = min(max(1, math.ceil(dataset.num_bytes / shard_bytes)), _MAX_SHARDS)
    per_shard = math.ceil(len(dataset) / num_shards)
    num_shards = math.ceil(len(dataset) / per_shard)
    names = [f"{i:05d}-of-{num_shards:05d}.array_record" for i in range(num_shards)]
    return names, per_shard


def _missing(folder: Path, names: list[str]) -> list[str]:
    """List the shards that are not there, or not of the size that was written.

    Where there is no index, as while others are still written, whole ones have their
    names.
    """
    try:
        stored = files.read_json(folder / _INDEX).get("shards")
    except (FileNotFoundError, files.DamagedError):
        stored = None
    known = stored if isinstance(stored, dict) else None
    gone = [name for name in names if not _is_whole(folder, name, known)]
    # What could not be written last, the index, may be all that is missing.
    return gone or ([] if known is not None else names[-1:])


def _is_whole(folder: Path, name: str, stored: dict[str, int] | None) -> bool:
    try:
        size = (folder / name).stat().st_size
    except OSError:
        return False
    return stored is None or stored.get(name) == size


def _check_room(folder: Path, num_bytes: int) -> None:
    free = files.free_bytes(folder)
    if num_bytes > free:
        raise UserError(
            f"the cache of decoded images may need {num_bytes / 1e9:,.1f} GB in "
            f"{folder}, where {free / 1e9:,.1f} GB are free; make room, name another "
            f"place in ${files.CACHE_VARIABLE}, or train without it: "
            "--config.data.cache=False."
        )


def _write(
    dataset: Dataset,
    folder: Path,
    names: list[str],
    missing: list[str],
    per_shard: int,
) -> None:
    """Write the missing shards, one a thread at a time, and then the index."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    starts = {name: index * per_shard for index, name in enumerate(names)}
    todo = [range(starts[n], min(starts[n] + per_shard, len(dataset))) for n in missing]
    bar = tqdm(
        total=sum(map(len, todo)), desc="caching", unit="image", delay=5, disable=None
    )
    write = functools.partial(_write_shard, dataset, on_image=bar.update)
    pool = ThreadPoolExecutor(CORES, thread_name_prefix="cache")
    try:
        list(pool.map(write, [folder / name for name in missing], todo))
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    sizes = {name: (folder / name).stat().st_size for name in names}
    about = {"name": dataset.name, "image_shape": dataset.shape, "shards": sizes}
    files.write_json(folder / _INDEX, about)


def _write_shard(
    dataset: Dataset, path: Path, indices: range, on_image: Callable[[], object]
) -> None:
    from array_record.python import array_record_module

    try:
        with files.replacing(path) as partial:
            writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER)
            try:
                for index in indices:
                    writer.write(dataset.source[index]["image"].tobytes())
                    on_image()
            finally:
                writer.close()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot write the cache of decoded images {path} ({reason}); make room, "
            f"name another place in ${files.CACHE_VARIABLE}, or train without it: "
            "--config.data.cache=False."
        ) from error


def _remove_former(folder: Path) -> None:
    """Remove what was kept of other states of the same folder and preparation."""
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _source(
    dataset: Dataset, folder: Path, names: list[str], per_shard: int
) -> Records:
    from array_record.python import array_record_data_source

    paths = [str(folder / name) for name in names]
    try:
        stored = array_record_data_source.ArrayRecordDataSource(paths)
        if len(stored) != len(dataset):
            raise ValueError(f"it holds {len(stored)} images of {len(dataset)}")
    except (RuntimeError, ValueError) as error:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        raise _damaged(folder, error) from error
    source = dataset.source
    shape = dataset.shape
    label_of = None if isinstance(source, Arrays) else source.label
    reported: set[str] = set()

    def read(index):
        try:
            image = np.frombuffer(stored[index], np.uint8).reshape(shape)
        except (RuntimeError, ValueError) as error:
            name = names[int(index) // per_shard]
            if name not in reported:  # once for each; it is rewritten at the next start
                reported.add(name)
                (folder / name).unlink(missing_ok=True)
                reason = " ".join(str(error).split())
                files.note(
                    f"{folder / name} of the cache is damaged ({reason}); decoding its "
                    "images from their files."
                )
            image = source[int(index)]["image"]
        if label_of is None:
            return {"image": image}
        return {"image": image, "label": label_of(index)}

    return Records(len(dataset), read, num_threads=2, label=label_of)


def _damaged(folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(
        f"the cache of decoded images in {folder} was damaged ({reason}) and is "
        "removed; give the same command again, which writes it anew."
    )
