"""Scores of images against real ones, however often the work is interrupted.

workdir/evaluation/
    0001/                   the images: request.json, samples.npz, grid.png
        FEATURES/           what a network saw: features.npz, statistics.npz
            scores_REFERENCE.json
            neighbours.png  images beside their nearest neighbours in the reference
    evaluation.json         all rows
    over-training-steps.png, over-sampling-steps.png, over-guidance.png
workdir/results.md          all rows, as tables

What is there already is not computed again.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np

import ddpm_jax
from ddpm_jax import assembly, data
from ddpm_jax.commands import likelihood_files, report
from ddpm_jax.commands.about import step_of
from ddpm_jax.commands.evaluator import (
    Evaluator,
    check_set,
    make_evaluator,
    open_target,
)
from ddpm_jax.commands.extraction import folder_name
from ddpm_jax.commands.image_sets import (
    ImageSet,
    Interrupted,
    drawn_set,
    given_set,
    reconstructed_set,
    to_the_end,
)
from ddpm_jax.commands.likelihood import measure_likelihood
from ddpm_jax.commands.model import make_folder
from ddpm_jax.commands.neighbours import NEIGHBOURS, lay_beside
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor
from ddpm_jax.evaluation.precision_recall import nearest
from ddpm_jax.evaluation.scores import score
from ddpm_jax.recipe import Diffusion, Recipe, TaskSpec
from ddpm_jax.requests import Evaluate, Likelihood
from ddpm_jax.requests.evaluate import BITS_PER_DIM, images_kind, numbers
from ddpm_jax.runtime import files, images
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.devices import data_mesh, describe, on_every_host
from ddpm_jax.runtime.results import result_folder
from ddpm_jax.specs import kind_of
from ddpm_jax.training import checkpoints as store

_WANTED = (*report.WANTED, "asked")


@dataclasses.dataclass(frozen=True)
class _Job:
    """An evaluation: of which model, what is asked for, and where it goes."""

    recipe: Recipe
    asked: Evaluate
    names: list[str]  # of the scores
    workdir: Path
    out: Path


def evaluate(recipe: Recipe, asked: Evaluate, workdir: Path) -> int:
    """Score what a request names, and write the scores.

    Args:
        recipe: of the model, or of the data alone.
        asked: what is scored, and how; its `out` may name the folder in which
            `evaluation/` and `results.md` are made, which else is the workdir.
        workdir: of the model, if one is.

    Returns:
        0 if all is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: options, images, weights or statistics do not fit.
    """
    out, spec = asked.folder or workdir, recipe.task
    assembly.refuse_idle(spec, asked)
    names = assembly.score_names(asked)
    if BITS_PER_DIM in names:
        _check_likelihood(spec)
    assembly.check_seeds(spec, asked)
    job = _Job(recipe, asked, names, workdir, out)
    return to_the_end(partial(_score, job), partial(report.summarise, out))


def _score(job: _Job, interrupted: Callable[[], int]) -> None:
    """Score all sets, and print their rows."""
    recipe, asked = job.recipe, job.asked
    sets, size = _sets(job, interrupted), asked.feature_batch_size
    features = assembly.evaluation_features(asked)
    target = open_target(recipe.task.data, asked, features)
    for one in sets:
        check_set(one, features, target, job.names, allow_few=asked.allow_few)
        assembly.check_batch_memory("evaluate", size, one.image_shape)
    mesh = data_mesh(recipe.devices.fsdp)
    evaluator = make_evaluator(mesh, size, features, target, interrupted)
    baseline = _baseline(evaluator, job)
    for one in sets:
        row = _evaluate_set(evaluator, one, job)
        print(report.format_row(row, baseline), flush=True)


def _check_likelihood(spec: TaskSpec) -> None:
    """Refuse to measure what a model does not have, before anything is sampled."""
    option = f"config.evaluate.scores={BITS_PER_DIM}"
    if isinstance(spec, Diffusion):
        assembly.refuse_latents(spec, option)
    elif "likelihood" not in spec.commands:
        raise UserError(
            f"{option}, and a model of kind {kind_of(spec)} has no likelihood; leave "
            "this score out."
        )


# --- What is scored -------------------------------------------------------------------


def _sets(job: _Job, interrupted: Callable[[], int]) -> list[ImageSet]:
    spec, asked, workdir = job.recipe.task, job.asked, job.workdir
    kind, where = images_kind(asked.images)
    if kind == "samples":
        return [
            drawn_set(job.recipe, variant, workdir, interrupted)
            for variant in assembly.variants(spec, asked, _checkpoints(asked, workdir))
        ]
    if kind == "reconstructions":
        return [reconstructed_set(spec, workdir, where, asked.num_images)]
    like, seed = spec.data.open(asked.reference_split), assembly.seed_of(spec, asked)
    return [given_set(spec.data, kind, where, like, asked.num_images, seed)]


def _checkpoints(asked: Evaluate, workdir: Path) -> list[int]:
    if not asked.checkpoints:
        return [step_of(asked, workdir)]
    there = store.all_steps(workdir)
    if not there:
        store.read_metadata(workdir)  # says where it looked
    if asked.checkpoints == "all":
        return there
    wanted = numbers(asked.checkpoints, "checkpoints", int)
    missing = [step for step in wanted if step not in there]
    if missing:
        raise UserError(
            f"config.evaluate.checkpoints names step {missing[0]}, which {workdir} "
            f"does not have; it has {', '.join(map(str, there))}."
        )
    return wanted


# --- One set --------------------------------------------------------------------------


def _baseline(evaluator: Evaluator, job: _Job) -> report.Row | None:
    """Score real images that the reference does not hold: the real-vs-real baseline."""
    split, like = job.asked.baseline_split, evaluator.target.real
    if not split or like is None:
        return None
    try:
        of = job.recipe.task.data
        real = given_set(of, "data", split, like, job.asked.num_images)
    except UserError as error:
        files.note(f"no baseline, since there are no other real images: {error}")
        return None
    return _evaluate_set(evaluator, real, job)


def _evaluate_set(evaluator: Evaluator, one: ImageSet, job: _Job) -> report.Row:
    """Return the row of a set, computing what is not there yet."""
    names = job.names
    folder = result_folder(job.out / "evaluation", one.request)
    seen = folder / folder_name(evaluator.extraction.features)
    path = seen / f"scores_{evaluator.target.name}.json"
    row = _stored_row(path, job)
    if row is not None:
        return row
    with files.alone_in(folder, stop=evaluator.extraction.interrupted):
        row = _stored_row(path, job, files.note)  # of another that was at work
        if row is None:
            before = parts.stored_result(path, _WANTED, lambda line: None)
            others = [] if before is None else before["asked"]
            names = [*others, *(name for name in names if name not in others)]
            row = _measured_row(evaluator, one, seen, names, job)
            files.write_json(path, row)
    return row


def _stored_row(
    path: Path, job: _Job, tell: Callable[[str], None] = lambda line: None
) -> report.Row | None:
    """Read the row of a set, if all hosts find one with these scores in it."""
    row = parts.stored_result(path, _WANTED, tell)
    usable = row is not None and set(job.names) <= set(row["asked"])
    if row is not None and BITS_PER_DIM in job.names:
        usable = usable and row.get("likelihood") == _of_likelihood(job)
    return row if on_every_host(usable) else None


def _measured_row(
    evaluator: Evaluator, one: ImageSet, seen: Path, names: list[str], job: _Job
) -> report.Row:
    """Sample or open a set, extract its features, and score it."""
    source, features = one.load(seen.parent), evaluator.extraction.features
    make_folder(seen)
    fake = evaluator.extraction.of(source, seen)
    labels = _labels(source, features)
    of_features = [name for name in names if name != BITS_PER_DIM]
    found = score(fake, evaluator.reference, labels=labels, names=of_features)
    scores = {name: estimate._asdict() for name, estimate in found.items()}
    if BITS_PER_DIM in names and one.model is not None:
        scores[BITS_PER_DIM] = _bits(job, one.model["checkpoint_step"])
    if evaluator.target.real is not None and "nearest" in names:
        real = evaluator.reference.features
        assert real is not None  # as there are images
        near = nearest(fake.features, real, k=NEIGHBOURS)
        sheet = lay_beside(source, evaluator.target.real, *near)
        images.save_png(seen / "neighbours.png", sheet)
    return {
        "set": seen.parent.name,
        "request": one.request,
        "images": one.described,
        "num_images": len(source),
        "model": one.model,
        "reference": evaluator.target.about,
        "features": {
            "name": features.name,
            "weights": features.fingerprint,
            "resize": features.resize,
        },
        "asked": names,
        "likelihood": _of_likelihood(job) if BITS_PER_DIM in names else None,
        "scores": scores,
        "device": describe(),
        "versions": {
            "ddpm_jax": ddpm_jax.__version__,
            "jax": packages.version("jax"),
        },
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def _of_likelihood(job: _Job) -> dict[str, Any]:
    """Return what decides the bits per dimension, besides the model."""
    asked, of = job.asked, ("num_steps",)
    if not isinstance(job.recipe.task, Diffusion):
        of = ("num_samples",)
    names = ("split", "num_images", *of)
    return {name: getattr(asked, f"likelihood_{name}") for name in names}


def _labels(source: data.Dataset, features: FeatureExtractor) -> np.ndarray | None:
    """Return the class of each image, if the network tells the same classes apart."""
    if source.label_names is None or source.label_names != features.label_names:
        return None
    return data.in_memory(source)[1]


def _bits(job: _Job, step: int) -> dict[str, Any]:
    """Measure the likelihood of the model at a step; of diffusion its bound."""
    recipe, asked = job.recipe, job.asked
    bound = recipe.request(
        Likelihood,
        run=str(job.workdir),
        out=str(job.out),
        method="bound",
        split=asked.likelihood_split,
        num_images=asked.likelihood_num_images,
        num_steps=asked.likelihood_num_steps,
        num_samples=asked.likelihood_num_samples,
        batch_size=asked.likelihood_batch_size,
        step=step,
        ema=asked.ema,
        ema_std=asked.ema_std,
    )
    bound = assembly.leave_out_idle(recipe.task, bound)
    status, (folder,) = measure_likelihood(recipe, bound, job.workdir)
    if status:
        raise Interrupted(status)
    result = likelihood_files.read(folder)
    assert result is not None  # it has just been written
    found = result["bits_per_dim"]
    return {"value": found["mean"], "standard_error": found["standard_error"]}
