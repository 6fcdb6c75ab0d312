"""What a run is made of, and the state with which it starts or goes on."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import build
from ddpm_jax.build import DataInfo, Space
from ddpm_jax.commands import about
from ddpm_jax.commands.begin import start_params
from ddpm_jax.commands.further import from_import
from ddpm_jax.devices import sharded, spread
from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import init_state


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run that do not change while it trains."""

    cfg: ConfigDict
    info: DataInfo
    workdir: Path
    unet: build.AnyUNet
    space: Space
    optimizer: optax.GradientTransformation
    mesh: Mesh
    abstract: TrainState  # of each leaf its shape, type and sharding

    @property
    def placed(self) -> TrainState:
        """The sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)


def plan(cfg: ConfigDict, info: DataInfo, workdir: Path, mesh: Mesh) -> Run:
    """Build the parts of a run, computing nothing."""
    unet, optimizer = build.model(cfg, info), build.optimizer(cfg)

    def fresh() -> TrainState:
        return _state(cfg, optimizer, build.init_params(cfg, unet, info))

    place = sharded(mesh)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place(leaf.shape)
        ),
        jax.eval_shape(fresh),
    )
    space = build.space(info, workdir)
    return Run(cfg, info, workdir, unet, space, optimizer, mesh, abstract)


def _state(
    cfg: ConfigDict, optimizer: optax.GradientTransformation, params: Any
) -> TrainState:
    return init_state(
        params,
        optimizer,
        memory=build.time_sampler(cfg).init(),
        num_tracks=len(cfg.training.ema_stds),
    )


def start_or_resume(run: Run, checkpoints: store.Checkpoints) -> TrainState:
    """Restore the newest whole checkpoint onto the mesh, or draw the parameters.

    Raises:
        UserError: the data are not those that the run was trained on so far, or the
            checkpoints cannot be used.
    """
    if about.is_import(run.workdir):
        state = from_import(run.cfg, run.info, run.workdir, run.optimizer)
        return jax.tree.map(
            lambda leaf, place: spread(np.asarray(leaf), place), state, run.placed
        )
    restored = store.restore_latest(checkpoints, run.abstract)
    if restored is None:
        return _start(run)
    state, step, stored = restored
    was, now = stored["data"]["fingerprint"], run.info.fingerprint
    if was != now:
        raise UserError(
            f"the data of this run have changed since step {step} (fingerprint {was}, "
            f"now {now}); restore them, or use another --workdir."
        )
    if about.info_of(stored).latents != run.info.latents:
        raise UserError(
            f"the autoencoder of the run in {run.workdir} has changed since step "
            f"{step}; restore it, or use another --workdir."
        )
    _tell_of_devices(stored, run.cfg)
    return state


def _start(run: Run) -> TrainState:
    """Draw or read the parameters on one device, and put the state where it belongs.

    Drawn over several devices they might be rounded in another way.
    """
    if run.cfg.training.init_from:
        drawn = start_params(run.cfg)
    else:
        drawn = build.init_params(run.cfg, run.unet, run.info)
    placed = run.placed
    params = jax.tree.map(
        lambda leaf, place: spread(np.asarray(leaf), place), drawn, placed.params
    )

    def fill(params: Any) -> TrainState:
        return _state(run.cfg, run.optimizer, params)

    return jax.jit(fill, out_shardings=placed)(params)


def _tell_of_devices(stored: dict[str, Any], cfg: ConfigDict) -> None:
    """Note that other devices round in another way; older runs did not keep count."""
    now = (jax.device_count(), cfg.mesh.fsdp)
    before = (
        stored.get("num_devices", now[0]),
        stored.get("mesh", {}).get("fsdp", 1),
    )
    if before != now:
        was, is_now = (
            f"{count} device(s)" + (f" (fsdp={fsdp})" if fsdp > 1 else "")
            for count, fsdp in (before, now)
        )
        print(
            f"note: {was} so far, {is_now} now; sums over a batch are rounded in "
            "another order from here on.",
            file=sys.stderr,
        )
