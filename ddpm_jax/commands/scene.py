"""Training a scene: a field that looks from all sides as a prior says (DreamFusion).

The run holds the field alone, and shows it: `turntable.gif` and `turntable.webp` have
color, depth and normals side by side. The prior stays where it is; the run remembers
its fingerprint, and goes on with no other.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import assembly
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.idle import refuse_unused
from ddpm_jax.commands import about
from ddpm_jax.commands.fitting import (
    FREE_OPTIONS,
    beginning,
    check_tracker,
    fit_in_workdir,
    refuse_another_config,
)
from ddpm_jax.commands.model import open_model
from ddpm_jax.commands.sample import conditions_of
from ddpm_jax.conditioning.conditioned import encode
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, Diffusion, Recipe, Scene, to_json
from ddpm_jax.requests import Sample
from ddpm_jax.runtime import images
from ddpm_jax.runtime.devices import data_mesh, describe, rows, spread
from ddpm_jax.scenes.cameras import VIEWS, seen_from
from ddpm_jax.scenes.measures import EMPTY, FULL
from ddpm_jax.tasks.scene import scene_task
from ddpm_jax.tasks.views import Distilled, Prior, ViewedModel
from ddpm_jax.training.fit import Feed, Run
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.task import Batch, Task

TURNTABLE = "turntable"
SHOWN = {"num_views": 36, "size": 128}
"""How it pictures a scene."""


class OpenedPrior(NamedTuple):
    """A prior, and which model it is.

    Attributes:
        prior: what the task takes.
        fingerprint: of its parameters.
        described: for a person to read.
    """

    prior: Prior
    fingerprint: str
    described: str


class Begun(NamedTuple):
    """A thing that is about to be trained.

    Attributes:
        task: what `fit` trains.
        fingerprints: of what it follows, by what that is called, such as "prior".
        described: a state of the run -> lines for a person to read.
    """

    task: Task
    fingerprints: Mapping[str, str]
    described: Callable[[TrainState], str]


def scene(recipe: Recipe[Scene], workdir: Path) -> int:
    """Train a scene to the end of its recipe, or go on where it stopped.

    Args:
        recipe: of the scene.
        workdir: of the run.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: prior, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training

    def begin(mesh: Mesh) -> Begun:
        opened = open_prior(spec)

        def described(state: TrainState) -> str:
            size = "x".join(map(str, opened.prior.image_size))
            return (
                f"scene    {spec.prompt!r}, {num_parameters(state):,} parameters, "
                f"{fit.batch_size} views of {size} a step\n"
                f"prior    {opened.described}"
            )

        return Begun(
            scene_task(spec, opened.prior, fit, mesh),
            {"prior": opened.fingerprint},
            described,
        )

    # Where the prior lies is free; which it is, its fingerprint says.
    return train_viewed(recipe, workdir, begin, free=("prior:",))


