"""A trained network in a folder of its own, beside those of diffusion runs.

WORKDIR/
    weights.npz     parameters, float32, named by their path
    KIND.json       what it is, and how well it does; written last
"""

import contextlib
import hashlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ddpm_jax import files
from ddpm_jax.errors import UserError

WEIGHTS = "weights.npz"


class Kind(NamedTuple):
    """What a folder may hold, and how to speak of it.

    Attributes:
        mode: of the program that makes one, and the end of its recipes' names.
        noun: what it is, with its article.
        verb: how another is made.
        about: the file that describes it.
        told: what that file has to say.
    """

    mode: str
    noun: str
    verb: str
    about: str
    told: Set[str]


def read(workdir: Path, kind: Kind) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what describes a network, and its weights by their path.

    Raises:
        UserError: there is none, or it is damaged.
    """
    described = about(workdir, kind)
    with _explained(workdir, kind):
        return described, files.read_npz(workdir / WEIGHTS)


def about(workdir: Path, kind: Kind) -> dict[str, Any]:
    """Read what describes a network alone.

    Raises:
        UserError: there is none, or it is damaged.
    """
    with _explained(workdir, kind):
        try:
            found = files.read_json(workdir / kind.about)
        except files.DamagedError:
            found = files.read_json(workdir / kind.about, list)  # JSON, of no network
    missing = kind.told - set(found) if isinstance(found, dict) else kind.told
    if missing:
        raise UserError(
            f"{workdir / kind.about} does not describe {kind.noun} (it lacks "
            f"{', '.join(sorted(missing))}); {kind.verb} one in another folder."
        )
    return found


@contextlib.contextmanager
def _explained(workdir: Path, kind: Kind) -> Iterator[None]:
    """Say what a file that is missing or damaged means to the user."""
    _, bare = kind.noun.split(maxsplit=1)
    try:
        yield
    except FileNotFoundError as error:
        recipe = Path("configs") / f"{workdir.name}.py"
        if not recipe.exists():
            recipe = Path(f"configs/NAME_{kind.mode}.py")
        raise UserError(
            f"{workdir} holds no {bare}; train one with python main.py "
            f"--mode={kind.mode} --config={recipe} --workdir={workdir}"
        ) from error
    except (OSError, ValueError, files.DamagedError) as error:
        raise UserError(
            f"the {bare} in {workdir} cannot be read ({error}); {kind.verb} it again, "
            "in another folder."
        ) from error


def flat_weights(params: Any) -> dict[str, np.ndarray]:
    """Name every parameter by its path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: np.asarray(leaf, np.float32) for name, leaf in sorted(flat.items())}


def as_params(weights: dict[str, np.ndarray]) -> Any:
    """Make parameters of weights `[...]` by their path; undoes `flat_weights`."""
    return traverse_util.unflatten_dict(weights, sep="/")


def fingerprint(weights: dict[str, np.ndarray]) -> str:
    """Hash names, shapes `[...]` and values to 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for name, leaf in sorted(weights.items()):
        digest.update(f"{name} {leaf.shape}".encode() + leaf.tobytes())
    return digest.hexdigest()[:16]


def parameter_shapes(
    net: nn.Module, image_shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its path, for images of (H, W, C)."""
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    expected = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
    return traverse_util.flatten_dict(jax.tree.map(np.shape, expected), sep="/")
