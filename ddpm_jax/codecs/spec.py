"""The codec of a recipe."""

import dataclasses
from typing import ClassVar

import jax

from ddpm_jax import limits
from ddpm_jax.codecs.arrays import arrays
from ddpm_jax.codecs.codec import Codec, Start
from ddpm_jax.codecs.pixels import pixels


@dataclasses.dataclass(frozen=True)
class CodecSpec:
    """What a chain is made of, of what items of the data; one of its own derives here.

    A codec without parameters needs `build` alone; training starts from what it
    encodes.

    Attributes:
        opens: the kind of model that its field `run` names a run of, "" if it has no
            such field. A class attribute.
    """

    opens: ClassVar[str] = ""

    def build(self, item_shape: tuple[int, ...], dtype: str) -> Codec:
        """Make the codec.

        Args:
            item_shape: of an item of the data.
            dtype: of the items, uint8 or float32.

        Raises:
            UserError: it takes no such items.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class AsStored(CodecSpec):
    """Bytes become pixels in [-1, 1], and floating point stays as it is."""

    def build(self, item_shape: tuple[int, ...], dtype: str) -> Codec:
        """Make the codec; see `CodecSpec`."""
        make = pixels if dtype == "uint8" else arrays
        return make(item_shape)


@dataclasses.dataclass(frozen=True)
class Latents(CodecSpec):
    """The latents of a trained autoencoder: docs/latents.md.

    Attributes:
        run: the folder of the autoencoder.
    """

    run: str = ""

    opens: ClassVar[str] = "autoencoder"

    def __post_init__(self) -> None:
        limits.names_run(self, "autoencoder", "runs/mnist_autoencoder")

    def build(self, item_shape: tuple[int, ...], dtype: str) -> Codec:
        """Refuse: the autoencoder is opened from a folder, see `codecs.latents`."""
        raise NotImplementedError


def encoded_start(codec: Codec) -> Start:
    """Start training from what a codec without parameters encodes."""

    def start(key: jax.Array, items: jax.Array) -> jax.Array:
        del key
        return codec.encode(codec.params, codec.load(items))

    return start
