"""From a recipe to a call of `fit`: what every kind of training does around it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import assembly, data, specs
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.auxiliary import Kind
from ddpm_jax.assembly.idle import refuse_unused
from ddpm_jax.commands import about
from ddpm_jax.commands.feed import make_feed
from ddpm_jax.commands.model import make_folder
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Recipe, differences, to_json
from ddpm_jax.runtime import files, hosts, plots
from ddpm_jax.runtime.devices import data_mesh, describe
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.fit import Ended, Feed, Run, fit
from ddpm_jax.training.log import read_metrics
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.task import Task
from ddpm_jax.training.tracker import import_wandb, open_tracker
from ddpm_jax.training.workdir_lock import only_trainer

CONFIG_FILE = "config.json"

FREE_OPTIONS = (
    *("training.checkpoint_every", "training.keep_every", "training.keep_last"),
    *("training.report_every", "training.preview_every", "training.wandb"),
)
"""A run may be taken up again with other values of these, and stays the same run."""


class Settled(NamedTuple):
    """Two recipes, brought to what can be compared.

    Attributes:
        now: of the command, with what is taken over from the run.
        stored: of the run, with what may be changed.
        refused: what cannot be changed, as `differences` says it.
    """

    now: Recipe
    stored: Recipe
    refused: list[str]


class Auxiliary(NamedTuple):
    """What differs between the trainings of the auxiliary models.

    Attributes:
        kind: of the model.
        task: devices -> what is trained.
        measure: (averaged parameters, data by the names of their splits) -> plain data
            that describe the model, and how well it does.
        open: folder -> the finished model.
        report: (what describes it, its folder) -> a line for a person.
    """

    kind: Kind
    task: Callable[[Mesh], Task]
    measure: Callable[[Any, dict[str, data.Dataset]], dict[str, Any]]
    open: Callable[[Path], Any]
    report: Callable[[dict[str, Any], Path], str]


def train_auxiliary(
    recipe: Recipe,
    workdir: Path,
    model: Auxiliary,
    splits: dict[str, data.Dataset],
    info: assembly.DataInfo,
    captions: Callable[[], assembly.Captions | None] = lambda: None,
    beside: Mapping[str, np.ndarray] | None = None,
) -> int:
    """Train an auxiliary model in its workdir, or go on; if it is finished, say so.

    Args:
        recipe: what is trained, and how.
        workdir: of the run.
        model: what differs between such models.
        splits: "train", which it learns from, and what it is tested on.
        info: of the data.
        captions: () -> those of the images, tokenized, where the task wants them.
        beside: what else the task wants of each example, arrays [N, ...] by name.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    kind, task, measure, open_finished, report = model
    mesh = data_mesh(recipe.devices.fsdp)
    assembly.check_batch(recipe.training)
    found = already_finished(recipe, workdir, kind, info.fingerprint)
    if found is not None:
        open_finished(workdir)  # refuses a damaged one
        print(f"{report(found, workdir)} It is finished. Nothing to do.")
        return 0
    splits = {name: data.ready(one) for name, one in splits.items()}
    started = time.perf_counter()

    def finish(state: TrainState) -> dict[str, Any]:
        return {
            **measure(state.ema_params, splits),
            "num_images": {name: len(one) for name, one in splits.items()},
            **auxiliary.origin(time.perf_counter() - started),
        }

    ended = fit_auxiliary(
        recipe,
        workdir,
        kind,
        task(mesh)._replace(finish=finish),
        splits["train"],
        info.fingerprint,
        captions(),
        beside,
    )
    if ended.signal_number:
        return 128 + ended.signal_number
    print(report(ended.result, workdir))
    return 0