def num_parameters(state: TrainState) -> int:
    """Count the numbers that are optimized."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def train_viewed(
    recipe: Recipe[Distilled],
    workdir: Path,
    begin: Callable[[Mesh], Begun],
    free: tuple[str, ...],
) -> int:
    """Train a thing by its views, or go on where it stopped, and show it.

    Args:
        recipe: of the thing.
        workdir: of the run.
        begin: the devices -> what is trained.
        free: beginnings of options with another value of which it is the same run.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: what it follows, options or workdir do not fit.
    """
    spec, fit, kind = recipe.task, recipe.training, auxiliary.kind_named(recipe.kind)
    if spec.data != Data():
        raise UserError(
            f"config.data does nothing for a {kind.name}, which learns from its prior; "
            "leave it out, and name a run with --config.prior=RUN."
        )
    auxiliary.refuse_another_kind(workdir, kind.name, kind.the)
    refuse_another_config(recipe, workdir, (*FREE_OPTIONS, "devices.", *free))
    if auxiliary.is_finished(workdir):
        step = auxiliary.about(workdir, kind)["step"]
        print(f"{workdir} is finished: {step} steps. Nothing to do.")
        return 0
    assembly.check_batch(fit)
    refuse_unused(fit, recipe.kind, "ema_stds")
    check_tracker(fit.wandb)
    mesh = data_mesh(recipe.devices.fsdp)
    begun = begin(mesh)

    def announce(state: TrainState) -> None:
        print(
            f"{begun.described(state)}\n"
            f"device   {describe()}\n"
            f"run      {workdir}, step {int(state.step):,} of {fit.num_steps:,}",
            flush=True,
        )

    with beginning(recipe, workdir) as check_alone:
        run = Run(
            workdir=workdir,
            metadata={
                "kind": kind.name,
                "config": to_json(recipe),
                **begun.fingerprints,
                "versions": auxiliary.versions(),
            },
            check=partial(_check_followed, kind.name, begun.fingerprints, workdir),
            announce=announce,
            before_save=check_alone,
            advice="Lower config.training.learning_rate or config.guidance_scale, in "
            "another --workdir.",
        )
        ended = fit_in_workdir(
            recipe, begun.task, feed_views(fit.batch_size, mesh), run=run, mesh=mesh
        )
    if ended.signal_number:
        return 128 + ended.signal_number
    model = spec.open(ended.state.ema_params, ended.result)
    write_turntable(model, workdir)
    print(f"{workdir} is trained. Turntable: {workdir}/{TURNTABLE}.gif, .webp")
    _warn(kind.name, ended.result["opacity"])
    return 0


def _check_followed(
    kind: str,
    followed: Mapping[str, str],
    workdir: Path,
    stored: dict[str, Any],
    step: int,
) -> None:
    for name, now in followed.items():
        if stored[name] != now:
            raise UserError(
                f"the {kind} in {workdir} has followed the {name} {stored[name]} for "
                f"{step} steps, and this is {now}; name that one, or use another "
                "--workdir."
            )


def _warn(kind: str, opacity: float) -> None:
    if not EMPTY <= opacity <= FULL:
        word = "empty" if opacity < EMPTY else "full"
        less = "less --config.entropy" if kind == "scene" else "a lower learning rate"
        print(
            f"The {kind} is {word} (mean opacity {opacity:.3f}): try another "
            f"--config.seed, or {less}."
        )


def feed_views(num_views: int, mesh: Mesh) -> Feed:
    """Make the batches of a scene: the numbers of the views of a step, and its own.

    Args:
        num_views: B, of a step, over all devices.
        mesh: the devices.
    """
    place = rows(mesh)
    view = spread(np.arange(num_views, dtype=np.int32), place)

    def feed(start: int) -> Iterator[Batch]:
        for step in itertools.count(start):
            yield {
                "view": view,
                "step": spread(np.full(num_views, step, np.int32), place),
            }

    return feed


def open_prior(spec: Scene) -> OpenedPrior:
    """Open the prior of a scene, with the prompt as seen from each side.

    Args:
        spec: of the scene.

    Raises:
        UserError: there is none, or it is no model of RGB images, or not one that a
            prompt alone conditions.
    """
    if not spec.prior:
        raise UserError(
            "config.prior='' names no run; give that of a diffusion model of images, "
            "such as runs/solids."
        )
    folder = Path(spec.prior).expanduser()
    recipe = about.trained_recipe(folder)
    if not isinstance(recipe.task, Diffusion):
        raise UserError(
            f"config.prior={spec.prior!r} is of kind {recipe.kind}; name the run of a "
            "diffusion model."
        )
    asked = Sample(
        run=str(folder),
        num_images=len(VIEWS),
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        guidance_scale=spec.guidance_scale,
        clip=False,
    )
    trained = open_model(recipe, asked, folder)
    of_prior, info = recipe.task, trained.info
    _check_images(spec, of_prior, info)
    assembly.check_sample(of_prior, info, asked)
    texts = None
    if of_prior.text is not None:
        texts = [_seen(spec, view) for view in range(len(VIEWS))]
    params = trained.params.network
    cond: Any = conditions_of(trained, asked, params, texts).cond or None
    if cond is not None:
        read_once = jax.jit(partial(encode, trained.unet))
        cond = read_once(params, jax.tree.map(jnp.asarray, cond))
    height, width, _ = info.item_shape
    return OpenedPrior(
        Prior(
            assembly.denoiser(of_prior, asked, trained.unet, params),
            of_prior.schedule.build(),
            (height, width),
            cond,
        ),
        auxiliary.fingerprint(auxiliary.flat_params(params)),
        f"{folder}, {trained.described}",
    )


def _seen(spec: Scene, view: int) -> str:
    return f"{spec.prompt}, {seen_from(view)}" if spec.view_words else spec.prompt


def _check_images(spec: Scene, prior: Diffusion, info: assembly.DataInfo) -> None:
    """Refuse a prior that score distillation of renders cannot use."""
    where = f"config.prior={spec.prior!r}"
    is_rgb = len(info.item_shape) == 3 and info.item_shape[-1] == 3
    if not is_rgb or info.dtype != "uint8" or info.shape != info.item_shape:
        shape = "x".join(map(str, info.item_shape))
        raise UserError(
            f"{where} is a model of {info.dtype} items of {shape}, in a chain of "
            f"{'x'.join(map(str, info.shape))}; name one of RGB images, in pixels."
        )
    others = set(prior.conditioners) - {"text", "self_conditioning"}
    if others:
        raise UserError(
            f"{where} is conditioned on {', '.join(sorted(others))}, which a scene "
            "has not; name a model of text, or an unconditional one."
        )
    if (prior.text is None) == bool(spec.prompt):
        wants = "knows no text" if spec.prompt else "is conditioned on text"
        raise UserError(
            f"{where} {wants}, and config.prompt={spec.prompt!r}; "
            f"{'leave the prompt out' if spec.prompt else 'give a prompt'}."
        )


def write_turntable(model: ViewedModel, folder: Path) -> None:
    """Write color, depth and normals side by side, from all around.

    Args:
        model: a trained scene, or its refinement.
        folder: where to.

    Raises:
        UserError: it cannot be written.
    """
    frames = np.concatenate(model.orbit(**SHOWN), axis=2)
    images.save_animation(folder / TURNTABLE, frames, fps=12.5)
