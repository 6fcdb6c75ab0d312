"""Checkpoints: written in the background, verified when read, enough to sample.

Layout of a work directory, one folder a step, each committed by an atomic rename:

    workdir/checkpoints/<step>/params/        raw parameters
                               ema_params/    their exponential moving average
                               optimizer/     {"step", "opt_state"}
                               track_<i>/     a further average, if the run has any
                               memory/        the carried state of its objective, if any
                               metadata/metadata.json
    workdir/checkpoints-damaged/<step>/       set aside when found unreadable, never
                                              deleted

Arrays are stored by Orbax, everything else is JSON; nothing is pickled. The JSON holds
the caller's metadata, the dtype, shape and checksum of every leaf, and a digest of
itself. The checksums are needed: Orbax compares neither the arrays nor its own JSON
with what was saved, and some flipped bits load as other numbers without an error.

Parameters are nested dictionaries with string keys, as Flax makes them.
"""

import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import on_every_host, wait_for_all_hosts
from ddpm_jax.training.checkpoint_reader import (
    TRIES,
    DamagedError,
    GoneError,
    all_steps,
    checkpoints_folder,
    latest_step,
    param_shapes,
    read_metadata,
    restore_params,
    restore_profile,
)
from ddpm_jax.training.integrity import (
    FORMAT,
    METADATA_FILE,
    DamageError,
    check_same_shapes,
    checksums,
    describe,
    first_line,
    read_record,
    restore_item,
    with_digest,
)
from ddpm_jax.training.orbax_logging import keep_quiet
from ddpm_jax.training.state import TrainState

_DAMAGED_FOLDER = "checkpoints-damaged"

__all__ = [
    "TRIES",
    "Checkpoints",
    "DamagedError",
    "GoneError",
    "all_steps",
    "check",
    "latest_step",
    "open_checkpoints",
    "param_shapes",
    "read_metadata",
    "restore_latest",
    "restore_params",
    "restore_profile",
    "save",
]

Checkpoints: TypeAlias = ocp.CheckpointManager


keep_quiet()


def open_checkpoints(
    workdir: str | Path, *, keep_last: int = 3, keep_every: int | None = None
) -> AbstractContextManager[Checkpoints]:
    """Open the checkpoints of a training run for writing, clearing interrupted saves.

    Only the process that trains opens a work directory; readers use `latest_step`,
    `read_metadata` and `restore_params`, which may run beside it.

    Args:
        workdir: folder of the run; created if it does not exist.
        keep_last: how many of the newest checkpoints to keep, at least 1.
        keep_every: also keep every checkpoint whose step is a multiple of this. These
            are the snapshots that `ema.reconstruct` builds on: choose it, a multiple
            of the steps between two checkpoints, so that 8 to 32 are kept in a run.

    Returns:
        A context manager that yields Orbax's; its end waits for the last save, whose
        failure it raises unless another error is on its way.

    Raises:
        UserError: a count is not positive, or `workdir` cannot be written.
    """
    for name, count in (("keep_last", keep_last), ("keep_every", keep_every)):
        if count is not None and count < 1:
            raise UserError(f"{name}={count} keeps no checkpoint; use 1 or more.")
    policies = [preservation_policy.LatestN(keep_last)]
    if keep_every is not None:
        policies.append(preservation_policy.EveryNSteps(keep_every))
    folder = checkpoints_folder(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {folder} ({error.strerror}); choose a workdir that can be "
            "written."
        ) from error
    return _opened(folder, preservation_policy.AnyPreservationPolicy(policies))


@contextlib.contextmanager
def _opened(folder: Path, policy: Any) -> Iterator[Checkpoints]:
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    handlers.add(None, ocp.args.StandardSave, ocp.StandardCheckpointHandler)
    json_handler = ocp.JsonCheckpointHandler(filename=METADATA_FILE)
    handlers.add("metadata", ocp.args.JsonSave, json_handler)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy, cleanup_tmp_directories=True
    )
    with _as_user_error(folder):
        manager = ocp.CheckpointManager(
            folder, options=options, handler_registry=handlers
        )
    try:
        yield manager
    except BaseException:
        with contextlib.suppress(Exception):  # it would mask the first error
            manager.close()
        raise
    with _as_user_error(folder):
        manager.close()


def check(checkpoints: Checkpoints) -> None:
    """Raise the failure of a save in the background as soon as it is known.

    To be called between steps; it waits for nothing. Of several hosts, which would
    learn of it at different steps, none is called before the next save.

    Raises:
        UserError: the last save could not be written.
    """
    if jax.process_count() == 1 and not checkpoints.is_saving_in_progress():
        _finish(checkpoints)


