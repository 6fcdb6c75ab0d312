"""Moving digits: clips whose motion is known, and can be measured in any other clip.

    start, velocity = drawn.start, drawn.velocity
    where = positions(start, velocity, num_frames=8, room=8)     # [N, F, 2], exact
    clips = draw(digits, where, side=16)                         # [N, F, 16, 16]
    centroids(clips)                # moves by what `where` moves by
    read_motion(clips).error        # pixels a frame

`rule` has positions, captions and examples, `drawing` turns them into pixels,
`reading` measures clips again, from the pixels alone.
"""

from ddpm_jax.data.motion.drawing import draw
from ddpm_jax.data.motion.reading import (
    Motion,
    centroids,
    nearest_digits,
    read_motion,
)
from ddpm_jax.data.motion.rule import (
    DIRECTIONS,
    SPEEDS,
    Drawn,
    caption,
    examples,
    parse,
    positions,
    reflect,
)
from ddpm_jax.data.motion.source import load_motion

__all__ = [
    "DIRECTIONS",
    "SPEEDS",
    "Drawn",
    "Motion",
    "caption",
    "centroids",
    "draw",
    "examples",
    "load_motion",
    "nearest_digits",
    "parse",
    "positions",
    "read_motion",
    "reflect",
]
