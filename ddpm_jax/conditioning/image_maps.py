"""What conditions that are maps made of an image have in common.

A network that is shown a map c of x_0 learns p(x_0 | c) where an unconditional one
knows p(x_0) alone. In training c is made of x_0 itself, on the device. It is joined to
x_t as further channels, `[B, H, W, K]` in about [-1, 1]:

    low_res.py    the mean over blocks, resized to H x W again             K = C
    grey.py       the luma of a color image                                K = 1
    masked.py     where the image is known (1 or 0), and what is known     K = C + 1

An image map is never dropped: neither in training nor by guidance.

Source: Saharia et al. 2022, "Palette: Image-to-Image Diffusion Models": colorization
    and inpainting by an image that is joined to x_t.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.conditioning.conditioner import Conditioner, Embedder, Rows
from ddpm_jax.diffusion.generate import fold_each
from ddpm_jax.errors import UserError
from ddpm_jax.networks.ports import Ports
from ddpm_jax.runtime.images import to_float

# Beyond the numbers by which `generate` splits an image's key.
_MAP = 2


class Source(NamedTuple):
    """Images of which maps are to be made, on the device and once before a chain.

    Attributes:
        image: uint8 [B, H, W, C].
        key: data of the keys of the maps' noise or masks, uint32 [B, 2].
        aug_level: float32 [B], of the maps; see `low_res`.
    """

    image: Any
    key: Any
    aug_level: Any


def map_keys(keys: jax.Array) -> jax.Array:
    """Derive from images' keys [B] those of the noise or the mask of their maps."""
    return fold_each(keys, _MAP)


@dataclasses.dataclass(frozen=True)
class ImageMap(Conditioner):
    """A conditioner whose rows are made of images."""

    droppable: ClassVar[bool] = False
    required: ClassVar[bool] = True

    def for_data(self, data: Any) -> "ImageMap":
        """Return itself.

        Raises:
            UserError: the chain is made of latents: maps are of pixels.
        """
        if data.latents is not None:
            raise UserError(
                f"{type(self).__name__} is of pixels, and this model works in latents; "
                "use a model of pixels, trained without config.codec latents."
            )
        return self

    def from_given(
        self, keys: jax.Array, given: Mapping[str, Any], aug_level: float
    ) -> Rows:
        """Make rows of what a user gives: an image, and a mask where it is masked.

        Args:
            keys: of the images that are generated, typed keys [B].
            given: "image" [B, H, W, C] in [-1, 1], and perhaps "mask".
            aug_level: s in [0, 1].
        """
        return self.from_images(map_keys(keys), given["image"], aug_level)

    def from_images(
        self,
        keys: jax.Array,
        x0: jax.Array,
        aug_level: jax.Array | float | None = None,
    ) -> Rows:
        """Make maps of clean images, row i from key i alone.

        Args:
            keys: typed keys [B].
            x0: [B, H, W, C] in [-1, 1].
            aug_level: s in [0, 1], [] or [B]; None for what training wants: drawn,
                where there is an augmentation at all.
        """
        raise NotImplementedError

    def measure(self, x0: jax.Array) -> jax.Array | None:
        """Compute what a map keeps of x0 [B, H, W, C]; None if it is pixels as such."""
        raise NotImplementedError

    def show(self, rows: Rows) -> jax.Array:
        """Make of rows images for a person, [B, H, W, C]."""
        raise NotImplementedError

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> Rows:
        """Make maps of the images [B, H, W, C] that are to be predicted."""
        del batch
        return self.from_images(jax.random.split(key, len(x0)), x0, None)

    def from_request(
        self, keys: jax.Array, images: np.ndarray, aug_level: float
    ) -> Source:
        """Lay out images of which maps are made, small enough to be sent to devices.

        Args:
            keys: of the images that are drawn, typed keys [B].
            images: uint8 [B, H, W, C].
            aug_level: s in [0, 1].
        """
        data = np.asarray(jax.random.key_data(map_keys(keys)))
        return Source(images, data, np.full(len(images), aug_level, np.float32))

    def from_source(self, rows: Rows | Source) -> Rows:
        """Make maps of a `Source`; rows that are maps already stay as they are."""
        if not isinstance(rows, Source):
            return rows
        keys = jax.random.wrap_key_data(rows.key)
        return self.from_images(keys, to_float(rows.image), rows.aug_level)

    def null(self, rows: Rows) -> Rows:
        """Leave the map: it is never dropped."""
        return rows

    def example(self, num_rows: int, shape: tuple[int, ...]) -> Rows:
        """Make maps of mid-grey images."""
        keys = jax.random.wrap_key_data(jnp.zeros((num_rows, 2), jnp.uint32))
        return self.from_images(keys, jnp.zeros((num_rows, *shape), jnp.float32), None)

    def embedder(self, features: int) -> Embedder:
        """Make the module that hands on the map."""
        del features
        return MapEmbedder(self)


class MapEmbedder(Embedder):
    """A map as it is, to be joined to x_t.

    Attributes:
        conditioner: that makes the maps.
    """

    conditioner: ImageMap

    def encode(self, rows: Rows | Source, *, train: bool = False) -> Rows:
        """Make maps of images, once before a chain."""
        del train
        return self.conditioner.from_source(rows)

    def __call__(self, rows: Rows | Source, *, train: bool = False) -> Ports:
        """Map [B, H, W, K] to the port of maps."""
        return Ports(maps=self.encode(rows, train=train))