def save(
    checkpoints: Checkpoints,
    state: TrainState,
    metadata: Mapping[str, Any],
    *,
    wait: bool = False,
) -> None:
    """Save a state under its own step; do nothing if that step is already saved.

    Returns once the arrays are copied out of the devices, so that the state may be
    donated to the next training step; the files are written in the background. An
    earlier save still under way is waited for first, and its failure raised here.

    Args:
        checkpoints: from `open_checkpoints`.
        state: the training state; every leaf an array.
        metadata: whatever JSON can hold: configuration, data fingerprint, versions.
        wait: return only when the checkpoint is on disk.

    Raises:
        UserError: the previous save (with `wait`, this save) could not be written.
        TypeError: `metadata` holds something that JSON cannot.
    """
    _finish(checkpoints)
    step = int(state.step)
    if step in checkpoints.all_steps():
        return
    items = _items(state)
    record = with_digest(
        {
            "format": FORMAT,
            "step": step,
            "metadata": dict(metadata),
            "leaves": {name: describe(tree) for name, tree in items.items()},
            "checksums": {name: checksums(tree) for name, tree in items.items()},
        }
    )
    arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    with _as_user_error(Path(checkpoints.directory)):
        checkpoints.save(
            step,
            args=ocp.args.Composite(metadata=ocp.args.JsonSave(record), **arrays),
            force=True,
        )
    if wait:
        _finish(checkpoints)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def restore_latest(
    checkpoints: Checkpoints,
    abstract_state: TrainState,
    *,
    report: Callable[[str], None] = _to_stderr,
) -> tuple[TrainState, int, dict[str, Any]] | None:
    """Restore the newest checkpoint that is whole, and verify every leaf of it.

    A newer checkpoint that is damaged is reported and set aside in
    `workdir/checkpoints-damaged/<step>`, so that training may save that step again. If
    none is whole, nothing is moved: a second attempt must not start from nothing.

    Args:
        checkpoints: from `open_checkpoints`.
        abstract_state: a state, or one of `jax.ShapeDtypeStruct`; leaves with a
            sharding are placed by it, the others on the first device.
        report: called with one line for each damaged checkpoint.

    Returns:
        `(state, step, metadata)`, or None if no checkpoint was ever saved.

    Raises:
        UserError: all checkpoints are damaged, or the newest readable one holds other
            shapes than `abstract_state` (another model or optimizer).
    """
    _finish(checkpoints)
    folder = Path(checkpoints.directory)
    damaged: dict[int, str] = {}
    for step in sorted(checkpoints.all_steps(), reverse=True):
        try:
            state, metadata = _restore_state(folder / str(step), abstract_state)
        except DamageError as error:
            damaged[step] = str(error)
            continue
        for bad, reason in damaged.items():
            place = _set_aside(folder / str(bad))
            report(  # lines of all hosts but the first go nowhere
                f"checkpoint {folder / str(bad)} is damaged ({reason}); "
                f"moved to {place}, continuing from step {step}."
            )
        if damaged:
            checkpoints.reload()
        return state, step, metadata
    if damaged:
        each = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
        raise UserError(
            f"every checkpoint in {folder} is damaged ({each}); restore one from a "
            "copy, or start again in another workdir."
        )
    return None


def _finish(checkpoints: Checkpoints) -> None:
    """Wait for the save under way; turn its failure into an error a user can read."""
    with _as_user_error(Path(checkpoints.directory)):
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def _as_user_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # Orbax lets through whatever its parts raise
        reason, full = _reason(error)
        what = (
            "make room there or choose another workdir; nothing of what was saved "
            "before is lost"
            if full
            else "make it writable, or choose another workdir"
        )
        raise UserError(
            f"could not write a checkpoint to {folder} ({reason}); {what}."
        ) from error


_FULL = [os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
_CLOSED = [os.strerror(n) for n in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)]


def _reason(error: BaseException) -> tuple[str, bool]:
    """Extract the system's message of an error, and whether it means a full disk."""
    chain: BaseException | None = error
    while chain is not None:
        for words in (*_FULL, *_CLOSED):
            if words in str(chain):
                return words, words in _FULL
        chain = chain.__cause__ or chain.__context__
    # TensorStore's word for it, where the system's is not passed on.
    return first_line(error), "RESOURCE_EXHAUSTED" in str(error)


def _items(state: TrainState) -> dict[str, Any]:
    # The step stands with the optimizer, which may itself be without any array.
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    items = {
        "params": state.params,
        "ema_params": state.ema_params,
        "optimizer": optimizer,
    }
    # One item for each EMA: an average is built from one of them at a time. These, and
    # the carry, have older names on disk.
    items |= {f"track_{i}": tree for i, tree in enumerate(state.ema_profiles)}
    if jax.tree.leaves(state.carry):  # Orbax stores no tree without arrays
        items["memory"] = {"memory": state.carry}
    return items


def _restore_state(
    directory: Path, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    record = read_record(directory)
    wanted = _items(abstract_state)
    for name in {**wanted, **record["leaves"]}:
        saved, here = record["leaves"].get(name, {}), describe(wanted.get(name, {}))
        check_same_shapes(directory, name, saved, here)
    items = {
        name: restore_item(directory, name, tree, record)
        for name, tree in wanted.items()
    }
    state = dataclasses.replace(
        abstract_state,
        params=items["params"],
        ema_params=items["ema_params"],
        ema_profiles=tuple(
            items[f"track_{i}"] for i in range(len(abstract_state.ema_profiles))
        ),
        carry=items.get("memory", {"memory": abstract_state.carry})["memory"],
        **items["optimizer"],
    )
    return state, record["metadata"]


def _set_aside(directory: Path) -> Path:
    folder = directory.parents[1] / _DAMAGED_FOLDER
    place, copy = folder / directory.name, 0
    while place.exists():
        copy += 1
        place = folder / f"{directory.name}-{copy}"
    wait_for_all_hosts(f"a name for {directory}")
    reason = ""
    if jax.process_index() == 0:
        try:
            folder.mkdir(exist_ok=True)
            directory.rename(place)
        except OSError as error:
            reason = f" ({error.strerror or error})"
    if not on_every_host(not reason):
        raise UserError(
            f"checkpoint {directory} is damaged and cannot be moved to {folder}"
            f"{reason}; move it away yourself, or what is in the place of that folder."
        )
    return place
