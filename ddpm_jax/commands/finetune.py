"""Finetuning of an imported model: what may be chosen, and where it begins."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp

from ddpm_jax.assembly import DataInfo
from ddpm_jax.commands import about
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import init_state

# What decides neither the network nor what its output means.
_FREE_OPTIONS = (
    *("seed", "training.", "loss.", "times.", "init_from", "preview_steps"),
    *("condition_dropout", "network.dtype", "network.remat", "network.dropout"),
)


def free_since_import(workdir: Path) -> tuple[str, ...]:
    """List what may be chosen for an imported model that has not been trained here."""
    if not about.is_import(workdir):
        return ()
    return (*_FREE_OPTIONS, *about.free_options(store.read_metadata(workdir)))


def from_import(recipe: Recipe[Diffusion], info: DataInfo, workdir: Path) -> TrainState:
    """Begin at an imported model, whose optimiser starts anew with this recipe.

    Raises:
        UserError: the data are not like those that it was trained on.
    """
    step = store.latest_step(workdir)
    known = about.info_of(store.read_metadata(workdir))
    classes = [len(of.label_names or ()) for of in (known, info)]
    other_classes = "label" in recipe.task.conditioners and classes[0] != classes[1]
    if known.image_shape != info.image_shape or other_classes:
        raise UserError(
            f"the model in {workdir} is made for images of {known.image_shape} and "
            f"{classes[0]} classes, and {info.name} has {info.image_shape} and "
            f"{classes[1]}; use data like those it was trained on."
        )
    state = init_state(
        store.restore_params(workdir, step=step),
        recipe.training.transformation(),
        carry=recipe.task.build_times().init(),
        num_profiles=len(recipe.training.ema_stds),
    )
    return dataclasses.replace(state, step=jnp.asarray(step, state.step.dtype))
