"""Training: from a config to a finished run, however often it is interrupted."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ddpm_jax import build, config, data, files, hosts, interrupts, plots
from ddpm_jax.build.autoencoder import Autoencoder
from ddpm_jax.commands import about
from ddpm_jax.commands.begin import check_start, settle
from ddpm_jax.commands.drawing import sample_folder, save_forward_film
from ddpm_jax.commands.encoding import autoencoder_of, encoded, keep_autoencoder
from ddpm_jax.commands.feed import Feed, make_feed
from ddpm_jax.commands.further import free_since_import
from ddpm_jax.commands.look import first_look, open_to_train, write_sheet
from ddpm_jax.commands.model import make_folder
from ddpm_jax.commands.parameters import check_tracks
from ddpm_jax.commands.plan import refuse_beyond_memory, short_plan
from ddpm_jax.commands.run import Run, plan, start_or_resume
from ddpm_jax.commands.sample import make_preview, sample
from ddpm_jax.devices import (
    describe,
    on_every_host,
    wait_for_all_hosts,
)
from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.log import open_log, quiet_log, read_metrics
from ddpm_jax.training.loop import Hook, catch_interrupts, train_loop
from ddpm_jax.training.owner import only_trainer
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import make_train_step
from ddpm_jax.training.tracker import Tracker, import_wandb, open_tracker

CONFIG_FILE = "config.json"

# A run may be taken up again with other values of these, and stays the same run.
_FREE_OPTIONS: tuple[str, ...] = (
    *about.FREE_OPTIONS,
    "training.checkpoint_every",
    "training.keep_every",
    "training.keep_last",
    "training.report_every",
    "training.sample_every",
    "training.sample_num_steps",
    "training.wandb",
)


def train(cfg: ConfigDict, workdir: Path) -> int:
    """Train to the end of the config, or go on from where a run stopped.

    Returns:
        0 if the run is finished, else 128 plus the number of the signal that
        interrupted it, its state saved.

    Raises:
        UserError: if config, data or workdir do not fit; before any compile.
    """
    source = open_to_train(cfg, workdir)
    autoencoder = autoencoder_of(cfg, workdir)
    info = build.data_info(source, cfg, autoencoder)
    build.check(cfg, info)
    build.check_training_effects(cfg, info)
    build.check_batch(cfg)
    mesh = build.mesh(cfg)
    check_tracks(cfg, cfg.training.ema_stds)
    project = cfg.training.wandb if jax.process_index() == 0 else None
    _check_workdir(cfg, workdir, info.fingerprint)
    newest = store.latest_step(workdir)
    done = newest is not None and newest >= cfg.training.num_steps
    if newest is not None and done and about.is_whole(workdir, newest):
        return _already_trained(cfg, workdir, newest)
    if newest is None:
        check_start(cfg, info, workdir)
    refuse_beyond_memory(cfg, info)
    if project:
        import_wandb(project)  # or refused, before anything is written
    looked = first_look(cfg, source, workdir)
    if autoencoder is None:
        # Decodes what fits in memory, and so finds a broken image before any compile.
        fed = source = data.ready(source, report=_say)
    else:
        fed = encoded(cfg, source, autoencoder, _say)
    feed = make_feed(
        fed,
        cfg.training.batch_size,
        seed=cfg.seed,
        mesh=mesh,
        max_mb_on_device=cfg.data.on_device_mb,
        captions=_read_captions(cfg, info, source),
    )
    make_folder(workdir)
    with (
        only_trainer(workdir) as check_alone,
        _begun(cfg, workdir, autoencoder),
        open_tracker(project, workdir, config.to_json(cfg)) as tracker,
        store.open_checkpoints(
            workdir,
            keep_last=cfg.training.keep_last,
            keep_every=cfg.training.keep_every or None,
        ) as checkpoints,
        hosts.as_one(),
    ):
        wait_for_all_hosts("the autoencoder in the workdir")
        run = plan(cfg, info, workdir, mesh)
        state = start_or_resume(run, checkpoints)
        _announce(run, source, int(state.step), state.params)
        if source.listing is not None:
            _say("\n".join([*looked, *short_plan(cfg, info)]))
            write_sheet(source, workdir)
        save_forward_film(cfg, source, workdir, run.space)
        state, signal_number = _advance(
            run, state, feed, checkpoints, tracker, check_alone
        )
        with interrupts.keeping():
            store.save(checkpoints, state, about.metadata(cfg, info), wait=True)
    wait_for_all_hosts("the last checkpoint")
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
    if on_every_host((folder / "grid.png").exists()):
        print(
            f"{workdir} is finished: {steps} steps. Its pictures are in {folder}. "
            "Nothing to do."
        )
        return 0
    print(f"{workdir} is trained: {steps} steps. Drawing from it.")
    sample(cfg, workdir)
    return 0


# --- The workdir ----------------------------------------------------------------------


def _check_workdir(cfg: ConfigDict, workdir: Path, fingerprint: str) -> None:
    """Refuse a workdir that belongs to a run of another config.

    Args:
        cfg: the options of now.
        workdir: the folder.
        fingerprint: of the data of now; where it is that of the run, the folder of the
            data may have been moved, or be spelled otherwise.

    Raises:
        UserError: it does.
    """
    path = workdir / CONFIG_FILE
    newest = store.latest_step(workdir)
    if newest is None:  # nothing has been trained that another config could spoil
        _refuse_foreign(path)
        return
    if not path.exists():
        return
    try:
        stored = config.from_json(files.read_json(path))
    except (FileNotFoundError, files.DamagedError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or use another --workdir."
        ) from error
    free = (*_FREE_OPTIONS, *free_since_import(workdir))
    if about.any_metadata(workdir)["data"]["fingerprint"] == fingerprint:
        free = (*free, *about.SPELLING)
    if cfg.training.decay == "constant":  # else the length is part of the rate
        free = (*free, "training.num_steps")
    changed = settle(cfg, stored, None if about.is_import(workdir) else newest)
    changed += [
        line for line in config.differences(stored, cfg) if not line.startswith(free)
    ]
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); use "
            "another --workdir, or the config of that run."
        )


def _refuse_foreign(path: Path) -> None:
    """Refuse to write over a config.json of something else, as many programs have."""
    try:
        known = files.read_json(path)
    except (FileNotFoundError, files.DamagedError):
        return  # none; or what another attempt left
    if "diffusion" not in known:
        raise UserError(
            f"{path} is not of a run of ddpm_jax; use another --workdir, since it "
            "would be written over."
        )


@contextlib.contextmanager
def _begun(
    cfg: ConfigDict, workdir: Path, autoencoder: Autoencoder | None
) -> Iterator[None]:
    """Write what a run begins with, once nobody else trains in the workdir."""
    files.write_json(workdir / CONFIG_FILE, config.to_json(cfg))
    keep_autoencoder(cfg, autoencoder, workdir)
    yield


# --- The run --------------------------------------------------------------------------


def _read_captions(
    cfg: ConfigDict, info: build.DataInfo, source: data.Dataset
) -> build.Captions | None:
    """Read the captions of the data, for a model that is told them."""
    return build.captions(cfg, info, source.texts or ()) if cfg.model.text else None


def _say(line: str) -> None:
    print(line, flush=True)


def _announce(run: Run, source: data.Dataset, step: int, params: Any) -> None:
    cfg, info = run.cfg, run.info
    shape = "x".join(map(str, info.image_shape))
    if info.latents is not None:
        inner = "x".join(map(str, info.shape))
        shape += f", in latents of {inner} of {info.latents.name}"
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    classes = build.num_classes(cfg, info)
    told = [f"{classes} classes"] if classes else []
    if info.reader is not None:
        kind, length = info.reader["kind"], info.reader["max_length"]
        told.append(f"captions of up to {length} tokens ({kind})")
    resumed = ", resumed" if step else ""
    lines = (
        f"data     {info.name}, {len(source):,} images of {shape}. {source.note}",
        f"network  {count:,} parameters, {', '.join(told) or 'unconditional'}",
        f"device   {describe()}, {cfg.model.dtype}",
        f"run      {run.workdir}, step {step:,} of {cfg.training.num_steps:,}{resumed}",
    )
    print("\n".join(line.rstrip() for line in lines), flush=True)


def _advance(
    run: Run,
    state: TrainState,
    feed: Feed,
    checkpoints: store.Checkpoints,
    tracker: Tracker,
    check_alone: Callable[[], None],
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
        check_alone()
        store.save(checkpoints, state, description)

    hooks = [Hook(options.checkpoint_every, save, when_stopped=True)]
    opened = quiet_log()
    if jax.process_index() == 0:
        opened = open_log(
            run.workdir,
            start=start,
            num_steps=options.num_steps,
            learning_rate=rate,
            tracker=tracker,
        )
    with opened as log, catch_interrupts(start) as interrupted:
        if options.sample_every:
            preview = make_preview(
                cfg, run.info, run.unet, run.mesh, run.space, run.workdir, log.image
            )
            hooks.append(Hook(options.sample_every, preview))

        def on_step() -> None:
            log.step()
            store.check(checkpoints)

        state = train_loop(
            state,
            make_train_step(
                build.objective(cfg, run.unet, run.info),
                run.optimizer,
                ema_target=options.ema_decay,
                mesh=run.mesh,
                ema_stds=tuple(options.ema_stds),
                placed=run.placed,
                num_parts=options.accumulate,
            ),
            feed(start),
            build.train_key(cfg),
            num_steps=options.num_steps,
            report_every=options.report_every,
            report=log.report,
            hooks=tuple(hooks),
            interrupted=lambda: bool(interrupted()),
            on_step=on_step,
            describe_failure=describe_failure,
        )
        return state, interrupted()


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    """Say whether every parameter is: a finite loss may still have overflowed them."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return jnp.stack(leaves).all()


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
