"""Masked attention and masked means, over rows of unequal length.

A place under mask False has no influence at all: its weight is an exact zero, whatever
stands there, as long as it is finite. A row without any place gives zeros, not NaN.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


def masked_attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array
) -> jax.Array:
    """Average the unmasked values by the softmax of q k^T / sqrt(D), in float32.

    Args:
        q: queries, [B, M, heads, D].
        k: keys, [B, L, heads, D].
        v: values, [B, L, heads, D].
        mask: True where there is a key, [B, L].

    Returns:
        [B, M, heads, D], of the values' dtype; zeros in a row that has no key.

    Source: Vaswani et al. 2017, "Attention Is All You Need", eq. (1).
    """
    there = mask[:, None, None, :]
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    # A finite floor, for the softmax of a row of -inf is NaN. It leaves such a row with
    # equal weights, which the second mask removes; other rows have zeros there already.
    floor = jnp.finfo(jnp.float32).min
    weights = nn.softmax(jnp.where(there, logits * q.shape[-1] ** -0.5, floor), axis=-1)
    weights = jnp.where(there, weights, 0.0)  # [B, heads, M, L]
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Average over the unmasked places, in float32.

    Args:
        x: [B, L, D], finite.
        mask: [B, L].

    Returns:
        [B, D] float32; zeros for a row without any.
    """
    there = mask[..., None].astype(jnp.float32)
    count = jnp.maximum(there.sum(axis=1), 1.0)
    return (x.astype(jnp.float32) * there).sum(axis=1) / count
