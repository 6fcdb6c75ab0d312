"""Training: from a config to a finished run, however often it is interrupted."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import build, config, data, files, plots
from ddpm_jax.build import DataInfo
from ddpm_jax.commands import about
from ddpm_jax.commands.further import free_since_import, from_import
from ddpm_jax.commands.parameters import check_tracks
from ddpm_jax.commands.sample import (
    make_preview,
    sample,
    sample_folder,
    save_forward_film,
)
from ddpm_jax.devices import data_mesh, describe, replicated, rows
from ddpm_jax.errors import UserError
from ddpm_jax.models.unet import UNet
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.log import open_log, read_metrics
from ddpm_jax.training.loop import Hook, catch_interrupts, train_loop
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import init_state, make_train_step

CONFIG_FILE = "config.json"

# A run may be taken up again with other values of these, and stays the same run.
_FREE_OPTIONS = (
    *about.FREE_OPTIONS,
    "training.checkpoint_every",
    "training.keep_every",
    "training.keep_last",
    "training.report_every",
    "training.sample_every",
    "training.sample_num_steps",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run that do not change while it trains."""

    cfg: ConfigDict
    info: DataInfo
    workdir: Path
    unet: UNet
    optimizer: optax.GradientTransformation
    mesh: Mesh


def train(cfg: ConfigDict, workdir: Path) -> int:
    """Train to the end of the config, or go on from where a run stopped.

    Returns:
        0 if the run is finished, else 128 plus the number of the signal that
        interrupted it, its state saved.

    Raises:
        UserError: if config, data or workdir do not fit; before any compile.
    """
    source = build.dataset(cfg)
    info = build.data_info(source)
    build.check(cfg, info)
    build.check_batch(cfg)
    check_tracks(cfg, cfg.training.ema_stds)
    _check_workdir(cfg, workdir)
    newest = store.latest_step(workdir)
    done = newest is not None and newest >= cfg.training.num_steps
    if done and about.is_whole(workdir, newest):
        return _already_trained(cfg, workdir, newest)
    # Decodes what fits in memory, and so finds a broken image before any compile.
    stream = data.batches(
        source,
        cfg.training.batch_size,
        seed=cfg.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    _write_config(cfg, workdir)
    unet, optimizer = build.model(cfg, info), build.optimizer(cfg)
    run = Run(cfg, info, workdir, unet, optimizer, data_mesh())
    with store.open_checkpoints(
        workdir,
        keep_last=cfg.training.keep_last,
        keep_every=cfg.training.keep_every or None,
    ) as checkpoints:
        state = _start_or_resume(run, checkpoints)
        _announce(run, source, int(state.step), state.params)
        save_forward_film(cfg, source, workdir)
        state, signal_number = _advance(run, state, stream, checkpoints)
        store.save(checkpoints, state, about.metadata(cfg, info), wait=True)
    _plot_loss(workdir)
    if signal_number:
        print(
            f"Interrupted at step {int(state.step)} of {cfg.training.num_steps}; "
            "saved. The same command goes on from here."
        )
        return 128 + signal_number
    sample(cfg, workdir)
    return 0


def _plot_loss(workdir: Path) -> None:
    records = read_metrics(workdir)
    if records:
        plots.plot_loss(workdir / "loss.png", records, title=workdir.name)


def _already_trained(cfg: ConfigDict, workdir: Path, steps: int) -> int:
    if not (workdir / "loss.png").exists():  # killed just before it was drawn
        _plot_loss(workdir)
    folder = sample_folder(cfg, workdir, steps)
    if (folder / "grid.png").exists():
        print(
            f"{workdir} is finished: {steps} steps. Its pictures are in {folder}. "
            "Nothing to do."
        )
        return 0
    print(f"{workdir} is trained: {steps} steps. Drawing from it.")
    sample(cfg, workdir)
    return 0


# --- The workdir ----------------------------------------------------------------------


def _check_workdir(cfg: ConfigDict, workdir: Path) -> None:
    """Refuse a workdir that belongs to a run of another config."""
    path = workdir / CONFIG_FILE
    if not path.exists() or store.latest_step(workdir) is None:
        return  # nothing has been trained that another config could spoil
    try:
        stored = config.from_json(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or use another --workdir."
        ) from error
    free = (*_FREE_OPTIONS, *free_since_import(workdir))
    if cfg.training.decay == "constant":  # else the length is part of the rate
        free = (*free, "training.num_steps")
    changed = [
        line for line in config.differences(stored, cfg) if not line.startswith(free)
    ]
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); use "
            "another --workdir, or the config of that run."
        )


def _write_config(cfg: ConfigDict, workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to --workdir={workdir} ({error.strerror}); choose another."
        ) from error
    files.write_json(workdir / CONFIG_FILE, config.to_json(cfg))


