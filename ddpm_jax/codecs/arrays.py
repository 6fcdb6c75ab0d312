"""Arrays: the chain is made of items of any rank, floating point, as they are."""

import jax

from ddpm_jax.codecs.codec import Codec, unencoded


def arrays(shape: tuple[int, ...]) -> Codec:
    """Return the codec of float32 items of any shape, which leaves them as they are.

    They are not scaled: a diffusion process needs about unit variance.
    """
    return unencoded(shape, load=lambda items: items, store=lambda items: items)


def as_they_are(key: jax.Array, items: jax.Array) -> jax.Array:
    """Start training from items float32 [B, ...] themselves."""
    del key
    return items
