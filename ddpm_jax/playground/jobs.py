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
from ml_collections import ConfigDict

from ddpm_jax import assembly
from ddpm_jax.commands.drawing import columns_of
from ddpm_jax.commands.edit import lay_out, read_pictures
from ddpm_jax.commands.model import Trained
from ddpm_jax.errors import UserError
from ddpm_jax.playground.programs import Programs, keeper
from ddpm_jax.runtime.batching import filled_up
from ddpm_jax.sampling.parts import Point, run_in_parts
from ddpm_jax.sampling.plan import Plan


class Studio(NamedTuple):
    """A model at work: what all jobs share.

    Attributes:
        cfg: of the model, with what the command line changed.
        workdir: of the model.
        trained: the model.
        programs: keeps what is compiled.
        device: held by the job that computes.
        closing: set when the server ends; jobs then stop.
    """

    cfg: ConfigDict
    workdir: Path
    trained: Trained
    programs: Programs
    device: Any
    closing: threading.Event


def open_studio(cfg: ConfigDict, workdir: Path, trained: Trained) -> Studio:
    """Make the studio of a model."""
    return Studio(cfg, workdir, trained, keeper(), threading.Lock(), threading.Event())


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


def most_images(cfg: ConfigDict) -> int:
    """Return how many images the page samples at a time: one batch of the program's."""
    return cfg.sample.batch_size


def draw(studio: Studio, cfg: ConfigDict) -> Generator[Progress, None, None]:
    """Sample `cfg.sample.num_images`, as `sample` would, in one batch."""
    info = studio.trained.info
    cond = assembly.sample_cond(cfg, info)
    count = cfg.sample.num_images
    indices, given = filled_up((np.arange(count, dtype=np.int32), cond or {}), count)
    plan = assembly.sampling_plan(cfg, studio.trained.unet, studio.trained.codec)
    task = _Task("sample", plan, indices, given, count, columns_of(cfg, info))
    return _one_at_a_time(studio, cfg, task)


def edit(studio: Studio, mode: str, cfg: ConfigDict) -> Generator[Progress, None, None]:
    """Run an editing mode on the images of `cfg.edit`, in one batch.

    Raises:
        UserError: if an image or mask cannot be used, or the options do not fit.
    """
    info = studio.trained.info
    assembly.check_edit(cfg, mode, info.image_shape)
    pictures = read_pictures(mode, cfg, info)
    columns: int | None
    given, noise, columns = lay_out(mode, cfg, info, pictures)
    count = len(noise)
    if count > (most := most_images(cfg)):
        raise UserError(f"{count} images are too many at a time; use 1 to {most}.")
    noise, given = filled_up((noise, given), count)
    plan = assembly.plan_edit(cfg, mode, studio.trained.unet, studio.trained.codec)
    if mode != "interpolate" and len(pictures) == 1:
        columns = None  # a row would be long and low
    task = _Task(mode, plan, noise, given, count, columns)
    return _one_at_a_time(studio, cfg, task)


class _Task(NamedTuple):
    mode: str
    plan: Plan
    indices: np.ndarray  # of the noise, [B]
    given: dict[str, Any]
    num_wanted: int  # images; the rows after them fill up the batch
    columns: int | None


def _one_at_a_time(
    studio: Studio, cfg: ConfigDict, task: _Task
) -> Generator[Progress, None, None]:
    with studio.device:
        yield from _run(studio, cfg, task)


def _run(
    studio: Studio, cfg: ConfigDict, task: _Task
) -> Generator[Progress, None, None]:
    trained, began = studio.trained, time.perf_counter()
    batch = len(task.indices)
    for point in run_in_parts(
        task.plan,
        studio.programs(task.mode, task.plan, cfg, batch, trained.mesh),
        trained.params,
        assembly.sample_key(cfg),
        task.indices,
        task.given,
        num_rows=task.num_wanted,
        num_frames=cfg.sample.film_frames,
        num_levels=cfg.schedule.num_levels,
    ):
        if studio.closing.is_set():
            return
        yield Progress(point, task.columns, time.perf_counter() - began)
