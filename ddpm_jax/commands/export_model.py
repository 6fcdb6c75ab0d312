"""Exporting: a trained model in the layout that Hugging Face diffusers loads."""

import dataclasses
from pathlib import Path

from ddpm_jax import assembly
from ddpm_jax.commands.import_model import RECORD, settings_of
from ddpm_jax.commands.model import find_model
from ddpm_jax.commands.parameters import load_parameters
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe, UNet, to_json
from ddpm_jax.requests import Export
from ddpm_jax.runtime import files
from ddpm_jax.weights import diffusers


def export_model(recipe: Recipe[Diffusion], asked: Export, workdir: Path) -> None:
    """Write the model of a workdir as a DDPMPipeline that diffusers loads.

    Args:
        recipe: of the model.
        asked: which parameters, and where to: a new or an empty folder.
        workdir: folder of the run.

    Raises:
        UserError: naming what diffusers cannot express; or the folder is taken.
    """
    spec, folder = recipe.task, Path(asked.to)
    if (folder / diffusers.INDEX).exists() or diffusers.is_folder(folder):
        raise UserError(f"{folder} holds a model already; use another folder.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds files already" if folder.is_dir() else "is a file"
        raise UserError(f"{folder} {what}; use a new or an empty folder.")
    assembly.refuse_latents(spec, "a DDPMPipeline")
    found = find_model(spec, asked, workdir)
    step, info = found.step, found.info
    network, scheduler = settings_of(recipe, info)
    assert isinstance(spec.network, UNet)  # as diffusers has no other
    params, which = load_parameters(asked, workdir, step)
    record = {
        "config": to_json(recipe),
        "data": dataclasses.asdict(info),
        "step": step,
        "parameters": which,
    }
    files.write_json(folder / RECORD, record)
    diffusers.write(
        folder,
        params,
        num_levels=len(spec.network.channel_multipliers),
        unet_config=network,
        scheduler_config=scheduler,
    )
    classes = assembly.num_classes(spec, info)
    if classes is not None:
        files.note(
            f"the network wants class_labels from 0 to {classes - 1}, or {classes} for "
            "none; DDPMPipeline itself gives no labels."
        )
    print(
        f"{folder} holds the {which} parameters of step {step:,}. Load it with "
        f'diffusers.DDPMPipeline.from_pretrained("{folder}").'
    )
