"""A long measurement, stored part by part, so that a kill costs no more than one part.

FOLDER/
    settings.json           what decides the numbers; another set is refused
    KIND/00000000-00000064.npz, 00000064-00000128.npz, ...
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import files
from ddpm_jax.devices import wait_for_all_hosts
from ddpm_jax.errors import UserError

_SETTINGS = "settings.json"


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note what decides the numbers, or refuse to go on where it was something else.

    Raises:
        UserError: the folder was begun with other settings, data included.
    """
    path = folder / _SETTINGS
    if not path.exists():
        files.write_json(path, settings)
        return
    before = json.loads(path.read_text())
    # Through JSON, which knows no tuples.
    now = json.loads(json.dumps(settings))
    changed = sorted(name for name in now if now[name] != before.get(name))
    if changed:
        raise UserError(
            f"{folder} was begun with other settings ({', '.join(changed)}); restore "
            "them, or remove that folder."
        )


def num_done(folder: Path, kind: str) -> int:
    """Count the examples that are stored, from the first on without a gap.

    What lies behind a gap, overlaps or cannot be read is removed, to be done again.
    """
    done = 0
    for path in _stored(folder, kind):
        start, end = _ends(path)
        if start == done and _is_whole(path, end - start):
            done = end
        else:
            path.unlink(missing_ok=True)  # another host may be quicker
    return done


def save_part(
    folder: Path, start: int, arrays: Mapping[str, np.ndarray], kind: str
) -> None:
    """Store the examples from `start` on, arrays [count, ...]; whole or not at all."""
    end = start + len(next(iter(arrays.values())))
    files.write_npz(folder / kind / f"{start:08d}-{end:08d}.npz", arrays)


def load_parts(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """Read all parts as one set of arrays [N, ...], in the types they were stored in.

    Raises:
        UserError: a part cannot be read.
    """
    wait_for_all_hosts(f"all parts of {folder}/{kind}")
    stored = []
    for path in _stored(folder, kind):
        try:
            stored.append(files.read_npz(path))
        except (FileNotFoundError, files.DamagedError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); remove it, and give the same "
                "command again."
            ) from error
    return {name: np.concatenate([part[name] for part in stored]) for name in stored[0]}


def drop_parts(folder: Path, kind: str) -> None:
    """Remove the parts, once every host has read them."""
    wait_for_all_hosts(f"parts of {folder}/{kind}")
    shutil.rmtree(folder / kind, ignore_errors=True)  # another host may be quicker


def _stored(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / kind).glob("[0-9]*-[0-9]*.npz"), key=_ends)


def _ends(path: Path) -> tuple[int, int]:
    start, end = path.stem.split("-")
    return int(start), int(end)


def _is_whole(path: Path, count: int) -> bool:
    """Say whether a part can be read: the archive keeps a checksum of each array."""
    try:
        arrays = files.read_npz(path)
    except (FileNotFoundError, files.DamagedError):
        return False
    return bool(arrays) and all(a.shape[:1] == (count,) for a in arrays.values())
