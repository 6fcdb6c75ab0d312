"""Reading of checkpoints, without a manager or writes: safe beside a running trainer.

The layout is that of checkpoints.py.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import Placement
from ddpm_jax.training.integrity import DamageError, read_record, restore_item
from ddpm_jax.training.workdir_lock import is_held

_FOLDER = "checkpoints"
TRIES = 5
"""How often what reads the newest checkpoint begins again with a newer one."""
_REMOVING = 3.0  # seconds that a trainer may take to remove what is being read


class GoneError(UserError):
    """A checkpoint was removed while it was read, by the process that trains there."""


class DamagedError(UserError):
    """A checkpoint is not what was saved."""


def checkpoints_folder(workdir: str | Path) -> Path:
    """Return the folder that holds, or will hold, the checkpoints of a run."""
    return Path(workdir).expanduser().absolute() / _FOLDER


def all_steps(workdir: str | Path) -> list[int]:
    """List the steps saved in a work directory, oldest first, reading no file.

    Args:
        workdir: folder of the run; need not exist.

    Returns:
        The steps; empty if there are none.

    Raises:
        UserError: the folder cannot be read.
    """
    folder = checkpoints_folder(workdir)
    try:
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}); make it readable."
        ) from error


def latest_step(workdir: str | Path) -> int | None:
    """Return the newest step saved in a work directory, or None.

    Args:
        workdir: folder of the run; need not exist.
    """
    return max(all_steps(workdir), default=None)


def read_metadata(workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """Read the metadata that was saved with a checkpoint.

    Args:
        workdir: folder of the run.
        step: which checkpoint; None means the newest.

    Returns:
        The dictionary given to `save`, as JSON returns it (tuples become lists), and
        the "checksums" of all arrays, by which models of one step are told apart.

    Raises:
        UserError: there is no such checkpoint, or its metadata is damaged.
    """

    def read() -> dict[str, Any]:
        directory = _find(workdir, step)
        try:
            record = read_record(directory)
        except DamageError as error:
            raise _damaged_error(directory, error) from error  # a UserError
        return {**record["metadata"], "checksums": record["checksums"]}

    return read() if step is not None else _with_the_newest(read)


def _with_the_newest(read: Callable[[], Any]) -> Any:
    """Begin again where a trainer has removed what was the newest."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(GoneError):
            return read()
    return read()


def param_shapes(workdir: str | Path, step: int | None) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the averaged parameters of a checkpoint, and no array.

    Args:
        workdir: folder of the run.
        step: which checkpoint; None means the newest.

    Returns:
        The shape of each, by its names joined with "/".

    Raises:
        UserError: there is no such checkpoint, or its metadata is damaged.
    """  # noqa: DOC501 (a function makes the UserError)
    directory = _find(workdir, step)
    try:
        leaves = read_record(directory)["leaves"]["ema_params"]
    except DamageError as error:
        raise _damaged_error(directory, error) from error  # a UserError
    return {name: tuple(shape) for name, (_, shape) in leaves.items()}


def restore_params(
    workdir: str | Path,
    *,
    ema: bool = True,
    step: int | None = None,
    placement: Placement | None = None,
) -> Any:
    """Restore the parameters alone, with no knowledge of model or optimizer.

    Args:
        workdir: folder of the run.
        ema: the exponential moving average, which is what samples should be generated
            with; False gives the raw parameters.
        step: which checkpoint; None means the newest.
        placement: where to put a leaf of a shape; None means the first device.

    Returns:
        Nested dictionaries of arrays, every leaf verified.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    return _restore_tree(workdir, "ema_params" if ema else "params", step, placement)


def restore_profile(
    workdir: str | Path,
    index: int,
    *,
    step: int | None = None,
    placement: Placement | None = None,
) -> Any:
    """Restore one of the further averages alone.

    Args:
        workdir: folder of the run.
        index: position in `TrainState.ema_profiles`.
        step: which checkpoint; None means the newest.
        placement: where to put a leaf of a shape; None means the first device.

    Returns:
        Nested dictionaries of arrays, every leaf verified.

    Raises:
        UserError: there is no such checkpoint or average, or it is damaged.
    """
    return _restore_tree(workdir, f"track_{index}", step, placement)


def _restore_tree(
    workdir: str | Path,
    name: str,
    step: int | None,
    placement: Placement | None,
) -> Any:
    if step is None:
        return _with_the_newest(
            lambda: _restore_tree(workdir, name, _newest(workdir), placement)
        )
    directory = _find(workdir, step)
    try:
        record = read_record(directory)
        if name not in record["leaves"]:
            raise UserError(
                f"checkpoint {directory} has no {name}; it has "
                f"{', '.join(record['leaves'])}."
            )
        leaves = {
            path: jax.ShapeDtypeStruct(
                shape, dtype, sharding=placement and placement(tuple(shape))
            )
            for path, (dtype, shape) in record["leaves"][name].items()
        }
        abstract = traverse_util.unflatten_dict(leaves, sep="/")
        return restore_item(directory, name, abstract, record)
    except DamageError as error:
        raise _damaged_error(directory, error) from error


def _find(workdir: str | Path, step: int | None) -> Path:
    folder = checkpoints_folder(workdir)
    steps = all_steps(workdir)
    if not steps:
        raise UserError(
            f"no checkpoint in {folder}; train there first, or name another run."
        )
    if step is not None and step not in steps:
        raise UserError(
            f"no checkpoint of step {step} in {folder}; "
            f"use one of {', '.join(map(str, steps))}."
        )
    return folder / str(steps[-1] if step is None else step)


def _newest(workdir: str | Path) -> int:
    return int(_find(workdir, None).name)


def _damaged_error(directory: Path, reason: Exception) -> UserError:
    if _is_being_removed(directory):
        return GoneError(
            f"checkpoint {directory} was removed while it was read, by the process "
            "that trains there and keeps the newest few (config.training.keep_last); "
            "give the same command again, or name a step that stays."
        )
    others = [s for s in all_steps(directory.parents[1]) if str(s) != directory.name]
    left = f"left: step {', '.join(map(str, others))}" if others else "no other is left"
    return DamagedError(f"checkpoint {directory} is damaged ({reason}); {left}.")


def _is_being_removed(directory: Path) -> bool:
    """Return whether a checkpoint goes away, as that of a trainer that prunes does."""
    until = time.monotonic() + _REMOVING
    while directory.is_dir():
        if time.monotonic() > until or not is_held(directory.parents[1]):
            return False
        time.sleep(0.05)
    return True
