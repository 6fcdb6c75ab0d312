"""What a network is told beside the level: one dictionary, wherever there is a network.

    "label"     int32 [B], a class; the number of classes stands for none
    "text"      Tokens or Encoded; a row whose mask is all False for none
    "negative"  like "text": what guidance goes away from, in the place of no text

The same dictionary is made of a training batch, asked for in sampling and halved by
guidance, and what "told nothing" means is said here, once, for all of them. Whatever
else is in it, such as a picture to be enlarged, is never taken away.

Source: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", Algorithm 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.conditioning.text import drop

Silence = Callable[[Any], Any]
"""condition -> the same pytree, telling nothing."""


def silence(num_classes: int | None = None) -> Silence:
    """Make the function that leaves of a condition only its shapes.

    Args:
        num_classes: of the network; None if it is told no class.

    Returns:
        It turns a label into the null class, and text into the negative one, or into
        no text where there is none.
    """

    def silent(condition: Mapping[str, Any]) -> dict[str, Any]:
        said = dict(condition)
        if "label" in said:
            assert num_classes is not None  # it is the network's that is told a label
            said["label"] = jnp.full_like(said["label"], num_classes)
        if "text" in said:
            text = said["text"]
            everything = jnp.ones(jnp.shape(text[0])[:1], bool)
            said["text"] = said.get("negative", drop(text, everything))
        return said

    return silent


def hide(
    key: jax.Array, condition: Mapping[str, Any], probability: float, silent: Silence
) -> dict[str, Any]:
    """Tell a row nothing with the given probability, label and text alike.

    Args:
        key: of the draw.
        condition: leaves [B, ...].
        probability: of each row.
        silent: from `silence`.
    """
    leaves = jax.tree.leaves(dict(condition))
    hidden = jax.random.bernoulli(key, jnp.float32(probability), leaves[0].shape[:1])

    def choose(nothing: jax.Array, said: jax.Array) -> jax.Array:
        return jnp.where(hidden.reshape(-1, *[1] * (said.ndim - 1)), nothing, said)

    return jax.tree.map(choose, silent(condition), dict(condition))


def tell(
    silent: Silence, dropout: float, names: tuple[str, ...] = ("label",)
) -> Callable[[jax.Array, Mapping[str, Any], jax.Array], dict[str, Any]]:
    """Make what training tells a network of each batch.

    Args:
        silent: from `silence`.
        dropout: share of rows that are told nothing, without which there is no
            guidance afterwards.
        names: what of a batch is told.

    Returns:
        (key, batch, x0) -> condition.
    """

    def told(key: jax.Array, batch: Mapping[str, Any], x0: jax.Array) -> dict[str, Any]:
        del x0
        return hide(key, {name: batch[name] for name in names}, dropout, silent)

    return told
