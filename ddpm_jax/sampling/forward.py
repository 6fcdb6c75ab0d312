"""The forward process of real images: how q(x_t | x_0) destroys them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.runtime.images import to_float, to_uint8


def forward_trajectory(
    key: jax.Array,
    images: np.ndarray,
    schedule: Schedule,
    num_frames: int,
    *,
    encode: Callable[[jax.Array], jax.Array] = lambda x: x,
    decode: Callable[[jax.Array], jax.Array] = lambda x: x,
    load: Callable[[Any], Any] = to_float,
    store: Callable[[Any], Any] = to_uint8,
) -> np.ndarray:
    """Noise real images step by step, as q(x_t | x_0) does.

    One draw of noise is used for a whole row, so that the eye can follow a picture
    into it.

    Args:
        key: of the noise.
        images: uint8 [F, H, W, C].
        schedule: the forward process.
        num_frames: K >= 2, the clean images first, then evenly in t up to T.
        encode: from images in [-1, 1] to what is noised.
        decode: from that to images.
        load: from items as they are stored to floating point.
        store: its inverse.

    Returns:
        uint8 [K, F, H, W, C].
    """
    # In NumPy what it can do: an operation of JAX is a program to load.
    x0 = encode(jnp.asarray(load(images)))
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    times = jnp.linspace(-1, schedule.num_levels - 1, num_frames).round()
    noised = [add_noise(x0, eps, schedule.at(t.astype(jnp.int32))) for t in times]
    return np.asarray(store(np.stack([np.asarray(decode(x)) for x in noised])))
