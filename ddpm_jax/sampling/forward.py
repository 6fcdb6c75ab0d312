"""The forward process of real data: trajectories of q(x_t | x_0)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.codecs import Codec
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.schedules import Schedule


def forward_trajectory(
    key: jax.Array,
    items: np.ndarray,
    schedule: Schedule,
    num_frames: int,
    codec: Codec,
) -> np.ndarray:
    """Noise real data step by step, as q(x_t | x_0) does.

    One sample of the noise serves all frames, so that a row shows one item vanish in
    the same noise.

    Args:
        key: of the noise.
        items: as they are stored, [F, ...], such as images in uint8.
        schedule: the forward process.
        num_frames: K >= 2, the clean items first, then evenly in t up to T.
        codec: between items and the x that is noised, with its parameters.

    Returns:
        Items as they are stored, [K, F, ...].
    """
    encode = partial(jax.jit(codec.encode), codec.params)
    decode = partial(jax.jit(codec.decode), codec.params)
    # In NumPy where possible: each operation of JAX is a program to compile.
    x0 = encode(jnp.asarray(codec.load(items)))
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    times = jnp.linspace(-1, schedule.num_levels - 1, num_frames).round()
    noised = [add_noise(x0, eps, schedule.at(t.astype(jnp.int32))) for t in times]
    return np.asarray(codec.store(np.stack([np.asarray(decode(x)) for x in noised])))
