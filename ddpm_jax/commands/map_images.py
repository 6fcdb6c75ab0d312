"""Map a function over all images of a data set, in order, on all devices."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ddpm_jax import data
from ddpm_jax.runtime.batching import map_batches
from ddpm_jax.runtime.devices import data_mesh, replicated, round_up, rows
from ddpm_jax.runtime.images import to_float

_PIXELS_AT_ONCE = 128 * 32 * 32  # on a device: its memory holds maps of many channels


def map_images(
    function: Callable[[Any, jax.Array], jax.Array], params: Any, source: data.Dataset
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Apply a function to each image once.

    Args:
        function: (params, x [B, H, W, C] in [-1, 1]) -> [B, ...]; it is jitted.
        params: its first argument.
        source: the images. Those that do not fit into memory are read ahead.

    Yields:
        What the function says of the next images, [B, ...], and their labels [B] or
        None; B is smaller at the end.

    Raises:
        UserError: an image cannot be read.
    """
    mesh = data_mesh()
    everywhere, by_row = replicated(mesh), rows(mesh)

    def of_bytes(params: Any, images: jax.Array) -> jax.Array:
        return function(params, to_float(images))

    compiled = jax.jit(
        of_bytes, in_shardings=(everywhere, by_row), out_shardings=by_row
    )
    params = jax.device_put(params, everywhere)
    height, width, _ = source.image_shape
    most = max(1, _PIXELS_AT_ONCE // (height * width)) * jax.device_count()
    size = round_up(min(most, len(source)))
    # Decoded images that were kept on disk for one pass would only take the room.
    source = dataclasses.replace(source, cache_key="")
    stream = data.batches(source, size, seed=0, shuffle=False)
    read, labels = data.iterate(stream), None  # of the batch that was read last

    def next_images(places: np.ndarray) -> np.ndarray:
        del places  # the stream is in their order, but begins anew after the last
        nonlocal labels
        batch = next(read)
        labels = batch.get("label")
        return batch["image"]

    for found in map_batches(
        lambda images: compiled(params, images),
        next_images,
        len(source),
        size,
        mesh=mesh,
    ):
        yield found, None if labels is None else labels[: len(found)]
