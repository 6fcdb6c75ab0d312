"""Training a network of minutes, kept whole or not at all.

For the networks through whose eyes a diffusion model is judged. There are no
checkpoints: what is interrupted begins again.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

import ddpm_jax
from ddpm_jax import build, config, data, files
from ddpm_jax.build import weights_folder
from ddpm_jax.commands.feed import make_feed
from ddpm_jax.commands.same_run import refuse_another
from ddpm_jax.devices import describe, replicated
from ddpm_jax.errors import UserError
from ddpm_jax.training.loop import Pace
from ddpm_jax.training.objective import Objective
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import init_state, make_train_step


def is_finished(
    cfg: ConfigDict,
    workdir: Path,
    kind: weights_folder.Kind,
    fingerprint: str,
    spell: Callable[[dict[str, Any], Path], str],
) -> bool:
    """Say whether a folder has such a network already, and tell the user.

    Args:
        cfg: all of it; the kind's mode is the name of its section.
        workdir: the folder.
        kind: of network.
        fingerprint: of the data of now.
        spell: describes what a folder says of itself.

    Raises:
        UserError: it has one of another config or of other data.
    """
    if not (workdir / kind.about).exists():
        return False
    about = weights_folder.about(workdir, kind)
    refuse_another(
        cfg,
        workdir,
        about,
        fingerprint,
        section=kind.mode,
        noun=kind.noun,
        free=("data.data_dir", f"{kind.mode}.report_every"),
    )
    print(f"{spell(about, workdir)} It is finished. Nothing to do.")
    return True


def keep(
    cfg: ConfigDict,
    workdir: Path,
    kind: weights_folder.Kind,
    weights: dict[str, np.ndarray],
    about: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    """Write a network, and last what it is, which says that the folder is complete.

    Args:
        cfg: all of it.
        workdir: the folder.
        kind: of network.
        weights: its parameters `[...]` by their path.
        about: what it is, and how well it does.
        started: when, by `time.perf_counter`.

    Returns:
        What was written of it.
    """
    written = about | {
        "seconds": round(time.perf_counter() - started, 1),
        "device": describe(),
        "versions": {"ddpm_jax": ddpm_jax.__version__, "jax": jax.__version__},
        "config": config.to_json(cfg),
    }
    files.write_npz(workdir / weights_folder.WEIGHTS, weights)
    files.write_json(workdir / kind.about, written)
    return written


def train_small(
    cfg: ConfigDict,
    section: str,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    params: Any,
    key: jax.Array,
    source: data.Dataset,
    interrupted: Callable[[], int],
    captions: build.Captions | None = None,
) -> TrainState:
    """Train to the end of a section's steps, or until interrupted.

    Args:
        cfg: all of it.
        section: of the config, with num_steps, batch_size, learning_rate, ema_decay,
            report_every and perhaps accumulate.
        objective: whose metrics are "loss" and "accuracy", the latter of the batch.
        optimizer: optax's.
        params: the initial ones.
        key: [], of the run.
        source: images.
        interrupted: asked after each step; a number that is not 0 ends it.
        captions: what the images' texts were read as, if it is told them.

    Returns:
        The last state; its step tells whether it is finished.

    Raises:
        UserError: the loss is not finite, or an image cannot be read.
    """
    options, mesh = cfg[section], build.mesh(cfg)
    step = make_train_step(
        objective,
        optimizer,
        ema_target=options.ema_decay,
        mesh=mesh,
        num_parts=options.get("accumulate", 1),
    )
    state = jax.device_put(init_state(params, optimizer), replicated(mesh))
    feed = make_feed(
        source,
        options.batch_size,
        seed=cfg.seed,
        mesh=mesh,
        max_mb_on_device=cfg.data.on_device_mb,
        captions=captions,
    )
    numbers = range(1, options.num_steps + 1)
    bar = tqdm(total=options.num_steps, unit="step", disable=None, dynamic_ncols=True)
    pace = Pace()
    with bar:
        for number, batch in zip(numbers, feed(0), strict=False):
            state, metrics = step(state, key, batch)
            pace(metrics["loss"])
            bar.update()
            if number % options.report_every == 0 or number == options.num_steps:
                loss, right = float(metrics["loss"]), float(metrics["accuracy"])
                if not np.isfinite(loss):
                    raise UserError(
                        f"loss is {loss} at step {number}; lower "
                        f"config.{section}.learning_rate."
                    )
                said = f"loss {loss:.3f}, {right:.1%} of the batch right"
                bar.set_postfix_str(said)
                if bar.disable:
                    print(f"step {number}/{options.num_steps}: {said}", flush=True)
            if interrupted():
                break
    return state
