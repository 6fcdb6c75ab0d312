"""What is checked of a diffusion run before it starts, or goes on."""

from pathlib import Path
from typing import Any

import jax

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.commands import about
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import Evaluate, Likelihood, Sample
from ddpm_jax.runtime import files


def check_defaults(recipe: Recipe[Diffusion], info: DataInfo) -> Sample:
    """Refuse defaults of requests that cannot be, before any compile.

    Args:
        recipe: of the run.
        info: its data.

    Returns:
        What the run samples at its end.

    Raises:
        UserError: for the first rule that does not hold.
    """
    compared = recipe.request(Evaluate)
    # What samples do not look at, sets that are compared may: guidance at other scales.
    asked = assembly.leave_out_idle(
        recipe.task,
        recipe.request(Sample),
        given=assembly.idle_fields(recipe.task, compared),
    )
    assembly.check_sample(recipe.task, info, asked)
    for section, batch_size in {
        "evaluate": compared.feature_batch_size,
        "likelihood": recipe.request(Likelihood).batch_size,
    }.items():
        assembly.check_batch_memory(section, batch_size, info.item_shape)
    return asked


def check_resumed(
    recipe: Recipe[Diffusion],
    info: DataInfo,
    workdir: Path,
    stored: dict[str, Any],
    step: int,
) -> None:
    """Refuse to go on with other data or in other latents; note other devices.

    Args:
        recipe: of now.
        info: of the data of now.
        workdir: of the run.
        stored: metadata of the checkpoint.
        step: its step.

    Raises:
        UserError: the data, or the autoencoder, are not those of the run so far.
    """
    was, now = stored["data"]["fingerprint"], info.fingerprint
    if was != now:
        raise UserError(
            f"the data of this run have changed since step {step} (fingerprint {was}, "
            f"now {now}); restore them, or use another --workdir."
        )
    if about.info_of(stored).latents != info.latents:
        raise UserError(
            f"the autoencoder of the run in {workdir} has changed since step "
            f"{step}; restore it, or use another --workdir."
        )
    _note_devices(stored, recipe.devices.fsdp)


def _note_devices(stored: dict[str, Any], now_fsdp: int) -> None:
    """Note that other devices round in another way; older runs did not keep count."""
    now = (jax.device_count(), now_fsdp)
    before = (
        stored.get("num_devices", now[0]),
        stored.get("devices", {}).get("fsdp", 1),
    )
    if before != now:
        was, is_now = (
            f"{count} device(s)" + (f" (fsdp={fsdp})" if fsdp > 1 else "")
            for count, fsdp in (before, now)
        )
        files.note(
            f"{was} so far, {is_now} now; sums over a batch are rounded in another "
            "order from here on."
        )