def already_finished(
    recipe: Recipe, workdir: Path, kind: Kind, fingerprint: str
) -> dict[str, Any] | None:
    """Read what describes a finished model of this recipe; None if there is none.

    Args:
        recipe: of now.
        workdir: of the run.
        kind: of the model.
        fingerprint: of the data of now.

    Raises:
        UserError: the folder holds another, or one that was not trained here.
    """
    auxiliary.refuse_another_kind(workdir, kind.name, kind.the)
    free = (*FREE_OPTIONS, *about.FREE_OPTIONS, *free_spelling(workdir, fingerprint))
    refuse_another_config(recipe, workdir, free)
    if not auxiliary.is_finished(workdir):
        return None
    found = auxiliary.about(workdir, kind)
    if "config" not in found:
        raise UserError(
            f"{workdir} holds {kind.noun} that was not trained here; use "
            "another --workdir."
        )
    _check_data(found["data_fingerprint"], fingerprint, workdir)
    return found


def free_spelling(workdir: Path, fingerprint: str) -> tuple[str, ...]:
    """List the options that may differ since the data of a run are the same.

    Args:
        workdir: of the run, if there is one.
        fingerprint: of the data of now.
    """
    if store.latest_step(workdir) is None:
        return ()
    try:
        stored = about.any_metadata(workdir)
    except UserError:  # damaged: whoever restores it says so
        return ()
    of_diffusion = stored.get("data")
    if isinstance(of_diffusion, dict):
        was = of_diffusion["fingerprint"]
    else:
        was = stored.get("data_fingerprint")  # none, of what was imported
    return about.SPELLING if was == fingerprint else ()


def _check_data(was: str, now: str, workdir: Path) -> None:
    if was != now:
        raise UserError(
            f"the data of the run in {workdir} have changed (fingerprint {was}, now "
            f"{now}); restore them, or use another --workdir."
        )


def fit_auxiliary(
    recipe: Recipe,
    workdir: Path,
    kind: Kind,
    task: Task,
    source: data.Dataset,
    fingerprint: str,
    captions: assembly.Captions | None = None,
    beside: Mapping[str, np.ndarray] | None = None,
) -> Ended:
    """Fit a model other than a diffusion model in its workdir, or go on.

    Args:
        recipe: what is trained, and how.
        workdir: of the run.
        kind: of the model.
        task: what is trained.
        source: images, and labels where the task wants them.
        fingerprint: of all that is learnt from.
        captions: of the images, tokenized, where the task wants them.
        beside: what else the task wants of each example, arrays [N, ...] by name.

    Raises:
        UserError: as `fit`, or an option is set that the task does not look at.
    """
    without_preview = ("preview_every",) if task.preview is None else ()
    refuse_unused(recipe.training, recipe.kind, *task.unused, *without_preview)
    check_tracker(recipe.training.wandb)
    mesh = data_mesh(recipe.devices.fsdp)

    def announce(state: TrainState) -> None:
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        step = int(state.step)
        print(
            f"Training {kind.noun} of {count:,} parameters on {len(source):,} images "
            f"of {source.name}, on {describe()}"
            f"{f', from step {step:,}' if step else ''}.",
            flush=True,
        )

    metadata = {
        "kind": kind.name,
        "config": to_json(recipe),
        "data": source.name,
        "data_fingerprint": fingerprint,
        "versions": auxiliary.versions(),
    }
    feed = feed_of(recipe, source, mesh, captions, beside)
    with beginning(recipe, workdir) as check_alone:
        run = Run(
            workdir=workdir,
            metadata=metadata,
            check=lambda stored, step: _check_data(
                stored["data_fingerprint"], fingerprint, workdir
            ),
            announce=announce,
            before_save=check_alone,
            advice="Lower config.training.learning_rate, in another --workdir.",
        )
        return fit_in_workdir(recipe, task, feed, run=run, mesh=mesh)


def feed_of(
    recipe: Recipe,
    source: data.Dataset,
    mesh: Mesh,
    captions: assembly.Captions | None = None,
    beside: Mapping[str, np.ndarray] | None = None,
) -> Feed:
    """Prepare the batches of a run.

    Args:
        recipe: what is trained, and how.
        source: images, or what was made of them.
        mesh: from `devices.data_mesh`.
        captions: of the images, tokenized.
        beside: what else a batch has of each example, arrays [N, ...] by name.

    Raises:
        UserError: an image cannot be read.
    """
    return make_feed(
        source,
        recipe.training.batch_size,
        seed=recipe.task.seed,
        mesh=mesh,
        max_mb_on_device=recipe.task.data.on_device_mb,
        captions=captions,
        beside=beside,
    )


