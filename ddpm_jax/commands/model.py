"""Opening a trained model: from a workdir to a network with its parameters."""

import dataclasses
import errno
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from ddpm_jax import assembly
from ddpm_jax.codecs import Params
from ddpm_jax.commands.about import (
    check_same_model,
    check_schedule,
    info_of,
    newest_usable,
    step_of,
)
from ddpm_jax.commands.parameters import (
    load_parameters,
    named_as_worse,
    parameters_name,
    worse_of,
)
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
        worse: which parameters autoguidance goes away from, as plain data; None without
            it.
    """

    spec: Diffusion
    info: assembly.DataInfo
    step: int
    about: dict[str, Any]
    worse: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Trained(Described, assembly.Model):
    """A model that can be sampled from.

    Attributes:
        params: its parameters, on all devices, those of its autoencoder, and those that
            autoguidance goes away from.
        described: which parameters these are, for a person to read.
    """

    params: Params
    described: str


def trained(
    model: assembly.Model,
    params: Any,
    *,
    worse_params: Any = None,
    worse: dict[str, Any] | None = None,
    **others: Any,
) -> Trained:
    """Put a model and its parameters together.

    Args:
        model: without them.
        params: of its network, on all devices.
        worse_params: those that autoguidance goes away from.
        worse: which these are.
        others: the other attributes of a `Trained`.
    """
    of_codec = spread_whole(model.codec.params, model.mesh)
    whole = Params(params, of_codec, worse_params)
    return Trained(**vars(model), params=whole, worse=worse, **others)


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
    return Described(spec, info, step, about, _which(worse_of(asked, step), workdir))


def _which(worse: Parameters | None, workdir: Path) -> dict[str, Any] | None:
    """Describe the parameters that autoguidance goes away from, as plain data."""
    if worse is None:
        return None
    with named_as_worse():
        assembly.check_parameters(worse)
        assert worse.step is not None
        about = store.read_metadata(workdir, worse.step)
    return _named(worse, worse.step, about)


def open_worse(
    asked: Parameters, workdir: Path, step: int, mesh: Mesh
) -> tuple[Any, str]:
    """Read the parameters that autoguidance goes away from.

    Args:
        asked: with autoguidance, or without.
        workdir: of the model.
        step: of its checkpoint.
        mesh: the devices.

    Returns:
        The parameters, on all devices, and a description of them; None and "" without
        autoguidance.

    Raises:
        UserError: they are those of the model, damaged, or not there.
    """
    worse = worse_of(asked, step)
    if worse is None:
        return None, ""
    with named_as_worse():
        assembly.check_parameters(worse)
        assert worse.step is not None
        params, which = load_parameters(
            worse, workdir, worse.step, placement=sharded(mesh)
        )
    return params, f"the {which} parameters of step {worse.step:,}"


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
    worse_params, worse_than = open_worse(asked, workdir, found.step, mesh)
    described = f"the {which} parameters of step {found.step:,}"
    return trained(
        assembly.build_model(spec, found.info, mesh, workdir),
        params,
        worse_params=worse_params,
        worse=found.worse,
        step=found.step,
        about=found.about,
        described=f"{described}, away from {worse_than}" if worse_than else described,
    )


def model_request(asked: Parameters, found: Described) -> dict[str, Any]:
    """Describe which parameters are used, as plain data.

    Args:
        asked: which.
        found: the model.
    """
    own = _named(asked, found.step, found.about)
    return own if found.worse is None else {**own, "worse": found.worse}


def _named(asked: Parameters, step: int, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "checkpoint_step": step,
        "parameters": parameters_name(asked),
        "fingerprint": digest(about.get("checksums")),
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
