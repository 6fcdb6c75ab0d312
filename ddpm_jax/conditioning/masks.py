"""Random masks, for a network that learns to fill holes; pure, from a key each.

A mask is a float32 `[H, W]`, 1 where the picture is known and 0 where it is to be
filled. Each hides something. Use `jax.vmap` for a batch.

Source: the kinds are those of Saharia et al. 2022, "Palette: Image-to-Image Diffusion
Models" (rectangles, free-form strokes, halves to be extended); the sizes are ours.
"""

import jax
import jax.numpy as jnp

_NUM_SEGMENTS = 5  # of a stroke


def _known(hidden: jax.Array) -> jax.Array:
    return 1.0 - hidden.astype(jnp.float32)


def rectangle_mask(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Hide a rectangle, each side a quarter to three quarters, anywhere: [H, W]."""
    keys = jax.random.split(key)
    inside = [_interval(*pair) for pair in zip(keys, shape, strict=True)]
    return _known(inside[0][:, None] & inside[1][None, :])


def _interval(key: jax.Array, size: int) -> jax.Array:
    """Draw a run of neighbours: bool [size]."""
    key_length, key_start = jax.random.split(key)
    least, most = max(1, size // 4), max(1, 3 * size // 4)
    length = jax.random.randint(key_length, (), least, most + 1, jnp.int32)
    start = jax.random.randint(key_start, (), 0, size - length + 1, jnp.int32)
    place = jnp.arange(size)
    return (start <= place) & (place < start + length)


def half_mask(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Hide a half: left, right, upper or lower, each as often: [H, W]."""
    height, width = shape
    rows = jnp.arange(height)[:, None] < height // 2
    columns = jnp.arange(width)[None, :] < width // 2
    upper, left = (jnp.broadcast_to(part, shape) for part in (rows, columns))
    halves = jnp.stack([upper, ~upper, left, ~left])
    return _known(halves[jax.random.randint(key, (), 0, 4, jnp.int32)])


def stroke_mask(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Hide what a brush has painted over: a bent stroke of round ends, [H, W].

    Its five pieces are each a tenth to four tenths of the shorter side long, and the
    brush is a tenth to three tenths of it wide.
    """
    key_start, key_length, key_angle, key_width = jax.random.split(key, 4)
    side, edge = min(shape), jnp.asarray(shape, jnp.float32) - 1.0
    start = jax.random.uniform(key_start, (1, 2), jnp.float32) * edge
    count = (_NUM_SEGMENTS, 1)
    length = side * jax.random.uniform(key_length, count, jnp.float32, 0.1, 0.4)
    angle = 2.0 * jnp.pi * jax.random.uniform(key_angle, count, jnp.float32)
    turns = length * jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
    points = start + jnp.concatenate([jnp.zeros_like(start), jnp.cumsum(turns, axis=0)])
    points = jnp.clip(points, 0.0, edge)  # a stroke that leaves runs along the edge
    radius = side * jax.random.uniform(key_width, (), jnp.float32, 0.05, 0.15)
    # A brush of less than a pixel could pass between all of them.
    radius = jnp.maximum(radius, 0.75)
    distances = jax.vmap(lambda a, b: _distance(a, b, shape))(points[:-1], points[1:])
    return _known(distances.min(axis=0) <= radius)


def _distance(a: jax.Array, b: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Measure how far each pixel is from a piece of a line, in pixels: [H, W]."""
    places = (jnp.arange(size, dtype=a.dtype) for size in shape)
    pixels = jnp.stack(jnp.meshgrid(*places, indexing="ij"), axis=-1)
    along, off = b - a, pixels - a
    squared = jnp.sum(along**2)
    share = jnp.sum(off * along, axis=-1) / jnp.where(squared > 0, squared, 1.0)
    nearest = jnp.clip(share, 0.0, 1.0)[..., None] * along
    return jnp.sqrt(jnp.sum((off - nearest) ** 2, axis=-1))


def random_mask(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Draw one of the three kinds of mask, each as often: float32 [H, W].

    Args:
        key: of the mask.
        shape: (H, W), each 4 or more.
    """
    key_kind, key_mask = jax.random.split(key)
    kinds = (rectangle_mask, half_mask, stroke_mask)
    drawn = jnp.stack([kind(key_mask, shape) for kind in kinds])
    return drawn[jax.random.randint(key_kind, (), 0, len(kinds), jnp.int32)]
