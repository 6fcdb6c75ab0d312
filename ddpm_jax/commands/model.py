"""Opening a trained model: from a workdir to a network with its parameters."""

import dataclasses
import errno
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from ddpm_jax import assembly
from ddpm_jax.codecs import Params
from ddpm_jax.commands.about import (
    check_same_model,
    check_schedule,
    info_of,
    newest_usable,
    step_of,
)
from ddpm_jax.commands.parameters import load_parameters, parameters_name
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import Parameters
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import data_mesh, sharded, spread_whole
from ddpm_jax.training import checkpoints as store


@dataclasses.dataclass(frozen=True)
class Described:
    """A model whose parameters are not read yet.

    Attributes:
        spec: what it is.
        info: what it knows of its data.
        step: of its checkpoint.
        about: the checkpoint's metadata.
    """

    spec: Diffusion
    info: assembly.DataInfo
    step: int
    about: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trained(Described, assembly.Model):
    """A model that can be sampled from.

    Attributes:
        params: its parameters, on all devices, and those of its autoencoder.
        described: which parameters these are, for a person to read.
    """

    params: Params
    described: str


def trained(model: assembly.Model, params: Any, **others: Any) -> Trained:
    """Put a model and its parameters together.

    Args:
        model: without them.
        params: of its network, on all devices.
        others: the other attributes of a `Trained`.
    """
    both = Params(params, spread_whole(model.codec.params, model.mesh))
    return Trained(**vars(model), params=both, **others)


def describe_model(spec: Diffusion, asked: Parameters, workdir: Path) -> Described:
    """Describe the model of a workdir by the metadata of its newest checkpoint.

    Or by those of the step that is asked for. Parameters are read only where metadata
    are damaged: whether they can be used, `find_model` says.

    Raises:
        UserError: as `find_model`.
    """
    check_same_model(spec, workdir)
    step = store.all_steps(workdir)[-1] if asked.step is None else asked.step
    try:
        about = store.read_metadata(workdir, step)
    except UserError:  # damaged, or removed by a trainer
        return find_model(spec, asked, workdir)
    return _described(spec, asked, workdir, step, about)


def find_model(spec: Diffusion, asked: Parameters, workdir: Path) -> Described:
    """Find the model of a workdir: the newest usable checkpoint, or that of a step.

    Raises:
        UserError: if the workdir holds no model, or the options do not fit it.
    """
    check_same_model(spec, workdir)
    step = step_of(asked, workdir)
    return _described(spec, asked, workdir, step, store.read_metadata(workdir, step))


def _described(
    spec: Diffusion, asked: Parameters, workdir: Path, step: int, about: dict[str, Any]
) -> Described:
    info = info_of(about)
    assembly.check(spec, info)
    assembly.check_parameters(asked)
    check_schedule(spec.schedule, about)
    assembly.use_copies(info, workdir)
    return Described(spec, info, step, about)


def open_model(recipe: Recipe[Diffusion], asked: Parameters, workdir: Path) -> Trained:
    """Find the model of a workdir, and put its parameters on the devices.

    Beside a trainer that removes older checkpoints, the newest is taken of the time.

    Raises:
        UserError: as `find_model`, or if the parameters are damaged.
    """
    check_same_model(recipe.task, workdir)
    open_step = functools.partial(_open_step, recipe, asked, workdir)
    if asked.step is None:
        return newest_usable(workdir, open_step)
    return open_step(asked.step)


def _open_step(
    recipe: Recipe[Diffusion], asked: Parameters, workdir: Path, step: int
) -> Trained:
    spec, mesh = recipe.task, data_mesh(recipe.devices.fsdp)
    about = store.read_metadata(workdir, step)
    found = _described(spec, asked, workdir, step, about)
    params, which = load_parameters(asked, workdir, found.step, placement=sharded(mesh))
    return trained(
        assembly.build_model(spec, found.info, mesh, workdir),
        params,
        step=found.step,
        about=found.about,
        described=f"the {which} parameters of step {found.step:,}",
    )


def model_request(asked: Parameters, found: Described) -> dict[str, Any]:
    """Describe which parameters are used, as plain data.

    Args:
        asked: which.
        found: the model.
    """
    return {
        "checkpoint_step": found.step,
        "parameters": parameters_name(asked),
        "fingerprint": digest(found.about.get("checksums")),
    }


def digest(plain: Any) -> str:
    """Hash plain data to 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def make_folder(folder: Path) -> Path:
    """Make a folder before the work, so that none is lost for want of a place.

    Raises:
        UnwritableError: it cannot be made, or written in.
        UserError: its name is too long.
    """
    try:
        return files.make_folder(folder)
    except files.UnwritableError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"cannot make {folder} ({cause.strerror}); shorten the options that "
                "its name is made of."
            ) from error
        raise
