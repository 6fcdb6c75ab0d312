"""A recipe made of a run: the same model, trained on for another number of steps."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddpm_jax import assembly
from ddpm_jax.assembly.auxiliary import DIFFUSION
from ddpm_jax.commands import about
from ddpm_jax.commands.begin import source_of
from ddpm_jax.conditioning.jump import Jump
from ddpm_jax.diffusion.few_steps import JUMP, FewStepSpec, MeanFlow
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Fit, Recipe
from ddpm_jax.training import checkpoints as store

# Defaults of samples that say nothing of how a chain is run.
_KEPT = ("num_images", "batch_size", "film_frames", "film_images", "clip")
_WARMUP = 0.05  # of the run, at the most


def tuned(
    run: str,
    loss: FewStepSpec | Callable[[Diffusion], FewStepSpec],
    *,
    training: Mapping[str, Any] | None = None,
    sample: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Recipe[Diffusion]:
    """Compose the recipe that tunes the diffusion model of a run to few steps.

    The model stays what it is, but for its loss, and for eps, which becomes v or flow,
    and a learned variance, which goes: a chain of few steps has no use for it.
    It is trained for as many steps as the run was, and as fast. The gradient is not
    clipped: the stages of a loss have norms of different orders of magnitude.

    Args:
        run: its workdir, or WORKDIR@STEP.
        loss: that makes it a model of few steps; or a function of what the run is of.
        training: further changes to how the run was trained, fields of `Fit`.
        sample: defaults of samples, such as their number of steps; others are as in the
            run, but for how a chain is run.
        changes: further changes to the model, fields of `Diffusion`.

    Raises:
        UserError: there is no such run, or it is not of a diffusion model.
    """
    source = source_of(run)
    if not run:
        raise UserError(
            "this recipe tunes a run, and none is named; give one, as in "
            "--config=configs/tune.py:runs/digits."
        )
    before = _diffusion(source.workdir)
    task = assembly.with_copies(before.task, source.workdir)
    made = loss if isinstance(loss, FewStepSpec) else loss(task)
    if isinstance(made, MeanFlow):
        conditioners = {**task.conditioners, JUMP: Jump()}
        changes = {"conditioners": conditioners, **changes}
    prediction = task.velocity if task.prediction == "eps" else task.prediction
    if task.learns_variance:
        changes = {"variance": "small", **changes}
    task = dataclasses.replace(
        task,
        **{"loss": made, "prediction": prediction, "init_from": run, **changes},
    )
    old = before.defaults["sample"]
    kept = {name: getattr(old, name) for name in _KEPT}
    defaults = {**before.defaults, "sample": type(old)(**(kept | dict(sample or {})))}
    fit = _training(before.training, training or {})
    return Recipe(task, fit, before.devices, defaults)


def _training(before: Fit, changes: Mapping[str, Any]) -> Fit:
    warmup = min(before.warmup_steps, int(_WARMUP * before.num_steps))
    own: dict[str, Any] = {
        "warmup_steps": warmup,
        "max_grad_norm": 0.0,
        "restarts": (),
    }
    return dataclasses.replace(before, **(own | dict(changes)))


def _diffusion(workdir: Path) -> Recipe[Diffusion]:
    """Read the recipe of a run, and refuse what is no trained diffusion model."""
    kind = None
    if store.all_steps(workdir):
        kind = about.any_metadata(workdir).get("kind", DIFFUSION)
    if kind is None:
        raise UserError(
            f"{workdir} holds no checkpoint of a run; train a diffusion model there "
            "first, or import one, and then tune it."
        )
    if kind != DIFFUSION:
        raise UserError(
            f"{workdir} holds a model of kind {kind}, which samples in one step or not "
            "at all; name the run of a diffusion model."
        )
    return about.trained_recipe(workdir)
