"""Training a task of a kind that only its own file knows."""

import json
from pathlib import Path

from ddpm_jax import assembly, data
from ddpm_jax.assembly import auxiliary
from ddpm_jax.commands.fitting import already_finished, fit_auxiliary
from ddpm_jax.commands.look import open_to_train
from ddpm_jax.recipe import Recipe
from ddpm_jax.runtime.devices import data_mesh


def task(recipe: Recipe, workdir: Path) -> int:
    """Train a task to the end of its recipe, or go on where it stopped.

    Args:
        recipe: of any registered task.
        workdir: of the run.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training
    source = open_to_train(spec.data, workdir, look=True)
    assembly.check_batch(fit)
    mesh, kind = data_mesh(recipe.devices.fsdp), auxiliary.kind_named(recipe.kind)
    found = already_finished(recipe, workdir, kind, source.fingerprint)
    if found is not None:
        print(f"{workdir} is finished: {found['step']} steps. Nothing to do.")
        return 0
    built, ready = spec.build(source, fit, mesh), data.ready(source)
    ended = fit_auxiliary(recipe, workdir, kind, built, ready, source.fingerprint)
    if ended.signal_number:
        return 128 + ended.signal_number
    facts = json.dumps(ended.result) if ended.result else "nothing"
    print(f"{workdir} is trained; it has found {facts}.")
    return 0
