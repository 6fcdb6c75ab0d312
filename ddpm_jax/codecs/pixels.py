"""Pixels: the chain is made of the images themselves.

As in Ho et al. 2020, uint8 is scaled to [-1, 1] and images are mirrored at random, both
on the device.
"""

import jax
import jax.numpy as jnp

from ddpm_jax.codecs.codec import Codec, Start, unencoded
from ddpm_jax.runtime.images import to_float


def pixels(image_shape: tuple[int, ...]) -> Codec:
    """Return the codec of images (H, W, C), uint8 in [-1, 1] and else as they are."""
    return unencoded(image_shape)


def from_bytes(*, flip: bool) -> Start:
    """Start training from images uint8 [B, H, W, C], with `flip` mirrored at random."""

    def start(key: jax.Array, images: jax.Array) -> jax.Array:
        x0 = to_float(images)
        return random_flip(key, x0) if flip else x0

    return start


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image [B, H, W, C] left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, jnp.float32(0.5), images.shape[:1])
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
