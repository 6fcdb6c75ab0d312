"""An image with a part that is masked as a condition, for inpainting."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ddpm_jax.conditioning.image_maps import ImageMap
from ddpm_jax.conditioning.masks import random_mask


def from_mask(x0: jax.Array, known: jax.Array) -> jax.Array:
    """Make rows of what is known of an image, and where that is: [B, H, W, C + 1].

    Args:
        x0: [B, H, W, C]; what stands where nothing is known changes nothing.
        known: 1 where known and 0 elsewhere, [B, H, W, 1].
    """
    known = jnp.asarray(known, x0.dtype)
    kept = jnp.where(known != 0, x0, 0.0)
    return jnp.concatenate([known, kept], axis=-1)


@dataclasses.dataclass(frozen=True)
class Masked(ImageMap):
    """Condition on an image with a random part masked; see `masks.random_mask`."""

    named: ClassVar[str] = "masked"

    def from_given(
        self, keys: jax.Array, given: Mapping[str, Any], aug_level: float
    ) -> jax.Array:
        """Make rows [B, H, W, C + 1] of an image with the mask given beside it."""
        del keys, aug_level
        return from_mask(given["image"], given["mask"][..., :1])

    def from_images(
        self,
        keys: jax.Array,
        x0: jax.Array,
        aug_level: jax.Array | float | None = None,
    ) -> jax.Array:
        """Mask images [B, H, W, C] at random; see `ImageMap`."""
        del aug_level
        known = _random_masks(keys, (x0.shape[1], x0.shape[2]))
        return from_mask(x0, known[..., None])

    def measure(self, x0: jax.Array) -> None:
        """Return nothing: the known pixels of x0 [B, H, W, C] are kept exactly."""
        del x0

    def show(self, rows: jax.Array) -> jax.Array:
        """Return what is known [B, H, W, C], zeros (mid grey) elsewhere."""
        return rows[..., 1:]


@partial(jax.jit, static_argnames="shape")
def _random_masks(keys: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Draw a mask [H, W] of each key, as one program where a batch is drawn alone."""
    return jax.vmap(lambda key: random_mask(key, shape))(keys)
