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

import sys
import time
from collections.abc import Callable
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import ddpm_jax
from ddpm_jax import assembly, data
from ddpm_jax.assembly.auxiliary import DIFFUSION
from ddpm_jax.commands import extraction, likelihood_files, report, sampled
from ddpm_jax.commands.about import usable_step
from ddpm_jax.commands.evaluator import (
    Evaluator,
    Interrupted,
    check_set,
    make_evaluator,
    open_target,
)
from ddpm_jax.commands.image_sets import (
    ImageSet,
    drawn_set,
    given_set,
    open_split,
    reconstructed_set,
)
from ddpm_jax.commands.likelihood import measure_likelihood
from ddpm_jax.commands.model import make_folder
from ddpm_jax.commands.neighbours import NEIGHBOURS, lay_beside
from ddpm_jax.commands.summary import summarise
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor
from ddpm_jax.evaluation.precision_recall import nearest
from ddpm_jax.evaluation.scores import score
from ddpm_jax.runtime import files, images
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.devices import describe, on_every_host, wait_for_all_hosts
from ddpm_jax.runtime.results import result_folder
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.loop import catch_interrupts

_WANTED = (*report.WANTED, "asked")


def evaluate(cfg: ConfigDict, workdir: Path, out: Path | None = None) -> int:
    """Score what `config.evaluate` names, and write the scores.

    Args:
        cfg: its `evaluate` says what is scored, and how.
        workdir: of the model, if one is.
        out: where `evaluation/` and `results.md` are made; None: in the workdir.

    Returns:
        0 if all is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: options, images, weights or statistics do not fit.
    """
    out = out or workdir
    if cfg.kind != DIFFUSION:
        sampled.check_asked(cfg)
    assembly.check_evaluate(cfg)
    names = assembly.score_names(cfg)
    with catch_interrupts() as interrupted:
        try:
            sets = _sets(cfg, workdir, interrupted)
            features = assembly.evaluation_features(cfg)
            target = open_target(cfg, features)
            few = cfg.evaluate.allow_few
            for one in sets:
                check_set(one, features, target, names, allow_few=few)
            evaluator = make_evaluator(cfg, features, target, interrupted)
            baseline = _baseline(evaluator, out, names)
            for one in sets:
                row = _evaluate_set(evaluator, one, out, names, workdir)
                print(report.format_row(row, baseline), flush=True)
        except Interrupted as stop:
            print("Interrupted; saved. The same command goes on from here.")
            return stop.args[0] if stop.args else 128 + interrupted()
    wait_for_all_hosts("the rows")
    summarise(out)
    return 0


# --- What is scored -------------------------------------------------------------------


def _sets(
    cfg: ConfigDict, workdir: Path, interrupted: Callable[[], int]
) -> list[ImageSet]:
    kind, where = assembly.images_kind(cfg)
    if kind != "samples":
        if kind == "reconstructions":
            return [reconstructed_set(cfg, workdir, where)]
        like = open_split(cfg, cfg.evaluate.reference_split)
        return [given_set(cfg, kind, where, like)]
    return [
        drawn_set(variant, workdir, interrupted)
        for variant in assembly.variants(cfg, _checkpoints(cfg, workdir))
    ]


def _checkpoints(cfg: ConfigDict, workdir: Path) -> list[int]:
    asked = cfg.evaluate.checkpoints
    if not asked:
        chosen = cfg.sample.step
        return [usable_step(workdir, _tell) if chosen is None else chosen]
    there = store.all_steps(workdir)
    if not there:
        store.read_metadata(workdir)  # says where it looked
    if asked == "all":
        return there
    wanted = assembly.numbers(asked, "checkpoints", int)
    missing = [step for step in wanted if step not in there]
    if missing:
        raise UserError(
            f"config.evaluate.checkpoints names step {missing[0]}, which {workdir} "
            f"does not have; it has {', '.join(map(str, there))}."
        )
    return wanted


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


# --- One set --------------------------------------------------------------------------


