"""Linear degradations y = A x, each with its exact Moore-Penrose inverse.

What `editing.project` and `editing.reconstruction_guidance` need of a task:
inpainting is a mask, colorization a weighted mean of channels, super-resolution a mean
over blocks. In all three A A^+ = 1 on what can be measured, so that x + A^+ (y - A x)
measures exactly y, and is the nearest to x that does.

Arrays have any leading axes. Which others hold channels or pixels is an argument, whose
default is in the docstring.

Source: Wang, Yu, Zhang 2023, "Zero-Shot Image Restoration Using Denoising Diffusion
Null-Space Model", section 3.3.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import UserError


class Operator(NamedTuple):
    """A linear map and its pseudo-inverse.

    Attributes:
        apply: x -> A x.
        pinv: y -> A^+ y, of the shape of x.
    """

    apply: Callable[[jax.Array], jax.Array]
    pinv: Callable[[jax.Array], jax.Array]


def mask_operator(mask: jax.Array) -> Operator:
    """Keep what is known and put zeros elsewhere: its own pseudo-inverse.

    Args:
        mask: nonzero where x is known; broadcasts against x [B, ...].
    """

    def keep(x: jax.Array) -> jax.Array:
        return jnp.where(mask != 0, x, 0.0)

    return Operator(keep, keep)


def grey_operator(
    num_channels: int, weights: Sequence[float] | None = None
) -> Operator:
    """Average the channels, which are the last axis: [..., C] -> [..., 1].

    Args:
        num_channels: C.
        weights: of the channels, [C], not all zero; None for their plain mean. The
            luma of video is (0.299, 0.587, 0.114).

    Raises:
        UserError: if there are not C weights, or all are zero.
    """
    if weights is None:
        weights = [1.0 / num_channels] * num_channels
    w = np.asarray(weights, np.float64)
    if w.shape != (num_channels,) or not np.any(w):
        raise UserError(
            f"weights={list(weights)} for {num_channels} channels; give {num_channels} "
            "numbers, not all zero."
        )
    forward, back = (np.asarray(v, np.float32) for v in (w, w / np.sum(w**2)))

    def apply(x: jax.Array) -> jax.Array:
        return jnp.sum(x * forward, axis=-1, keepdims=True)

    return Operator(apply, lambda y: y * back)


def average_pool(factor: int, axes: Sequence[int] = (-3, -2)) -> Operator:
    """Average over blocks, `factor` long along each of the axes.

    Its pseudo-inverse repeats each value over its block.

    Args:
        factor: of the reduction, 1 or more.
        axes: counted from the last; the default is height and width of [..., H, W, C].

    Raises:
        UserError: if the factor is below 1, an axis is counted from the front, or (from
            `apply`) an axis is not a multiple of the factor.
    """
    if factor < 1 or any(axis >= 0 for axis in axes):
        raise UserError(
            f"factor={factor} and axes={tuple(axes)}; use a factor of 1 or more, and "
            "axes counted from the last, such as (-3, -2)."
        )

    def apply(x: jax.Array) -> jax.Array:
        for axis in axes:
            size = x.shape[axis]
            if size % factor:
                raise UserError(
                    f"an axis of {size} is not a multiple of factor={factor}; use a "
                    f"divisor of {size}."
                )
            at = axis % x.ndim
            split = (*x.shape[:at], size // factor, factor, *x.shape[at + 1 :])
            x = jnp.mean(x.reshape(split), axis=at + 1)
        return x

    def pinv(y: jax.Array) -> jax.Array:
        for axis in axes:
            y = jnp.repeat(y, factor, axis=axis)
        return y

    return Operator(apply, pinv)
