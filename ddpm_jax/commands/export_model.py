"""Exporting: a trained model in the layout that Hugging Face diffusers loads."""

import dataclasses
import sys
from pathlib import Path

from ml_collections import ConfigDict

from ddpm_jax import assembly
from ddpm_jax.commands.import_model import RECORD, settings_of
from ddpm_jax.commands.model import find_model
from ddpm_jax.commands.parameters import load_parameters
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import to_json
from ddpm_jax.runtime import files
from ddpm_jax.weights import diffusers


def export_model(cfg: ConfigDict, workdir: Path, folder: Path) -> None:
    """Write the model of a workdir as a DDPMPipeline that diffusers loads.

    Which parameters, and of which step, `config.sample` says, as in drawing.

    Args:
        cfg: its config, and what to write of it.
        workdir: folder of the run.
        folder: where to; new or empty.

    Raises:
        UserError: naming what diffusers cannot express; or the folder is taken.
    """
    if (folder / diffusers.INDEX).exists() or diffusers.is_folder(folder):
        raise UserError(f"{folder} holds a model already; use another folder.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds files already" if folder.is_dir() else "is a file"
        raise UserError(f"{folder} {what}; use a new or an empty folder.")
    assembly.refuse_latents(cfg, "a DDPMPipeline")
    found = find_model(cfg, workdir)
    step, info = found.step, found.info
    network, scheduler = settings_of(cfg, info)
    params, which = load_parameters(
        cfg, workdir, step, report=lambda line: print(line, file=sys.stderr)
    )
    record = {
        "config": to_json(cfg),
        "data": dataclasses.asdict(info),
        "step": step,
        "parameters": which,
    }
    files.write_json(folder / RECORD, record)
    diffusers.write(
        folder,
        params,
        num_levels=len(cfg.network.channel_multipliers),
        unet_config=network,
        scheduler_config=scheduler,
    )
    classes = assembly.num_classes(cfg, info)
    if classes is not None:
        print(
            f"note: the network wants class_labels from 0 to {classes - 1}, or "
            f"{classes} for none; DDPMPipeline itself gives no labels.",
            file=sys.stderr,
        )
    print(
        f"{folder} holds the {which} parameters of step {step:,}. Load it with "
        f'diffusers.DDPMPipeline.from_pretrained("{folder}").'
    )
