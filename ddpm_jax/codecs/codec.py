"""Codec protocol: between items of data and the arrays of a chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ddpm_jax.codecs.display import IMAGES, Display, display_of
from ddpm_jax.runtime.images import to_float, to_uint8

Start = Callable[[jax.Array, jax.Array], jax.Array]
"""(key, items of a training batch as they are stored) -> x0 float32 [B, ...]."""


class Codec(NamedTuple):
    """Maps from items of data to x of the chain, and back.

    Attributes:
        shape: of one x of the chain.
        params: of the codec's network; () of one that has none.
        encode: (params, items [B, ...]) -> x [B, ...].
        decode: (params, x) -> items; both floating point, [-1, 1] being the range of
            pixels.
        reduce: a mask of items [B, ...], 1 where known, to one of x.
        load: items as data and files have them, uint8 of pixels, -> floating point;
            of NumPy and of JAX arrays, as `store`.
        store: its inverse, of decoded items.
        show: how stored items are displayed.
    """

    shape: tuple[int, ...]
    params: Any
    encode: Callable[[Any, jax.Array], jax.Array]
    decode: Callable[[Any, jax.Array], jax.Array]
    reduce: Callable[[jax.Array], jax.Array]
    load: Callable[[Any], Any] = to_float
    store: Callable[[Any], Any] = to_uint8
    show: Display = IMAGES


def unencoded(shape: tuple[int, ...], **others: Any) -> Codec:
    """Return a codec whose chain is made of the items themselves.

    Args:
        shape: of an item.
        others: further fields of `Codec`.
    """

    def unchanged(params: Any, x: jax.Array) -> jax.Array:
        del params
        return x

    return Codec(
        shape=shape,
        params=(),
        encode=unchanged,
        decode=unchanged,
        reduce=lambda mask: mask,
        show=display_of(shape),
        **others,
    )


class Params(NamedTuple):
    """All parameters of a model, as a sampling program is given them.

    Attributes:
        network: of the denoising network.
        codec: `Codec.params`.
        worse: of a worse version of the network, which autoguidance goes away from;
            None without.
    """

    network: Any
    codec: Any = ()
    worse: Any = None