def _baseline(evaluator: Evaluator, out: Path, names: list[str]) -> report.Row | None:
    """Score real images that the reference does not hold: the real-vs-real baseline."""
    split = evaluator.cfg.evaluate.floor_split
    if not split or evaluator.target.real is None:
        return None
    try:
        real = given_set(evaluator.cfg, "data", split, evaluator.target.real)
    except UserError as error:
        _tell(f"note: no baseline, since there are no other real images: {error}")
        return None
    return _evaluate_set(evaluator, real, out, names, out)


def _evaluate_set(
    evaluator: Evaluator, one: ImageSet, out: Path, names: list[str], workdir: Path
) -> report.Row:
    """Return the row of a set, computing what is not there yet."""
    folder = result_folder(out / "evaluation", one.request)
    seen = folder / extraction.folder_name(evaluator.features)
    path = seen / f"scores_{evaluator.target.name}.json"
    row = _stored_row(path, names)
    if row is not None:
        return row
    with files.alone_in(folder, stop=evaluator.interrupted):
        row = _stored_row(path, names, files.note)  # of another that was at work
        if row is None:
            before = parts.stored_result(path, _WANTED, lambda line: None)
            others = [] if before is None else before["asked"]
            names = [*others, *(name for name in names if name not in others)]
            row = _measured_row(evaluator, one, seen, names, workdir)
            files.write_json(path, row)
    return row


def _stored_row(
    path: Path, names: list[str], tell: Callable[[str], None] = lambda line: None
) -> report.Row | None:
    """Read the row of a set, if all hosts find one with these scores in it."""
    row = parts.stored_result(path, _WANTED, tell)
    usable = row is not None and set(names) <= set(row["asked"])
    return row if on_every_host(usable) else None


def _measured_row(
    evaluator: Evaluator, one: ImageSet, seen: Path, names: list[str], workdir: Path
) -> report.Row:
    """Sample or open a set, extract its features, and score it."""
    source = one.load(seen.parent)
    if source is None:
        raise Interrupted
    make_folder(seen)
    fake = evaluator.extract(source, seen)
    labels = _labels(source, evaluator.features)
    of_features = [name for name in names if name != assembly.BITS_PER_DIM]
    found = score(fake, evaluator.reference, labels=labels, names=of_features)
    scores = {name: estimate._asdict() for name, estimate in found.items()}
    if assembly.BITS_PER_DIM in names and one.model is not None:
        scores[assembly.BITS_PER_DIM] = _bits(
            evaluator.cfg, workdir, seen.parents[2], one
        )
    if evaluator.target.real is not None and "nearest" in names:
        features = evaluator.reference.features
        assert features is not None  # as there are images
        near = nearest(fake.features, features, k=NEIGHBOURS)
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
            "name": evaluator.features.name,
            "weights": evaluator.features.fingerprint,
            "resize": evaluator.features.resize,
        },
        "asked": names,
        "scores": scores,
        "device": describe(),
        "versions": {
            "ddpm_jax": ddpm_jax.__version__,
            "jax": packages.version("jax"),
        },
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def _labels(source: data.Dataset, features: FeatureExtractor) -> np.ndarray | None:
    """Return the class of each image, if the network tells the same classes apart."""
    if source.label_names is None or source.label_names != features.label_names:
        return None
    return data.in_memory(source)[1]


def _bits(cfg: ConfigDict, workdir: Path, out: Path, one: ImageSet) -> dict[str, Any]:
    """Measure the variational bound of the model that drew a set."""
    assert one.model is not None  # given images have no bound
    if cfg.kind != DIFFUSION:
        return sampled.bits_per_dim(cfg, workdir)
    chosen = cfg.copy_and_resolve_references()
    chosen.sample.step = one.model["checkpoint_step"]
    chosen.likelihood.method = "bound"
    status, (folder,) = measure_likelihood(chosen, workdir, out)
    if status:
        raise Interrupted(status)
    result = likelihood_files.read(folder)
    assert result is not None  # it has just been written
    found = result["bits_per_dim"]
    return {"value": found["mean"], "standard_error": found["standard_error"]}
