"""What a checkpoint says of itself, and what may be asked of it."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax import assembly, specs
from ddpm_jax.assembly import DataInfo, LatentInfo, RunInfo
from ddpm_jax.diffusion.schedules import ScheduleSpec
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe, differences, from_json, to_json
from ddpm_jax.requests import Parameters
from ddpm_jax.runtime import files
from ddpm_jax.training import checkpoints as store

Used = TypeVar("Used")

# What is asked of a model, on which devices, and where its data lie, is no part of the
# model or its run.
FREE_OPTIONS = (
    *("sample.", "edit.", "likelihood.", "evaluate.", "cascade.", "devices."),
    *("data.data_dir", "data.cache", "data.on_device_mb", "network.attention:"),
    # Where it lies; which it is, its fingerprint says.
    *("codec.run", "conditioners.text.run", "conditioners.image_embedding.run"),
)


# Where the same data lie, or how that or their size is spelled; their fingerprint says
# that they are the same.
SPELLING = ("data.source", "data.image_size", "data.pad_to")

# The fingerprint of data that an imported model was trained on elsewhere.
UNKNOWN_DATA = "unknown"
IMPORTED = "imported"  # the key of metadata that says where a model came from


def metadata(recipe: Recipe[Diffusion], info: DataInfo) -> dict[str, Any]:
    """Describe a run so that its parameters can be used with no other knowledge."""
    schedule = recipe.task.schedule
    return {
        "config": to_json(recipe),
        "data": dataclasses.asdict(info),
        "schedule": {
            "name": specs.kind_of(schedule),
            "num_levels": schedule.num_levels,
            "logsnr": _logsnr_probe(schedule),
        },
        "num_devices": jax.device_count(),
        "devices": specs.to_json(recipe.devices),
        "versions": {
            "ddpm_jax": ddpm_jax.__version__,
            **{name: packages.version(name) for name in ("jax", "flax", "optax")},
        },
    }


def _logsnr_probe(schedule: ScheduleSpec) -> list[float]:
    """Sample the schedule's log-SNR at five times from the first to the last but one.

    The very last may be pure noise, whose log-SNR is infinite.
    """
    times = np.linspace(0, schedule.num_levels - 2, 5).round().astype(np.int32)
    return [float(v) for v in schedule.build().at(jnp.asarray(times)).logsnr]


def check_schedule(schedule: ScheduleSpec, about: dict[str, Any]) -> None:
    """Refuse a schedule that is not the one the parameters were trained with."""
    if "schedule" not in about:
        return  # written before it was noted
    trained, now = about["schedule"]["logsnr"], _logsnr_probe(schedule)
    if not np.allclose(trained, now, rtol=1e-4, atol=1e-4):
        raise UserError(
            f"the schedule {specs.kind_of(schedule)!r} has log-SNR {now}, the model "
            f"was trained with {trained}; use the version of ddpm_jax that trained it."
        )


def info_of(about: dict[str, Any]) -> DataInfo:
    """Read back what `metadata` says of the data."""
    stored = about["data"]
    names, of_codec = stored["label_names"], stored.get("chain_shape")
    return DataInfo(
        name=stored["name"],
        # Written as "image_shape" before there were other items.
        item_shape=tuple(stored.get("item_shape") or stored["image_shape"]),
        label_names=None if names is None else tuple(names),
        fingerprint=stored["fingerprint"],
        tokenizer=stored.get("tokenizer", stored.get("reader")),  # its older name
        captions=tuple(stored.get("captions", ())),
        latents=_latents_of(stored.get("latents")),
        dtype=stored.get("dtype", "uint8"),
        chain_shape=None if of_codec is None else tuple(of_codec),
        runs={kind: RunInfo(**one) for kind, one in stored.get("runs", {}).items()},
    )


def _latents_of(stored: dict[str, Any] | None) -> LatentInfo | None:
    if stored is None:  # of pixels, or written before there were others
        return None
    return LatentInfo(**{**stored, "shape": tuple(stored["shape"])})


def free_options(about: dict[str, Any]) -> tuple[str, ...]:
    """List what may be asked of a model, with its data where it does not know them."""
    unknown = about["data"]["fingerprint"] == UNKNOWN_DATA
    return (*FREE_OPTIONS, "data.") if unknown else FREE_OPTIONS


def is_import(workdir: Path) -> bool:
    """Say whether the newest checkpoint is an import, not trained here since."""
    with contextlib.suppress(UserError):  # damaged: then it is dealt with elsewhere
        return IMPORTED in store.read_metadata(workdir)
    return False


def is_whole(workdir: Path, step: int) -> bool:
    """Say whether a checkpoint's parameters, raw and averaged, can be used."""
    try:
        for ema in (True, False):
            store.restore_params(workdir, ema=ema, step=step)
    except UserError:
        return False
    return True


