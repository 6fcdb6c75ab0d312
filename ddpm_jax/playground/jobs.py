"""Jobs: one sampling run or edit, step by step, one at a time on the device.

A job is a generator. It computes the next `Progress` when it is advanced, and stops
for good when it is closed: after the steps that are being made, which are about a
second's.
"""

import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import assembly
from ddpm_jax.commands.drawing import columns_of
from ddpm_jax.commands.edit import lay_out, read_pictures
from ddpm_jax.commands.model import Trained
from ddpm_jax.commands.sample import conditions_of
from ddpm_jax.errors import UserError
from ddpm_jax.playground.programs import Programs, keeper
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import Edit, Interpolate, Sample, TextDiff
from ddpm_jax.runtime.batching import filled_up
from ddpm_jax.sampling.parts import Point, run_in_parts
from ddpm_jax.sampling.plan import Plan


class Studio(NamedTuple):
    """A model at work: what all jobs share.

    Attributes:
        recipe: of the model, with what the command line changed.
        workdir: of the model.
        trained: the model.
        programs: keeps what is compiled.
        device: held by the job that computes.
        closing: set when the server ends; jobs then stop.
    """

    recipe: Recipe[Diffusion]
    workdir: Path
    trained: Trained
    programs: Programs
    device: Any
    closing: threading.Event


def open_studio(recipe: Recipe[Diffusion], workdir: Path, trained: Trained) -> Studio:
    """Make the studio of a model."""
    lock, closing = threading.Lock(), threading.Event()
    return Studio(recipe, workdir, trained, keeper(), lock, closing)


class Progress(NamedTuple):
    """How far a job has come.

    Attributes:
        point: of the job's plan.
        columns: images that stand side by side; None for about a square.
        seconds: since the job began to compute.
    """

    point: Point
    columns: int | None
    seconds: float = 0.0


def most_images(recipe: Recipe[Diffusion]) -> int:
    """Return how many images the page samples at a time: one batch of the program's."""
    return recipe.request(Sample).batch_size


def draw(studio: Studio, asked: Sample) -> Generator[Progress, None, None]:
    """Sample what is asked for, as `sample` would, in one batch."""
    spec, info = studio.recipe.task, studio.trained.info
    trained = studio.trained
    cond = conditions_of(trained, asked, trained.params.network).cond
    count = asked.num_images
    indices, given = filled_up((np.arange(count, dtype=np.int32), cond or {}), count)
    plan = assembly.plan_of(studio.trained, asked)
    task = _Task(plan, indices, given, count, columns_of(spec, info, asked))
    return _one_at_a_time(studio, asked, task)


def edit(studio: Studio, asked: Edit) -> Generator[Progress, None, None]:
    """Edit the images that a request names, in one batch.

    Raises:
        UserError: if an image or mask cannot be used, or the options do not fit.
    """
    spec, info = studio.recipe.task, studio.trained.info
    assembly.check_edit(spec, asked, info.image_shape)
    pictures = read_pictures(spec, asked, info)
    columns: int | None
    given, noise, columns = lay_out(spec, asked, info, pictures)
    count = len(noise)
    if count > (most := most_images(studio.recipe)):
        raise UserError(f"{count} images are too many at a time; use 1 to {most}.")
    noise, given = filled_up((noise, given), count)
    plan = assembly.plan_of(studio.trained, asked)
    if not isinstance(asked, Interpolate | TextDiff) and len(pictures) == 1:
        columns = None  # a row would be long and low
    task = _Task(plan, noise, given, count, columns)
    return _one_at_a_time(studio, asked, task)


class _Task(NamedTuple):
    plan: Plan
    indices: np.ndarray  # of the noise, [B]
    given: dict[str, Any]
    num_wanted: int  # images; the rows after them fill up the batch
    columns: int | None


def _one_at_a_time(
    studio: Studio, asked: Sample | Edit, task: _Task
) -> Generator[Progress, None, None]:
    with studio.device:
        yield from _run(studio, asked, task)


def _run(
    studio: Studio, asked: Sample | Edit, task: _Task
) -> Generator[Progress, None, None]:
    trained, began = studio.trained, time.perf_counter()
    spec, batch = studio.recipe.task, len(task.indices)
    for point in run_in_parts(
        task.plan,
        studio.programs(task.plan, spec, asked, batch, trained.mesh),
        trained.params,
        assembly.sample_key(assembly.seed_of(spec, asked)),
        task.indices,
        task.given,
        num_rows=task.num_wanted,
        num_frames=asked.film_frames,
        num_levels=spec.schedule.num_levels,
    ):
        if studio.closing.is_set():
            return
        yield Progress(point, task.columns, time.perf_counter() - began)
