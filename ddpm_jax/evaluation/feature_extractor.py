"""Feature extractors: a network, or any function of images, run over all devices.

    mean_color = from_function("mean color", lambda images: images.mean((1, 2)))
    outputs = extract(mean_color, images)       # features [N, D]

A score depends on its features, so that a `FeatureExtractor` carries its name, the
hash of its weights, and how images are resized for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.batching import join, map_batches
from ddpm_jax.runtime.devices import data_mesh, replicated, rows


class Outputs(NamedTuple):
    """Features and class logits of images.

    Attributes:
        features: float32 [B, D].
        logits: float32 [B, K], of classes; None if it has no classifier head.
    """

    features: Any
    logits: Any | None


@dataclass(frozen=True)
class FeatureExtractor:
    """A function from images to features, and what its scores are reported with.

    Attributes:
        name: what scores are named after.
        fingerprint: 16 hexadecimal digits of a SHA-256 over the weights; "" if it has
            none, and then nothing computed from it is stored for later.
        num_features: D; None if it is only known after a call.
        label_names: what the logits stand for, if for classes of data; else None.
        resize: how images are brought to its size, "none" if they are taken as such.
        image_shape: (H, W, C) that it takes; None if it takes any.
        params: a tree of arrays.
        apply: (params, uint8 [B, H, W, C]) -> Outputs; pure, and compiled by `extract`.
    """

    name: str
    fingerprint: str
    num_features: int | None
    label_names: tuple[str, ...] | None
    resize: str
    image_shape: tuple[int, int, int] | None
    params: Any
    apply: Callable[[Any, jax.Array], Outputs]


def from_function(
    name: str, function: Callable[[jax.Array], jax.Array], *, resize: str = "none"
) -> FeatureExtractor:
    """Make features of any function of images.

    Args:
        name: what its scores are called after.
        function: uint8 [B, H, W, C] -> [B, D], made of JAX operations.
        resize: what it does to the size of images, to be printed with the scores.
    """

    def apply(params: Any, images: jax.Array) -> Outputs:
        del params
        return Outputs(jnp.asarray(function(images), jnp.float32), None)

    return FeatureExtractor(name, "", None, None, resize, None, (), apply)


class Extract(NamedTuple):
    """Features, ready to compile for batches of one size.

    Attributes:
        program: uint8 [B, H, W, C], spread over the mesh -> Outputs, spread likewise.
        mesh: the devices.
    """

    program: Callable[[Any], Outputs]
    mesh: Mesh


def make_extract(features: FeatureExtractor, mesh: Mesh) -> Extract:
    """Compile-ready extraction of one batch, its rows spread over the mesh."""
    everywhere, by_row = replicated(mesh), rows(mesh)
    compiled = jax.jit(
        features.apply, in_shardings=(everywhere, by_row), out_shardings=by_row
    )
    params = jax.device_put(features.params, everywhere)

    def program(images: Any) -> Outputs:
        with jax.default_matmul_precision("highest"):
            return compiled(params, images)

    return Extract(program, mesh)


def extract(
    features: FeatureExtractor,
    images: np.ndarray,
    *,
    batch_size: int = 64,
    run: Extract | None = None,
) -> Outputs:
    """Compute the features of any number of images in batches of one size.

    Args:
        features: the network.
        images: uint8 [N, H, W, C].
        batch_size: B, rounded up to a multiple of the devices.
        run: from `make_extract`, where several calls share one program.

    Returns:
        float32 [N, D] and [N, K] or None.

    Raises:
        UserError: images of another size or type than the features take, or features
            that are not finite.
    """
    check_images(features, images)
    run = run or make_extract(features, data_mesh())
    return join(
        map_batches(
            run.program,
            images,
            len(images),
            batch_size,
            mesh=run.mesh,
            not_finite=lambda what, first, last: (
                f"{what} of an image among {first} to {last} are not finite; check "
                f"those images, and at the weights of {features.name}."
            ),
        )
    )


def check_images(features: FeatureExtractor, images: np.ndarray) -> None:
    """Refuse images [N, H, W, C] that these features are not made for.

    Raises:
        UserError: wrong type, axes, number of channels or size.
    """
    shape = tuple(images.shape)
    if images.dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3):
        raise UserError(
            f"images are {images.dtype} {list(shape)}; want uint8 [N, H, W, C] with "
            "values 0 to 255 and 1 or 3 channels."
        )
    if not len(images):
        raise UserError("there are no images to score; give at least two.")
    wanted = features.image_shape
    if wanted is not None and shape[1:] != tuple(wanted):
        raise UserError(
            f"images are {'x'.join(map(str, shape[1:]))}, and {features.name} takes "
            f"{'x'.join(map(str, wanted))}; resize them, or use features made for "
            "their size."
        )
