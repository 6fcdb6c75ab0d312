"""What a diffusion run is made of, and the state with which it starts or goes on."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.codecs import Codec
from ddpm_jax.commands import about
from ddpm_jax.commands.finetune import from_import
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import Evaluate, Likelihood, Sample
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.task import Task


@dataclasses.dataclass(frozen=True)
class Model:
    """The parts of a run that do not change while it trains."""

    recipe: Recipe[Diffusion]
    info: DataInfo
    workdir: Path
    unet: Conditioned
    codec: Codec
    mesh: Mesh

    def task(
        self, preview: Callable[[TrainState], Mapping[str, np.ndarray]] | None
    ) -> Task:
        """Compose its task, with previews while it trains."""
        spec, fit = self.recipe.task, self.recipe.training
        return assembly.diffusion_task(
            spec, fit, self.unet, self.info, self.mesh, preview
        )


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


def plan(recipe: Recipe[Diffusion], info: DataInfo, workdir: Path, mesh: Mesh) -> Model:
    """Build the parts of a run, computing nothing."""
    unet = assembly.model(recipe.task, info)
    codec = assembly.codec(recipe.task, info, workdir)
    return Model(recipe, info, workdir, unet, codec, mesh)


def begin(model: Model) -> TrainState | None:
    """Return the state of an imported model that is trained here first, else None."""
    if not about.is_import(model.workdir):
        return None
    return from_import(model.recipe, model.info, model.workdir)


def check_resumed(model: Model, stored: dict[str, Any], step: int) -> None:
    """Refuse to go on with other data or in other latents; note other devices.

    Args:
        model: of now.
        stored: metadata of the checkpoint.
        step: its step.

    Raises:
        UserError: the data, or the autoencoder, are not those of the run so far.
    """
    was, now = stored["data"]["fingerprint"], model.info.fingerprint
    if was != now:
        raise UserError(
            f"the data of this run have changed since step {step} (fingerprint {was}, "
            f"now {now}); restore them, or use another --workdir."
        )
    if about.info_of(stored).latents != model.info.latents:
        raise UserError(
            f"the autoencoder of the run in {model.workdir} has changed since step "
            f"{step}; restore it, or use another --workdir."
        )
    _note_devices(stored, model.recipe.devices.fsdp)


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
        print(
            f"note: {was} so far, {is_now} now; sums over a batch are rounded in "
            "another order from here on.",
            file=sys.stderr,
        )