def step_of(asked: Parameters, workdir: Path) -> int:
    """Return the step that is asked for, or else the newest that can be drawn from.

    Raises:
        UserError: if there is none.
    """
    return asked.step if asked.step is not None else usable_step(workdir, ema=asked.ema)


def newest_usable(
    workdir: Path,
    use: Callable[[int], Used],
    report: Callable[[str], None] = files.note,
) -> Used:
    """Do something with the newest checkpoint with which it can be done.

    Args:
        workdir: folder of the run.
        use: of a step, what raises `store.DamagedError` if it reads a damaged one.
        report: called with a line for each newer one that is damaged, or that a trainer
            removed while it was read.

    Returns:
        What `use` returns.

    Raises:
        UserError: every checkpoint is damaged, or there is none.
        GoneError: a trainer removes them faster than they are read.
    """
    for _ in range(store.TRIES):
        steps = store.all_steps(workdir)
        try:
            for step in reversed(steps):
                try:
                    return use(step)
                except store.DamagedError as error:
                    report(str(error))
                except UserError as error:
                    if step in store.all_steps(workdir):
                        raise
                    raise store.GoneError(str(error)) from error
            break
        except store.GoneError as error:
            gone = error
            report(str(error))
    else:
        raise gone
    if not steps:
        store.read_metadata(workdir)  # says where it looked
    raise UserError(
        f"every checkpoint in {workdir} is damaged; restore one from a copy."
    )


def usable_step(
    workdir: Path, report: Callable[[str], None] = files.note, *, ema: bool = True
) -> int:
    """Find the newest checkpoint whose parameters, averaged or raw, are whole.

    Args:
        workdir: folder of the run.
        report: see `newest_usable`.
        ema: whether the averaged ones are meant.

    Raises:
        UserError: if there is none.
    """

    def use(step: int) -> int:
        store.restore_params(workdir, ema=ema, step=step)
        return step

    return newest_usable(workdir, use, report)


def trained_recipe(workdir: Path) -> Recipe:
    """Read the recipe that a workdir's model was trained with, touching no device.

    But not how devices shared it: they are others now.

    Raises:
        UserError: if the workdir holds no model, or one of a newer version.
    """
    stored = any_metadata(workdir)
    return read_recipe(without_devices(stored["config"]), workdir)


def read_recipe(stored: Mapping[str, Any], workdir: Path) -> Recipe:
    """Read the stored recipe of the run in a workdir.

    Raises:
        UserError: it is of another version, which the message names.
    """
    try:
        return from_json(stored)
    except UserError as error:
        versions = any_metadata(workdir).get("versions", {})
        version = versions.get("ddpm_jax", "of another version")
        of_old_form = specs.KIND not in dict(stored.get("data", {}))
        why = "whose configs had another form" if of_old_form else str(error)
        raise UserError(
            f"the model in {workdir} was trained by ddpm_jax {version}, this is "
            f"{ddpm_jax.__version__}: {why.rstrip('.')}; use that version, or train it "
            "again in another --workdir."
        ) from error


def without_devices(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a stored config how many devices shared it: they are others now."""
    return {name: value for name, value in stored.items() if name != "devices"}


def any_metadata(workdir: Path) -> dict[str, Any]:
    """Read the newest metadata that can be read; the config is the same in all."""
    for step in reversed(store.all_steps(workdir)):
        with contextlib.suppress(UserError):
            return store.read_metadata(workdir, step)
    return store.read_metadata(workdir)  # says what is wrong


def _is_same_data(spec: Diffusion, about: dict[str, Any]) -> bool:
    """Say whether the data that a spec names are those a model was trained on."""
    try:
        found = assembly.data_fingerprint(spec.data.open(), spec)
    except UserError:
        return False
    return found == about["data"]["fingerprint"]


def check_same_model(spec: Diffusion, workdir: Path) -> None:
    """Refuse to draw from a model with options other than it was trained with.

    Raises:
        UserError: naming every option that differs.
    """
    stored = any_metadata(workdir)
    assembly.check_latents(spec, info_of(stored))  # says more than which option differs
    of_training = ("preview_steps", "condition_dropout", "init_from")
    free = (*free_options(stored), *of_training)
    changed = [
        line
        for line in differences(trained_recipe(workdir).task, spec)
        if not line.startswith(free)
    ]
    moved = bool(changed) and all(line.startswith(SPELLING) for line in changed)
    if moved and _is_same_data(spec, stored):
        return
    if changed:
        raise UserError(
            f"the model in {workdir} was trained with other options "
            f"({'; '.join(changed)}); only config.sample, config.edit, "
            "config.likelihood and config.evaluate may be changed now."
        )