# --- The run --------------------------------------------------------------------------


def _start_or_resume(run: Run, checkpoints: store.Checkpoints) -> TrainState:
    def fresh() -> TrainState:
        return init_state(
            build.init_params(run.cfg, run.unet, run.info),
            run.optimizer,
            memory=build.time_sampler(run.cfg).init(),
            num_tracks=len(run.cfg.training.ema_stds),
        )

    everywhere = replicated(run.mesh)
    if about.is_import(run.workdir):
        state = from_import(run.cfg, run.info, run.workdir, run.optimizer)
        return jax.device_put(state, everywhere)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(fresh),
    )
    restored = store.restore_latest(checkpoints, abstract)
    if restored is None:
        return jax.device_put(fresh(), everywhere)
    state, step, stored = restored
    was, now = stored["data"]["fingerprint"], run.info.fingerprint
    if was != now:
        raise UserError(
            f"the data of this run have changed since step {step} (fingerprint {was}, "
            f"now {now}); restore them, or use another --workdir."
        )
    # Older versions did not note it; that is no reason to refuse their runs.
    num_devices = jax.device_count()
    num_before = stored.get("num_devices", num_devices)
    if num_before != num_devices:
        print(
            f"note: {num_before} device(s) so far, {num_devices} now; sums over a "
            "batch are rounded in another order from here on.",
            file=sys.stderr,
        )
    return state


def _announce(run: Run, source: data.Dataset, step: int, params: Any) -> None:
    cfg, info = run.cfg, run.info
    shape = "x".join(map(str, info.image_shape))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    classes = build.num_classes(cfg, info)
    told = f"{classes} classes" if classes else "unconditional"
    resumed = ", resumed" if step else ""
    lines = (
        f"data     {info.name}, {len(source):,} images of {shape}. {source.note}",
        f"network  {count:,} parameters, {told}",
        f"device   {describe()}, {cfg.model.dtype}",
        f"run      {run.workdir}, step {step:,} of {cfg.training.num_steps:,}{resumed}",
    )
    print("\n".join(line.rstrip() for line in lines), flush=True)


def _advance(
    run: Run, state: TrainState, stream: Any, checkpoints: store.Checkpoints
) -> tuple[TrainState, int]:
    """Train until the end or a signal; return the state and the signal's number."""
    cfg, options, start = run.cfg, run.cfg.training, int(state.step)
    rate, description = build.learning_rate(cfg), about.metadata(cfg, run.info)
    describe_failure = _failure(run.workdir, rate)

    def save(step: int, state: TrainState) -> None:
        if not _all_finite(state.params):
            raise UserError(
                f"the parameters are not finite after step {step}; "
                f"{describe_failure(step)}"
            )
        store.save(checkpoints, state, description)

    hooks = [Hook(options.checkpoint_every, save, when_stopped=True)]
    log = open_log(
        run.workdir, start=start, num_steps=options.num_steps, learning_rate=rate
    )
    with log as log, catch_interrupts() as interrupted:
        if options.sample_every:
            preview = make_preview(
                cfg, run.info, run.unet, run.mesh, run.workdir, log.image
            )
            hooks.append(Hook(options.sample_every, preview))
        state = train_loop(
            state,
            make_train_step(
                build.objective(cfg, run.unet, run.info),
                run.optimizer,
                ema_target=options.ema_decay,
                mesh=run.mesh,
                ema_stds=tuple(options.ema_stds),
            ),
            _onto_devices(data.iterate(stream, start), run.mesh),
            build.train_key(cfg),
            num_steps=options.num_steps,
            report_every=options.report_every,
            report=log.report,
            hooks=tuple(hooks),
            interrupted=lambda: bool(interrupted()),
            on_step=log.step,
            describe_failure=describe_failure,
        )
        return state, interrupted()


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    """Say whether every parameter is: a finite loss may still have overflowed them."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return jnp.stack(leaves).all()


def _onto_devices(
    batches: Iterator[dict[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Spread each batch, of which this host holds its part, over the mesh by rows."""
    by_row = rows(mesh)
    for batch in batches:
        yield {
            name: jax.make_array_from_process_local_data(by_row, part)
            for name, part in batch.items()
        }


def _failure(workdir: Path, rate: optax.Schedule) -> Callable[[int], str]:
    def describe_failure(step: int) -> str:
        good = store.latest_step(workdir)
        where = "none" if good is None else workdir / "checkpoints" / str(good)
        return (
            f"learning rate {float(rate(step - 1)):.3g}. Last good checkpoint: {where}."
            " Lower config.training.learning_rate or raise warmup_steps, in another "
            "--workdir."
        )

    return describe_failure
