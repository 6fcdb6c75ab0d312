"""The grey of a color image as a condition, for colorization."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ddpm_jax.conditioning.image_maps import ImageMap
from ddpm_jax.diffusion.operators import grey_operator
from ddpm_jax.errors import UserError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey of video, ITU-R BT.601."""


@dataclasses.dataclass(frozen=True)
class Grey(ImageMap):
    """Condition on the luma of a color image: rows [B, H, W, 1].

    By which nearly every program turns color into grey: a grey photograph is then what
    the network has seen in training.
    """

    named: ClassVar[str] = "grey"

    def from_images(
        self,
        keys: jax.Array | None,
        x0: jax.Array,
        aug_level: jax.Array | float | None = None,
    ) -> jax.Array:
        """Compute the luma of images [B, H, W, 3]; see `ImageMap`."""
        del keys, aug_level
        return self.measure(x0)

    def for_data(self, data: Any) -> ImageMap:
        """Return itself.

        Raises:
            UserError: as `ImageMap`; or the images have no color.
        """
        super().for_data(data)
        if data.image_shape[-1] != 3:
            raise UserError(
                f"grey is made of color images (3 channels), and those of {data.name} "
                f"have {data.image_shape[-1]}; leave it out."
            )
        return self

    def measure(self, x0: jax.Array) -> jax.Array:
        """Compute the luma: [B, H, W, 1]."""
        return grey_operator(3, LUMA).apply(x0)

    def show(self, rows: jax.Array) -> jax.Array:
        """Repeat the luma in three channels: [B, H, W, 3]."""
        return jnp.broadcast_to(rows, (*rows.shape[:-1], 3))
