"""Jobs: one sampling run or edit, step by step, one at a time on the device.

A job is a generator. It computes while it is asked for the next `Progress`, and stops
for good when it is closed: after the steps that are being made, which are about a
second's.
"""

import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import build
from ddpm_jax.commands.drawing import columns_of
from ddpm_jax.commands.edit import lay_out, read_pictures
from ddpm_jax.commands.model import Trained
from ddpm_jax.diffusion.samplers import State
from ddpm_jax.errors import UserError
from ddpm_jax.playground.programs import Program, Programs, Seen, keeper, padded
from ddpm_jax.runtime.devices import gathered, round_up
from ddpm_jax.sampling.batches import Film

_PATIENCE = 0.5  # seconds that a part of the chain should take, at most


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
        leg: stage that is being run, from 0.
        num_legs: stages of the job.
        step: steps made of this stage.
        num_steps: steps of this stage.
        columns: images that stand side by side; None for about a square.
        seconds: since the job began to compute.
        film: trajectory of this stage, as far as it goes: K frames x_t and K - 1 of x0,
            each uint8 [B, H, W, C].
        shown: uint8 [B, H, W, C], what the model was given; None before the end.
        images: uint8 [B, H, W, C], the result; None before the end.
    """

    leg: int
    num_legs: int
    step: int
    num_steps: int
    columns: int | None
    seconds: float = 0.0
    film: Film = Film((), ())
    shown: np.ndarray | None = None
    images: np.ndarray | None = None


def most_images(cfg: ConfigDict) -> int:
    """Return how many images the page samples at a time: one batch of the program's."""
    return cfg.sample.batch_size


def draw(studio: Studio, cfg: ConfigDict) -> Generator[Progress, None, None]:
    """Draw `cfg.sample.num_images`, as `sample` would, in one batch."""
    info = studio.trained.info
    cond = build.sample_cond(cfg, info)
    count = cfg.sample.num_images
    indices = np.arange(round_up(count), dtype=np.int32)
    known = np.minimum(indices, count - 1)
    given = jax.tree.map(lambda leaf: leaf[known], cond or {})
    legs = build.sampling_legs(cfg, studio.trained.unet, studio.trained.codec)
    task = _Task("sample", legs, indices, given, count, columns_of(cfg, info))
    return _one_at_a_time(studio, cfg, task)


def edit(studio: Studio, mode: str, cfg: ConfigDict) -> Generator[Progress, None, None]:
    """Run an editing mode on the images of `cfg.edit`, in one batch.

    Raises:
        UserError: if an image or mask cannot be used, or the options do not fit.
    """
    info = studio.trained.info
    build.check_edit(cfg, mode, info.image_shape)
    pictures = read_pictures(mode, cfg, info)
    columns: int | None
    given, noise, columns = lay_out(mode, cfg, info, pictures)
    count = len(noise)
    if count > (most := most_images(cfg)):
        raise UserError(f"{count} images are too many at a time; use 1 to {most}.")
    index = np.minimum(np.arange(round_up(count)), count - 1)
    given = jax.tree.map(lambda leaf: leaf[index], given)
    legs = build.edit_legs(cfg, mode, studio.trained.unet, studio.trained.codec)
    if mode != "interpolate" and len(pictures) == 1:
        columns = None  # a row would be long and low
    task = _Task(mode, legs, noise[index], given, count, columns)
    return _one_at_a_time(studio, cfg, task)


class _Task(NamedTuple):
    mode: str
    legs: tuple[build.Leg, ...]
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
    programs = studio.programs(task.mode, task.legs, cfg, batch, trained.mesh)
    given = dict(task.given)
    for number, (leg, program) in enumerate(zip(task.legs, programs, strict=True)):
        num_steps = len(leg.levels.alpha) - 1
        levels = padded(leg.levels, cfg.diffusion.num_levels)
        start = (trained.params, build.sample_key(cfg), task.indices, given, levels)
        now = Progress(number, len(task.legs), 0, num_steps, task.columns)
        yield now
        state, x_init, shown = program.begin(*start)
        now = now._replace(film=Film((_rows(x_init, task),), ()))
        ends = stops(num_steps, cfg.sample.film_frames)
        for here in _walk(program, start, state, ends):
            if studio.closing.is_set():
                return
            if here.step in ends:
                now = now._replace(film=_longer(now.film, here.seen, task))
            yield now._replace(step=here.step, seconds=time.perf_counter() - began)
        x, pixels, finite = program.finish(*start, here.state)
        if not gathered(finite)[: task.num_wanted].all():
            raise UserError(
                "an image is not finite; use less guidance or weight, another sampler, "
                "or float32."
            )
        given[leg.makes] = x
    yield now._replace(
        step=num_steps,
        seconds=time.perf_counter() - began,
        shown=_rows(shown, task),
        images=_rows(pixels, task),
    )


def _rows(array: jax.Array, task: _Task) -> np.ndarray:
    return gathered(array)[: task.num_wanted]


def _longer(film: Film, seen: Seen, task: _Task) -> Film:
    return Film((*film.x_t, _rows(seen.x, task)), (*film.x0, _rows(seen.x0, task)))


def stops(num_steps: int, film_frames: int) -> list[int]:
    """Count the steps after which a frame is kept: those of `generate`'s records."""
    kept = min(film_frames - 1, num_steps)
    return [-(-(k + 1) * num_steps // kept) for k in range(kept)]


class _Here(NamedTuple):
    step: int  # steps made
    state: State  # after them
    seen: Seen  # of the last of them


def _walk(
    program: Program, start: tuple, state: State, stops: list[int]
) -> Iterator[_Here]:
    """Make all steps, a part at a time: to the next stop, if that is not too far."""
    done, most = 0, 1
    for stop in stops:
        while done < stop:
            began, count = time.perf_counter(), min(most, stop - done)
            state, seen = program.advance(*start, state, done, done + count)
            jax.block_until_ready(seen)
            if done > 0:  # the first part waited for the compiler
                seconds = (time.perf_counter() - began) / count
                most = max(1, int(_PATIENCE / seconds))
            done += count
            yield _Here(done, state, seen)
