"""Ports: the three ways by which a condition enters any network.

A network is called `(x_t, t, ports, train)`. What the condition is, a class, a caption,
a small image, is the affair of the conditioner that makes the ports
(`ddpm_jax.conditioning`); what becomes of a port is the affair of the network:

    vector    added to the time embedding
    tokens    keys and values of cross-attention
    maps      further channels of x_t

`Network` is what such a network derives from: it is its own spec, whose fields a recipe
sets, but for those that the data decide (`from_data`).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.errors import UserError

FROM_DATA = "from_data"
"""The key in a field's metadata that says that no recipe has it."""


def from_data(default: Any) -> Any:
    """Declare a field that the data decide, and that no recipe has.

    Args:
        default: without data.
    """
    return dataclasses.field(default=default, metadata={FROM_DATA: True})


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


class Network(nn.Module):
    """A network of a diffusion model; a subclass has `__call__`, and fields of its own.

    It is called with x_t [B, ...], t [B], ports or None, and the keyword `train`, which
    says whether dropout acts, and returns float32 [B, ..., out_channels].

    Attributes:
        out_channels: of the output: those of x_t, twice as many if it also predicts a
            variance.
    """

    out_channels: int = from_data(3)

    @property
    def embedding_width(self) -> int:
        """E, the width of the vector port."""
        raise NotImplementedError

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse items of a shape (...) that it cannot be built for.

        Raises:
            UserError: saying what it wants.
        """

    def is_new(self, name: str) -> bool:
        """Tell whether a run that this one begins with may lack a parameter.

        Such parameters start as they are drawn, and what the run computes with them is
        what it computed without. By default there are none.

        Args:
            name: of the parameter, such as "conv_in/kernel".
        """
        del name
        return False

    def augment(self, key: jax.Array, x0: jax.Array) -> jax.Array:
        """Make of clean items [B, ...] those that it is trained on.

        By default nothing is done.

        Args:
            key: of what is drawn.
            x0: on the device, as the codec makes them.
        """
        del key
        return x0

    def least_numbers(self, shape: tuple[int, ...]) -> int:
        """Count what the forward pass of one item of a shape keeps, at the least."""
        return math.prod(shape)


def check_ports(x_t: jax.Array, ports: Ports, embedding_width: int) -> None:
    """Refuse ports that do not fit what a network is called with.

    Args:
        x_t: [B, ...].
        ports: what it is conditioned on.
        embedding_width: E, of its vector port.

    Raises:
        UserError: naming the first that does not.
    """
    vector, _, maps = ports
    wanted = (len(x_t), embedding_width)
    if vector is not None and vector.shape != wanted:
        raise UserError(
            f"got a vector of shape {vector.shape} for a network with an embedding "
            f"of {wanted}; embed conditions in {wanted[1]} features."
        )
    if maps is not None and maps.shape[:-1] != x_t.shape[:-1]:
        raise UserError(
            f"got maps of shape {maps.shape} for x_t of {x_t.shape}; they must "
            "agree in all but the last axis."
        )


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
