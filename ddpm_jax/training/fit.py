"""Fit: train any task in a work directory, however often that is interrupted.

    state, signal_number = fit(task, feed, key, plan=plan, run=run, mesh=mesh)

It owns what every kind of training needs: devices and hosts, checkpoints and resuming
bit for bit, signals, the stop at a loss that is not finite, reports, previews, and the
facts that are kept with the last checkpoint. It does not depend on what is trained.

    workdir/checkpoints/    see `training.checkpoints`
            metrics.jsonl   a line for each report
            tensorboard/    the same, and previews
            progress/       previews
            result.json     the task's results on the finished state; written last
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files, images, interrupts
from ddpm_jax.runtime.devices import sharded, spread, wait_for_all_hosts
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.ema import MAX_STD
from ddpm_jax.training.log import Log, open_log, quiet_log
from ddpm_jax.training.loop import Hook, catch_interrupts, train_loop
from ddpm_jax.training.optimizers import (
    Adam,
    OptimizerSpec,
    clipped,
    warmup_schedule,
)
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import compile_step
from ddpm_jax.training.task import Batch, Task
from ddpm_jax.training.tracker import NO_TRACKER, Tracker

Feed = Callable[[int], Iterator[Batch]]
"""first step, from 0 -> its batch and all that follow, spread over a mesh by rows."""

RESULT_FILE = "result.json"


@dataclasses.dataclass(frozen=True)
class Fit:
    """How long and how fast to train, what is averaged, and how often to do what.

    Attributes:
        num_steps: optimizer steps in all.
        batch_size: examples of a step, over all devices.
        accumulate: parts that a batch is worked through in, for less memory.
        optimizer: what makes an update of a gradient.
        learning_rate: its learning rate after the warm-up.
        warmup_steps: steps over which the learning rate rises.
        decay: of the learning rate after the warm-up: constant, or cosine to 0.
        restarts: steps at which a cosine has reached 0 and begins anew.
        max_grad_norm: gradients are clipped to this global norm; 0 for never.
        ema_decay: decay of the averaged parameters, after a warm-up.
        ema_stds: lengths of further averages, as shares of the run (sigma_rel).
        report_every: steps between reports.
        preview_every: steps between previews; 0 for none.
        checkpoint_every: steps between checkpoints; the last step is always saved.
        keep_last: how many of the newest checkpoints are kept.
        keep_every: checkpoints whose step is a multiple of it stay; 0 for none.
        wandb: project of Weights & Biases; None: nothing is sent.
    """

    num_steps: int = 800_000
    batch_size: int = 128
    accumulate: int = 1
    optimizer: OptimizerSpec = dataclasses.field(default_factory=Adam)
    learning_rate: float = 2e-4
    warmup_steps: int = 5000
    decay: Literal["constant", "cosine"] = "constant"
    restarts: tuple[int, ...] = ()
    max_grad_norm: float = 1.0
    ema_decay: float = 0.9999
    ema_stds: tuple[float, ...] = ()
    report_every: int = 100
    preview_every: int = 0
    checkpoint_every: int = 5000
    keep_last: int = 3
    keep_every: int = 100_000
    wandb: str | None = None

    def __post_init__(self) -> None:
        limits.at_least(self, 1, "num_steps", "accumulate")
        limits.between(self, "batch_size", 1, 2**31 - 1)  # rows are counted in int32
        limits.at_least(self, 1, "report_every", "checkpoint_every", "keep_last")
        limits.at_least(self, 0, "warmup_steps", "preview_every", "keep_every")
        limits.at_least(self, 0, "max_grad_norm")
        limits.share(self, "ema_decay")
        limits.positive(self, "learning_rate", such_as="the paper's is 2e-4")
        self._check_restarts()
        self._check_averages()

    def _check_restarts(self) -> None:
        if self.restarts and self.decay != "cosine":
            raise UserError(
                f"restarts={self.restarts} does nothing with decay {self.decay!r}, "
                "which falls nowhere; leave it out, or use decay cosine."
            )
        ends = [0, *self.restarts, self.num_steps]
        whole = all(isinstance(step, int) for step in self.restarts)
        if not whole or any(b <= a for a, b in itertools.pairwise(ends)):
            raise UserError(
                f"restarts={self.restarts} are not rising steps between 0 and "
                f"num_steps={self.num_steps}; use such as {self.num_steps // 2},."
            )

    def _check_averages(self) -> None:
        for std in self.ema_stds:
            if not isinstance(std, int | float) or not 0 < std <= MAX_STD:
                raise UserError(
                    f"ema_stds has {std!r}, which is not in (0, {MAX_STD:.3f}]; it is "
                    "the length of an average as a share of the run, such as 0.05."
                )
        if len(set(self.ema_stds)) < len(self.ema_stds):
            raise UserError(
                f"ema_stds={self.ema_stds} names an average twice; name each once."
            )

    def rate(self, num_steps: int | None = None) -> optax.Schedule:
        """Make the learning rate as a function of the step, counted from 0.

        Args:
            num_steps: of what is trained for another time; None for the whole run.
        """
        num_steps = self.num_steps if num_steps is None else num_steps
        return warmup_schedule(
            self.learning_rate,
            self.warmup_steps,
            num_steps if self.decay == "cosine" else None,
            self.restarts,
        )

    def transformation(
        self, num_steps: int | None = None
    ) -> optax.GradientTransformation:
        """Make the optimizer with its learning rate, and the clipping before it.

        Args:
            num_steps: see `rate`.
        """
        return clipped(self.optimizer.build(self.rate(num_steps)), self.max_grad_norm)


class Run(NamedTuple):
    """A run on disk: its folder, its metadata, how it starts and resumes.

    Attributes:
        workdir: its folder.
        metadata: plain data that are kept with each checkpoint.
        check: metadata of the newest checkpoint and its step -> None; raises UserError
            where the run cannot go on from it.
        begin: () -> the state to begin with where there is no checkpoint to go on from,
            as for a model that another run or program has trained; None to initialize
            it.
        draw: () -> the initial parameters in place of the task's own;
            None for the task's.
        announce: state -> None; called once, before the first step.
        before_save: called before each save; raises UserError where this process may
            save there no more.
        tracker: where numbers and previews go besides.
        advice: what to change if the loss is not finite.
    """

    workdir: Path
    metadata: Mapping[str, Any]
    check: Callable[[dict[str, Any], int], None] = lambda stored, step: None
    begin: Callable[[], TrainState | None] = lambda: None
    draw: Callable[[], Any] | None = None
    announce: Callable[[TrainState], None] = lambda state: None
    before_save: Callable[[], None] = lambda: None
    tracker: Tracker = NO_TRACKER
    advice: str = "Lower the learning rate, in another --workdir."


class Ended(NamedTuple):
    """How a call of `fit` ended.

    Attributes:
        state: the last one, saved.
        signal_number: of the signal that stopped it; 0 if the run is finished.
        result: the task's results on the finished state; empty if it was stopped.
    """

    state: TrainState
    signal_number: int
    result: dict[str, Any]


def abstract_state(task: Task, mesh: Mesh) -> TrainState:
    """Return shape, type and sharding of each leaf of a task's state; nothing is run.

    Args:
        task: any.
        mesh: from `devices.data_mesh`.
    """
    place = sharded(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place(leaf.shape)
        ),
        jax.eval_shape(task.start, jax.eval_shape(task.draw)),
    )


def initial_state(task: Task, placed: TrainState) -> TrainState:
    """Initialize a task's parameters on one device, and shard its state.

    Initialized over several devices they might be rounded in another way.

    Args:
        task: any.
        placed: of each leaf of its state, the sharding.
    """
    params = jax.tree.map(
        lambda leaf, place: spread(np.asarray(leaf), place), task.draw(), placed.params
    )
    return jax.jit(task.start, out_shardings=placed)(params)


def fit(
    task: Task, feed: Feed, key: jax.Array, *, plan: Fit, run: Run, mesh: Mesh
) -> Ended:
    """Train to the end, or go on from where a run stopped.

    Args:
        task: what is trained.
        feed: its batches.
        key: [], of the run.
        plan: how long, and how often to do what.
        run: where, and what is kept there.
        mesh: from `devices.data_mesh`.

    Returns:
        The last state, and the signal that stopped it, if any.

    Raises:
        UserError: the checkpoints cannot be used or written, the loss is not finite, or
            a batch cannot be read; what was saved before is whole.
    """
    abstract = abstract_state(task, mesh)
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    with store.open_checkpoints(
        run.workdir, keep_last=plan.keep_last, keep_every=plan.keep_every or None
    ) as checkpoints:
        state = _start_or_resume(task, run, checkpoints, abstract, placed)
        run.announce(state)
        state, signal_number = _advance(
            task, feed, key, state, plan, run, mesh, placed, checkpoints
        )
        run.before_save()
        with interrupts.keeping():
            store.save(checkpoints, state, run.metadata, wait=True)
    wait_for_all_hosts("the last checkpoint")
    if signal_number:
        return Ended(state, signal_number, {})
    result = dict(task.finish(state))
    if result and jax.process_index() == 0:
        step = int(state.step)
        files.write_json(run.workdir / RESULT_FILE, {"step": step, **result})
    return Ended(state, 0, result)


def _start_or_resume(
    task: Task,
    run: Run,
    checkpoints: store.Checkpoints,
    abstract: TrainState,
    placed: TrainState,
) -> TrainState:
    started = run.begin()
    if started is not None:
        return jax.tree.map(
            lambda leaf, place: spread(np.asarray(leaf), place), started, placed
        )
    restored = store.restore_latest(checkpoints, abstract)
    if restored is None:
        initialized = task if run.draw is None else task._replace(draw=run.draw)
        return initial_state(initialized, placed)
    state, step, stored = restored
    run.check(stored, step)
    return state


def _advance(
    task: Task,
    feed: Feed,
    key: jax.Array,
    state: TrainState,
    plan: Fit,
    run: Run,
    mesh: Mesh,
    placed: TrainState,
    checkpoints: store.Checkpoints,
) -> tuple[TrainState, int]:
    start = int(state.step)
    if start >= plan.num_steps:
        return state, 0
    describe_failure = _failure(run, plan, checkpoints)
    opened = quiet_log()
    if jax.process_index() == 0:
        opened = open_log(
            run.workdir,
            start=start,
            num_steps=plan.num_steps,
            learning_rate=plan.rate(),
            shown=task.shown,
            tracker=run.tracker,
        )

    def save(step: int, state: TrainState) -> None:
        if not _all_finite(state.params):
            raise UserError(
                f"the parameters are not finite after step {step}; "
                f"{describe_failure(step)}"
            )
        run.before_save()
        store.save(checkpoints, state, run.metadata)

    def on_step() -> None:
        log.step()
        store.check(checkpoints)

    with opened as log, catch_interrupts(start) as interrupted:
        hooks = [Hook(plan.checkpoint_every, save, when_stopped=True)]
        if plan.preview_every and task.preview is not None:
            hooks.append(Hook(plan.preview_every, _previewer(task, run.workdir, log)))
        state = train_loop(
            state,
            compile_step(task.step, mesh, placed),
            feed(start),
            key,
            num_steps=plan.num_steps,
            report_every=plan.report_every,
            report=log.report,
            later=tuple((n, compile_step(s, mesh, placed)) for n, s in task.later),
            summarize=task.summarize,
            hooks=tuple(hooks),
            interrupted=lambda: bool(interrupted()),
            on_step=on_step,
            describe_failure=describe_failure,
        )
        finished = int(state.step) == plan.num_steps
        return state, 0 if finished else interrupted()


def _previewer(
    task: Task, workdir: Path, log: Log
) -> Callable[[int, TrainState], None]:
    assert task.preview is not None
    make = task.preview

    def preview(step: int, state: TrainState) -> None:
        for name, pixels in make(state).items():
            end = "" if name == "samples" else f"-{name}"
            images.save_png(workdir / "progress" / f"step-{step:07d}{end}.png", pixels)
            if not end:
                if pixels.shape[-1] == 4:
                    pixels = images.on_checkerboard(pixels)
                shape = (*pixels.shape[:2], 3)
                log.image(name, np.broadcast_to(pixels, shape), step)

    return preview


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    """Return whether all parameters are: a finite loss may have overflowed them."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return jnp.stack(leaves).all()


def _failure(
    run: Run, plan: Fit, checkpoints: store.Checkpoints
) -> Callable[[int], str]:
    def describe_failure(step: int) -> str:
        with contextlib.suppress(
            Exception
        ):  # a save under way may yet be the last good
            checkpoints.wait_until_finished()
        good = store.latest_step(run.workdir)
        where = "none" if good is None else run.workdir / "checkpoints" / str(good)
        rate = float(plan.rate()(step - 1))
        return f"learning rate {rate:.3g}. Last good checkpoint: {where}. {run.advice}"

    return describe_failure
