"""Finetuning of an imported model: what may be chosen, and where it begins."""

from pathlib import Path

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.commands import about
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.state import TrainState

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


def from_import(
    recipe: Recipe[Diffusion], info: DataInfo, workdir: Path
) -> TrainState | None:
    """Begin at an imported model, whose optimiser starts anew with this recipe.

    Args:
        recipe: of now.
        info: of the data of now.
        workdir: of the run.

    Returns:
        The state; None if the workdir holds no import that is trained here first.

    Raises:
        UserError: the data are not like those that it was trained on.
    """
    if not about.is_import(workdir):
        return None
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
    params = store.restore_params(workdir, step=step)
    return assembly.start_state(recipe.task, recipe.training, params, step or 0)
