"""Training a network of minutes, kept whole or not at all.

For the networks through whose eyes a diffusion model is judged. There are no
checkpoints: what is interrupted begins again.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

from ddpm_jax import build, data
from ddpm_jax.commands.feed import make_feed
from ddpm_jax.devices import replicated
from ddpm_jax.errors import UserError
from ddpm_jax.training.loop import Pace
from ddpm_jax.training.objective import Objective
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import init_state, make_train_step


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
