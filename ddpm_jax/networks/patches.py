"""Patches: squares of pixels as the channels of one place, and back.

A network that works on patches of p x p pixels sees 1/p^2 of the places, each with p^2
times the channels. Nothing is lost: the two maps are inverse permutations of the same
numbers.

Source: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an
    Efficient Sub-Pixel Convolutional Neural Network", section 3.2.
"""

import jax


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """Move squares of pixels into the channels.

    Args:
        x: images [B, H, W, C].
        patch: p, side of the squares in pixels; it divides H and W.

    Returns:
        [B, H / p, W / p, p p C]: row, column and channel within the patch, the channel
        fastest.
    """
    if patch == 1:
        return x
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    x = x.swapaxes(2, 3)
    return x.reshape(batch, height // patch, width // patch, -1)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """Undo `space_to_depth`.

    Args:
        x: [B, H, W, p p C].
        patch: p.

    Returns:
        [B, p H, p W, C].
    """
    if patch == 1:
        return x
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, patch, patch, -1)
    x = x.swapaxes(2, 3)
    return x.reshape(batch, height * patch, width * patch, -1)
