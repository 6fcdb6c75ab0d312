"""All images of a data set through a function, in order, spread over all devices."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ddpm_jax import data
from ddpm_jax.runtime.devices import (
    data_mesh,
    gathered,
    replicated,
    round_up,
    rows,
    spread,
)
from ddpm_jax.runtime.images import to_float

_PIXELS_AT_ONCE = 128 * 32 * 32  # on a device: its memory holds maps of many channels


def over_images(
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
    for start, batch in zip(
        range(0, len(source), size), data.iterate(stream), strict=False
    ):
        found = gathered(compiled(params, spread(batch["image"], by_row)))
        # The last batch goes on with the first images; they have been seen.
        left, labels = len(source) - start, batch.get("label")
        yield found[:left], None if labels is None else labels[:left]
