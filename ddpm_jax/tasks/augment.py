"""Augmentation of image batches on the device: random mirroring and shifts."""

import jax
import jax.numpy as jnp

from ddpm_jax.codecs.pixels import random_flip


def random_shift(key: jax.Array, images: jax.Array, most: int) -> jax.Array:
    """Move each image [B, H, W, C] by up to `most` pixels each way, edge repeated."""
    if not most:
        return images
    batch, height, width, channels = images.shape
    around = ((0, 0), (most, most), (most, most), (0, 0))
    padded = jnp.pad(images, around, mode="edge")
    corners = jax.random.randint(key, (batch, 2), 0, 2 * most + 1, jnp.int32)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], jnp.int32(0))
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def shift_and_flip(
    key: jax.Array, images: jax.Array, *, max_shift: int, flip: bool
) -> jax.Array:
    """Shift each image [B, H, W, C], and mirror half of them if asked."""
    shift_key, flip_key = jax.random.split(key)
    shifted = random_shift(shift_key, images, max_shift)
    return random_flip(flip_key, shifted) if flip else shifted