def fit_in_workdir(
    recipe: Recipe, task: Task, feed: Feed, *, run: Run, mesh: Mesh
) -> Ended:
    """Call `fit` with the tracker of the recipe; plot the loss, and report the end.

    Args:
        recipe: how long it is trained, and how often what is done.
        task: what is trained.
        feed: its batches.
        run: where, and what is kept there.
        mesh: from `devices.data_mesh`.

    Raises:
        UserError: as `fit`.
    """
    plan, key = recipe.training, assembly.train_key(recipe.task.seed, recipe.kind)
    project = plan.wandb if jax.process_index() == 0 else None
    with (
        open_tracker(project, run.workdir, to_json(recipe)) as tracker,
        hosts.as_one(),
    ):
        ended = fit(
            task, feed, key, plan=plan, run=run._replace(tracker=tracker), mesh=mesh
        )
    plot_loss(run.workdir)
    if ended.signal_number:
        print(
            f"Interrupted at step {int(ended.state.step)} of {plan.num_steps}; "
            "saved. The same command goes on from here."
        )
    return ended


def check_tracker(project: str | None) -> None:
    """Refuse a tracker that is not installed, before anything is written.

    Raises:
        UserError: it cannot be imported.
    """
    if project and jax.process_index() == 0:
        import_wandb(project)


def plot_loss(workdir: Path) -> None:
    """Draw what a run has reported so far, if it has."""
    records = read_metrics(workdir)
    if records:
        plots.plot_loss(workdir / "loss.png", records, title=workdir.name)


def refuse_another_config(
    recipe: Recipe,
    workdir: Path,
    free: tuple[str, ...],
    settle: Callable[[Recipe, int], Settled] | None = None,
) -> Recipe:
    """Refuse a workdir that belongs to a run of another config.

    Args:
        recipe: of now.
        workdir: of the run.
        free: the options, or beginnings of their names, with another value of which
            it stays the same run.
        settle: (recipe of the run, its last step) -> what is compared, as where a run
            is lengthened; None: they are compared as they are.

    Returns:
        The recipe of now, settled.

    Raises:
        UserError: naming every option that differs.
    """
    path = workdir / CONFIG_FILE
    newest = store.latest_step(workdir)
    if newest is None:  # nothing has been trained that another config could spoil
        _refuse_foreign(path)
        return recipe
    if not path.exists():
        return recipe
    try:
        stored = about.read_recipe(files.read_json(path), workdir)
    except (FileNotFoundError, files.DamagedError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or use another --workdir."
        ) from error
    settled = Settled(recipe, stored, [])
    if settle is not None:
        settled = settle(stored, newest)
    lines = differences(to_json(settled.stored), to_json(settled.now))
    changed = [*settled.refused, *(s for s in lines if not s.startswith(free))]
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); use "
            "another --workdir, or the config of that run."
        )
    return settled.now


def _refuse_foreign(path: Path) -> None:
    """Refuse to write over a config.json of something else, as many programs have."""
    try:
        known = files.read_json(path)
    except (FileNotFoundError, files.DamagedError):
        return  # none; or what another attempt left
    if specs.KIND not in known or "training" not in known:
        raise UserError(
            f"{path} is not of a run of ddpm_jax; use another --workdir, since it "
            "would be written over."
        )


@contextlib.contextmanager
def beginning(recipe: Recipe, workdir: Path) -> Iterator[Callable[[], None]]:
    """Make a workdir, be the one that trains there, and write its config.

    Args:
        recipe: of the run.
        workdir: of the run.

    Yields:
        To be called before a save; see `workdir_lock.only_trainer`.

    Raises:
        UserError: it cannot be written, or another process trains there.
    """
    make_folder(workdir)
    with only_trainer(workdir) as check_alone:
        files.write_json(workdir / CONFIG_FILE, to_json(recipe))
        yield check_alone
