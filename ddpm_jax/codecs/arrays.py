"""Arrays: the chain is made of items of any rank, floating point, as they are."""

from typing import Any

import jax

from ddpm_jax.codecs.codec import Codec
from ddpm_jax.codecs.display import display_of


def arrays(shape: tuple[int, ...]) -> Codec:
    """Return the codec of float32 items of any shape, which leaves them as they are.

    Nothing scales them: a diffusion process wants them of about unit variance.
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
        load=lambda items: items,
        store=lambda items: items,
        show=display_of(shape),
    )


def as_they_are(key: jax.Array, items: jax.Array) -> jax.Array:
    """Start training from items float32 [B, ...] themselves."""
    del key
    return items
