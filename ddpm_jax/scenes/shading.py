"""Shading: what a light makes of colors and normals.

With a light from everywhere alone (ambient 1) one sees the color itself, which may
paint any picture on a wrong shape. A light of one direction darkens what is turned away
from it, so that the shape shows in the image; and with the color left out (textureless)
nothing else does. Images of all three kinds together are what a shape is learned from.

Source: Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion", section 3.1 and
    eq. (7), there with a point light.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

_LEAST_SQUARE = 1e-12  # of a density's gradient, an offset


class Light(NamedTuple):
    """A light from one direction, and some from everywhere.

    Attributes:
        direction: [..., 3], of length 1, towards the light.
        ambient: [...], the share of light from everywhere, in [0, 1]; the rest comes
            from the direction. 1 shows the color itself.
        textureless: [...], how far the color is replaced by white, in [0, 1].
    """

    direction: jax.Array
    ambient: ArrayLike = 0.1
    textureless: ArrayLike = 0.0


def unit(vectors: jax.Array, least_square: float = _LEAST_SQUARE) -> jax.Array:
    """Bring vectors to length 1; one of no length is 0, with gradient 0.

    Args:
        vectors: [..., 3].
        least_square: squared length up to which a vector has no direction, where its
            slope would explode.
    """
    square = jnp.sum(vectors**2, axis=-1, keepdims=True)
    has_length = square > least_square
    return jnp.where(
        has_length, vectors * jax.lax.rsqrt(jnp.where(has_length, square, 1.0)), 0.0
    )


def shade(color: jax.Array, normal: jax.Array, light: Light) -> jax.Array:
    """Compute what is seen of a matt surface, by Lambert's law.

        seen = color (ambient + (1 - ambient) max(0, normal . direction))

    Args:
        color: [..., 3], the share that is reflected.
        normal: [..., 3], of length 1, or 0 where there is none.
        light: leaves that broadcast to [..., 3] and [...].

    Returns:
        [..., 3], no brighter than the color, or than white if it is left out.
    """
    ambient = jnp.asarray(light.ambient, color.dtype)
    share = jnp.asarray(light.textureless, color.dtype)[..., None]
    facing = jnp.maximum(jnp.sum(normal * light.direction, axis=-1), 0.0)
    brightness = ambient + (1.0 - ambient) * facing
    return (share + (1.0 - share) * color) * brightness[..., None]


def sample_directions(
    key: jax.Array, positions: jax.Array, spread: float = 1.0
) -> jax.Array:
    """Draw directions of lights around where cameras stand.

    A light at the camera plus a normal offset lights what is seen, from another side
    each time.

    Args:
        key: of all.
        positions: [..., 3], of the cameras.
        spread: standard deviation of the offset along each axis.

    Returns:
        [..., 3], of length 1.

    Source: Poole et al. 2022, section 3.2, whose light stands around the camera.
    """
    offset = jax.random.normal(key, positions.shape, positions.dtype)
    return unit(positions + spread * offset)
