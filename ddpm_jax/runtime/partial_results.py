"""Partial results of a long measurement, so that a kill costs no more than one part.

FOLDER/
    settings.json           all that determines the numbers; others are refused
    KIND/00000000-00000064.npz, 00000064-00000128.npz, ...

What a process needs of the parts is read once, at the start; what it measures itself it
keeps in memory as well. So its result is whole, whatever another process that measures
the same does to the parts meanwhile.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import least_of_hosts, wait_for_all_hosts

_SETTINGS = "settings.json"
_NAME = re.compile(r"\d+-\d+\.npz")


class PartialResults:
    """The examples measured so far, from the first on without a gap.

    Attributes:
        done: how many they are.
    """

    def __init__(
        self, folder: Path | None, kind: str, total: int, *, optional: bool = False
    ) -> None:
        """Read what is stored; what cannot be used is removed, to be done again.

        Args:
            folder: of the measurement; None stores nothing.
            kind: of part, the name of a folder in it.
            total: examples there are to be.
            optional: if a part cannot be written, go on without, with a note.
        """
        self._folder, self._kind = folder, kind
        self._optional, self._stores = optional, folder is not None
        stored = [] if folder is None else _take(folder, kind, total)
        self.done = least_of_hosts(sum(map(_count, stored)))
        self._measured: list[dict[str, np.ndarray]] = []
        for part in stored:  # where disks of hosts differ, what all of them have
            left = self.done - sum(map(_count, self._measured))
            if left > 0:
                self._measured.append({k: leaf[:left] for k, leaf in part.items()})

    def add(self, arrays: Mapping[str, np.ndarray]) -> int:
        """Store the next examples, arrays [count, ...], and return their count.

        Raises:
            UserError: they cannot be written, and are not optional.
        """
        count = _count(arrays)
        if self._stores:
            self._stores = False  # until it has worked
            doubt = files.optional("the parts of a measurement")
            with doubt if self._optional else contextlib.nullcontext():
                assert self._folder is not None
                save_part(self._folder, self.done, arrays, self._kind)
                self._stores = True
        self._measured.append(dict(arrays))
        self.done += count
        return count

    def whole(self) -> dict[str, np.ndarray]:
        """Join all examples to one set of arrays [N, ...], in the types they came."""
        names = self._measured[0]
        return {
            name: np.concatenate([part[name] for part in self._measured])
            for name in names
        }

    def drop(self) -> None:
        """Remove what is stored, once every host has read it."""
        wait_for_all_hosts(f"parts of {self._folder}/{self._kind}")
        if self._folder is not None:  # another host, or process, may be quicker
            shutil.rmtree(self._folder / self._kind, ignore_errors=True)


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values())))


def check_settings(
    folder: Path, settings: Mapping[str, Any], results: Collection[str] = ()
) -> None:
    """Store the settings of a measurement, or refuse to resume one with others.

    Args:
        folder: of the measurement.
        settings: plain data.
        results: names of files and folders in it that go with the settings; they are
            removed, with a note, where it can no longer be read what those were.

    Raises:
        UserError: the folder was started with other settings, data included.
    """
    path = folder / _SETTINGS
    try:
        before = files.read_json(path)
    except FileNotFoundError:
        files.write_json(path, settings)
        return
    except files.DamagedError as error:
        files.note(f"{path} cannot be read ({error}); measuring anew.")
        for name in results:
            remove(folder / name)
        files.write_json(path, settings)
        return
    # Through JSON, which has no tuples.
    now = json.loads(json.dumps(settings))
    changed = sorted(name for name in now if now[name] != before.get(name))
    if changed:
        raise UserError(
            f"{folder} was started with other settings ({', '.join(changed)}); restore "
            "them, or remove that folder."
        )


def remove(path: Path) -> None:
    """Remove a file or a folder, which may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def stored_result(
    path: Path,
    wanted: Collection[str],
    report: Callable[[str], None] = files.note,
) -> dict[str, Any] | None:
    """Read a result that a measurement left; None if there is none that can be used.

    Args:
        path: a file of JSON.
        wanted: names that it holds at its top.
        report: called with a line about one that is there and cannot be used.
    """
    try:
        result = files.read_json(path)
    except FileNotFoundError:
        return None
    except files.DamagedError as error:
        report(f"{path} cannot be used ({error}); measuring anew.")
        return None
    missing = [name for name in wanted if name not in result]
    if missing:
        report(f"{path} cannot be used (it lacks {missing[0]}); measuring anew.")
        return None
    return result


def stored_rows(paths: Iterable[Path], wanted: Collection[str]) -> list[Any]:
    """Read the results of several measurements, leaving out what cannot be used.

    Args:
        paths: files of JSON.
        wanted: names that each holds at its top.
    """

    def left_out(line: str) -> None:
        files.note(line.replace("measuring anew", "left out"))

    results = (stored_result(path, wanted, left_out) for path in sorted(paths))
    return [row for row in results if row is not None]


def save_part(
    folder: Path, start: int, arrays: Mapping[str, np.ndarray], kind: str
) -> None:
    """Store the examples from `start` on, arrays [count, ...]; whole or not at all."""
    end = start + _count(arrays)
    files.write_npz(folder / kind / f"{start:08d}-{end:08d}.npz", arrays)


def _take(folder: Path, kind: str, total: int) -> list[dict[str, np.ndarray]]:
    """Read the parts from the first on; remove what cannot follow or be read."""
    parts: list[dict[str, np.ndarray]] = []
    done = 0
    stored = [p for p in (folder / kind).glob("*.npz") if _NAME.fullmatch(p.name)]
    for path in sorted(stored, key=_ends):
        start, end = _ends(path)
        part = _read(path, end - start) if start == done and end <= total else None
        if part is None or (parts and part.keys() != parts[0].keys()):
            remove(path)  # another host may be quicker
        else:
            parts.append(part)
            done = end
    return parts


def _ends(path: Path) -> tuple[int, int]:
    start, end = path.stem.split("-")
    return int(start), int(end)


def _read(path: Path, count: int) -> dict[str, np.ndarray] | None:
    """Read a part, None if it is damaged: its archive has checksums of its arrays."""
    try:
        arrays = files.read_npz(path)
    except (FileNotFoundError, files.DamagedError):
        return None
    whole = bool(arrays) and all(a.shape[:1] == (count,) for a in arrays.values())
    return arrays if whole else None
