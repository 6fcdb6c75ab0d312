"""Auxiliary models: an autoencoder, a classifier, a dual encoder, in a run's folder.

Each is trained by `fit` as a diffusion model is, and lies in the same folder:

    WORKDIR/config.json
            checkpoints/    parameters and averages; metadata with "kind" and "config"
            result.json     what it is, and how well it does; written last
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

import ddpm_jax
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import describe
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.fit import RESULT_FILE
from ddpm_jax.training.state import TrainState

DIFFUSION = "diffusion"
# What the first version wrote, which kept its small networks in a format of their own.
_OF_THE_FIRST_VERSION = "weights.npz"


class Kind(NamedTuple):
    """What a folder may hold, and how to speak of it.

    Attributes:
        name: in metadata.
        mode: of the program that makes one, and the end of its recipes' names.
        noun: what it is, with its article.
        verb: how another is made.
        facts: what its metadata and result have to hold.
    """

    name: str
    mode: str
    noun: str
    verb: str
    facts: Set[str]

    @property
    def the(self) -> str:
        """What it is, with the definite article."""
        return f"the {self.noun.partition(' ')[2]}"


def kind_named(name: str) -> Kind:
    """Make the kind of a task that only its own file knows.

    Args:
        name: that it is registered by.
    """
    return Kind(name, name, f"a model of kind {name}", "train", set())


def open_network(
    workdir: Path,
    kind: Kind,
    network: Callable[[dict[str, Any]], tuple[nn.Module, Sequence[Any]]],
    hashed: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda about: {},
) -> tuple[Any, Any, dict[str, Any]]:
    """Open the network of a model, with its averaged parameters and what describes it.

    Args:
        workdir: its folder.
        kind: of the model.
        network: what describes it -> the module, and inputs or their shapes [1, ...].
        hashed: what describes it -> numbers that its fingerprint is of beside its
            parameters, by name.

    Raises:
        UserError: there is none, it is not finished, or it is damaged.
    """
    described = about(workdir, kind)
    params = store.restore_params(workdir, step=described["step"])
    weights, again = flat_params(params), f"{kind.verb} it again, in another folder."
    try:
        net, inputs = network(described)
        shapes = parameter_shapes(net, *inputs)
        found = fingerprint(weights | dict(hashed(described)))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        net, shapes, found = None, {}, ""  # no such network can be made
    if shapes != {name: leaf.shape for name, leaf in weights.items()}:
        raise UserError(f"the weights in {workdir} do not fit its network; {again}")
    if found != described["fingerprint"]:
        raise UserError(
            f"the weights in {workdir} are not those that its result describes; {again}"
        )
    return net, traverse_util.unflatten_dict(weights, sep="/"), described


def about(workdir: Path, kind: Kind) -> dict[str, Any]:
    """Read what describes a finished model alone: metadata and result.

    Raises:
        UserError: there is none, it is not finished, or it is damaged.
    """
    path, bare = workdir / RESULT_FILE, kind.the.removeprefix("the ")
    refuse_another_kind(workdir, kind.name, kind.the)
    try:
        result = files.read_json(path)
    except FileNotFoundError as error:
        recipe = Path("configs") / f"{workdir.name}.py"
        if not recipe.exists():
            recipe = Path(f"configs/NAME_{kind.mode}.py")
        begun = store.latest_step(workdir) is not None
        there = f"{kind.noun} that is not finished" if begun else f"no {bare}"
        raise UserError(
            f"{workdir} holds {there}; train {'it' if begun else 'one'} with python "
            f"main.py --config={recipe} --workdir={workdir}"
        ) from error
    except files.DamagedError as error:
        raise UserError(
            f"{kind.the} in {workdir} cannot be read ({path.name}: {error}); "
            f"{kind.verb} it again, in another folder."
        ) from error
    step = result.get("step")
    if step is None:
        raise UserError(
            f"{path} does not describe {kind.noun}; {kind.verb} one in another folder."
        )
    found = {**store.read_metadata(workdir, step), **result}
    missing = kind.facts - set(found)
    if missing:
        raise UserError(
            f"{path} does not describe {kind.noun} (it lacks "
            f"{', '.join(sorted(missing))}); {kind.verb} one in another folder."
        )
    return found


def is_finished(workdir: Path) -> bool:
    """Say whether a folder holds a model whose training has ended."""
    return (workdir / RESULT_FILE).exists()


def refuse_another_kind(workdir: Path, kind: str, what: str) -> None:
    """Refuse a folder that holds something else.

    Args:
        workdir: the folder.
        kind: that is wanted there.
        what: that is called, with its article.

    Raises:
        UserError: it holds a model of another kind, or of the first version.
    """
    steps = store.all_steps(workdir)
    if not steps:
        if (workdir / _OF_THE_FIRST_VERSION).exists():
            raise UserError(
                f"{workdir} holds a network that ddpm_jax 0.1 wrote "
                f"({_OF_THE_FIRST_VERSION}), in a format that is no longer read; train "
                "it again, in another --workdir."
            )
        return
    found = None
    for step in reversed(steps):
        with contextlib.suppress(UserError):  # damaged: whoever restores it says so
            found = store.read_metadata(workdir, step).get("kind", DIFFUSION)
            break
    if found not in (None, kind):
        raise UserError(
            f"{workdir} holds a model of another kind ({found}); give {what} another "
            "--workdir."
        )


def write(
    workdir: Path,
    kind: Kind,
    params: Any,
    metadata: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Write a model that was not trained here, or is a copy, as a finished run.

    Args:
        workdir: its folder.
        kind: of the model.
        params: its parameters, a tree of arrays.
        metadata: of its checkpoint.
        result: what it is, and how well it does.

    Raises:
        UserError: it cannot be written.
    """
    params = jax.tree.map(jnp.asarray, params)
    state = TrainState(jnp.zeros((), jnp.int32), params, params, ())
    with store.open_checkpoints(workdir) as checkpoints:
        store.save(checkpoints, state, {"kind": kind.name, **metadata}, wait=True)
    files.write_json(workdir / RESULT_FILE, {**result, "step": 0})


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"ddpm_jax": ddpm_jax.__version__, "jax": jax.__version__}


def origin(seconds: float) -> dict[str, Any]:
    """Return how long a model took, on what, and by which versions."""
    return {
        "seconds": round(seconds, 1),
        "device": describe(),
        "versions": versions(),
    }


def flat_params(params: Any) -> dict[str, np.ndarray]:
    """Name every parameter [...] by its path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: np.asarray(leaf, np.float32) for name, leaf in sorted(flat.items())}


def fingerprint(flat: dict[str, np.ndarray]) -> str:
    """Hash names, shapes `[...]` and values to 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flat.items()):
        digest.update(f"{name} {leaf.shape}".encode() + leaf.tobytes())
    return digest.hexdigest()[:16]


def images_like(image_shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    """Stand for one image of (H, W, C), where only shapes are wanted."""
    return jax.ShapeDtypeStruct((1, *image_shape), np.float32)


def parameter_shapes(net: nn.Module, *inputs: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its path, for inputs [1, ...]."""
    expected = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    return traverse_util.flatten_dict(jax.tree.map(np.shape, expected), sep="/")
