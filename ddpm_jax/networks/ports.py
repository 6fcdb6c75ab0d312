"""Ports: the three ways by which a condition enters any network.

A network is called `(x_t, t, ports, train)`. What the condition is, a class, a caption,
a small image, is the affair of the conditioner that makes the ports
(`ddpm_jax.conditioning`); what becomes of a port is the affair of the network:

    vector    added to the time embedding
    tokens    keys and values of cross-attention
    maps      further channels of x_t
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TokenSequence(NamedTuple):
    """Vectors to attend to.

    Attributes:
        vectors: [B, L, D].
        mask: True where there is a token, [B, L].
    """

    vectors: jax.Array
    mask: jax.Array


class Ports(NamedTuple):
    """All that a network is given beside x_t and t; None where there is nothing.

    Attributes:
        vector: [B, E], E the width of the network's time embedding.
        tokens: [B, L, D] and their mask.
        maps: [B, ..., K], of the shape of x_t but for the channels.
    """

    vector: jax.Array | None = None
    tokens: TokenSequence | None = None
    maps: jax.Array | None = None


def join_ports(ports: Sequence[Ports]) -> Ports:
    """Join what several conditioners give.

    Vectors add up, token sequences stand one after the other along L, and maps along
    the last axis, both in the order given.

    Args:
        ports: with the same B; tokens of one width D, maps of one shape but for K.
    """

    def given(port: str) -> list[Any]:
        return [value for one in ports if (value := getattr(one, port)) is not None]

    vectors, tokens, maps = map(given, Ports._fields)
    sequence = None
    if tokens:
        sequence = TokenSequence(
            *(jnp.concatenate(part, axis=1) for part in zip(*tokens, strict=True))
        )
    return Ports(
        sum(vectors[1:], start=vectors[0]) if vectors else None,
        sequence,
        jnp.concatenate(maps, axis=-1) if maps else None,
    )
