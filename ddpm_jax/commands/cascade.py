"""Sampling from a cascade: a base model, then super-resolution models."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly
from ddpm_jax.assembly import cascade as of
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.commands.drawing import (
    columns_of,
    format_consistency,
    sample_options,
    sample_request,
    write_forward,
    write_samples,
)
from ddpm_jax.commands.model import Described, Trained, describe_model, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import Cascade, Sample
from ddpm_jax.requests.sample import sample_of
from ddpm_jax.runtime import images
from ddpm_jax.runtime.devices import describe
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.results import finished_result, is_finished, result_folder
from ddpm_jax.sampling.plan import Record, Trajectory, compile_plan, run_batches


@dataclasses.dataclass(frozen=True)
class _Stage:
    """A model of a cascade, and what is asked of it."""

    folder: Path
    recipe: Recipe[Diffusion]
    asked: Sample


def cascade(recipe: Recipe[Diffusion], asked: Cascade, workdir: Path) -> Path:
    """Sample from a cascade, and write what is made.

    Args:
        recipe: of the first model.
        asked: names the others; its `out` may name the folder of the results, which
            else is a numbered one of `cascades/` in the workdir.
        workdir: of the first model.

    Returns:
        The folder that holds them.

    Raises:
        UserError: a workdir holds no model, or the models or options do not fit.
    """
    stages = _stages(recipe, asked, workdir)
    described, members = [], []
    for stage in stages:
        with _named(stage):
            found = describe_model(stage.recipe.task, stage.asked, stage.folder)
            assembly.check_sample(stage.recipe.task, found.info, stage.asked)
            described.append(found)
            members.append(_member(stage, found))
    of.check_cascade([str(stage.folder) for stage in stages], members)
    results = workdir / "cascades"
    out = asked.folder
    done = finished_result(results, _request(stages, described), out)
    if done is not None:
        return done
    opened: list[Trained] = []
    for stage in stages:
        with _named(stage):
            opened.append(open_model(stage.recipe, stage.asked, stage.folder))
    folder = result_folder(results, _request(stages, opened), out)
    if is_finished(folder):  # of an older checkpoint, a newest being damaged
        return folder
    infos = [one.info for one in opened]
    shapes = [f"{info.image_shape[0]}x{info.image_shape[1]}" for info in infos]
    print(
        f"Drawing {asked.num_images} images of {', then '.join(shapes)}, on "
        f"{describe()}:\n"
        + "\n".join(
            f"  {stage.folder}: {trained.described}, {stage.asked.sampler}, "
            f"{assembly.num_steps(stage.recipe.task, stage.asked)} steps"
            for stage, trained in zip(stages, opened, strict=True)
        ),
        flush=True,
    )
    started = time.perf_counter()
    made, trajectory = _sample(
        [_member(*pair) for pair in zip(stages, opened, strict=True)], opened
    )
    seconds = time.perf_counter() - started
    spec, first = recipe.task, stages[0].asked
    record: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "stages": [
            {
                "workdir": str(stage.folder),
                "checkpoint_step": trained.step,
                "parameters": parameters_name(stage.asked),
                "sample": sample_options(stage.asked),
            }
            for stage, trained in zip(stages, opened, strict=True)
        ],
        "seed": assembly.seed_of(spec, asked),
        "device": describe(),
    }
    agree = [
        assembly.consistency(stage.recipe.task, large, small)
        for stage, large, small in zip(stages[1:], made[1:], made, strict=False)
    ]
    for entry, decibels in zip(record["stages"][1:], agree, strict=True):
        entry["consistency_db"] = decibels
    columns = columns_of(spec, infos[0], first)
    sheets = [images.grid(items, columns=columns) for items in made]
    for number, sheet in enumerate(sheets, 1):
        images.save_png(folder / f"stage-{number}.png", sheet)
    images.save_png(folder / "stages.png", _beside(made, asked.film_images))
    write_forward(opened[-1], stages[-1].asked, folder)
    write_samples(opened[0], first, folder, made[-1], trajectory, sheets[-1], record)
    for decibels in agree:
        assert decibels is not None  # a super-resolution stage has it
        print(format_consistency(decibels))
    print(f"{seconds:.1f} s. Pictures: {folder}/grid.png, stages.png, images/")
    return folder


def _stages(recipe: Recipe[Diffusion], asked: Cascade, workdir: Path) -> list[_Stage]:
    """Ask each model for its part."""
    stages = [_Stage(workdir, recipe, sample_of(asked))]
    folders = list(map(Path, of.stage_folders(asked.stages)))
    seed = assembly.seed_of(recipe.task, asked)
    options = of.stage_options(asked, seed, len(folders))
    for folder, given in zip(folders, options, strict=True):
        own = trained_recipe(folder)
        if not isinstance(own.task, Diffusion):
            raise UserError(
                f"{folder} holds a model of kind {own.kind}; a cascade is "
                "made of diffusion models."
            )
        stage = _Stage(folder, own, own.request(Sample, run=str(folder)))
        with _named(stage):
            mine = of.ask_stage(own.task, stage.asked, given, asked)
            mine = assembly.leave_out_idle(own.task, mine, given)
        stages.append(dataclasses.replace(stage, asked=mine))
    return stages


def _member(stage: _Stage, found: Described) -> of.Member:
    spec = stage.recipe.task
    return of.Member(spec, stage.asked, found.info, assembly.model(spec, found.info))


@contextlib.contextmanager
def _named(stage: _Stage) -> Iterator[None]:
    """Say of which workdir it is what does not fit."""
    try:
        yield
    except UserError as error:
        text = str(error)
        if stage.recipe.task.map_name:  # after the first, whose options these are
            for name, (option, _) in of.OF_STAGES.items():
                text = text.replace(f"config.sample.{option}", f"config.cascade.{name}")
        raise UserError(f"{stage.folder}: {text}") from error


def _sample(
    members: Sequence[of.Member], opened: Sequence[Trained]
) -> tuple[list[np.ndarray], Trajectory]:
    """Sample in batches of one size; the images of each stage, the last trajectory."""
    spec, asked, *_ = members[0]
    record, count = Record(asked.film_frames, asked.film_images), asked.num_images
    plan = of.plan_cascade(members)
    with progress(count * len(members)) as bar:
        batches = list(
            run_batches(
                compile_plan(plan, opened[0].mesh, record, by_stage=True),
                tuple(trained.params for trained in opened),
                assembly.sample_key(assembly.seed_of(spec, asked)),
                {"stages": tuple(of.cascade_conds(members))},
                num_rows=count,
                batch_size=min(asked.batch_size, count),
                on_batch=lambda done: bar.update(done * len(members)),
                advice="use less guidance, another sampler, or float32.",
            )
        )
    made = [
        np.concatenate([batch.items for batch in of_stage])
        for of_stage in zip(*batches, strict=True)
    ]
    trajectory = batches[0][-1].trajectory
    assert trajectory is not None  # as it is recorded
    return made, trajectory


def _beside(drawn: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Lay the first images of all stages below each other, in the size of the last."""
    height = drawn[-1].shape[1]
    large = []
    for made in drawn:
        factor = height // made.shape[1]
        large.append(made[:most].repeat(factor, axis=1).repeat(factor, axis=2))
    return images.grid(np.concatenate(large), columns=len(large[0]))


def _request(stages: Sequence[_Stage], found: Sequence[Described]) -> dict[str, Any]:
    """Describe a drawing by all that decides its images, as plain data."""
    return {
        "command": "cascade",
        "stages": [
            {
                "run": str(stage.folder),
                **sample_request(one, stage.asked),
            }
            for stage, one in zip(stages, found, strict=True)
        ],
    }
