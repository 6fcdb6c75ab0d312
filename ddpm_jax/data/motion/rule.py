"""How a digit moves: straight on at one speed, and back from the walls.

Places are those of the upper left corner of a digit's box, (y, x) in pixels, y down. A
box of side b in a frame of side s has room s - b each way, and within it

    place(f) = reflect(start + f velocity),  f = 0 .. F - 1

where `reflect` is the triangle wave that an elastic wall makes of a straight line. No
wall is met in the first step, so that a caption is true of what is seen.
"""

import math
from typing import NamedTuple

import numpy as np

from ddpm_jax.data.streams import shares_of, words_of
from ddpm_jax.errors import UserError

DIRECTIONS = {
    "to the right": (0, 1),
    "down and to the right": (1, 1),
    "down": (1, 0),
    "down and to the left": (1, -1),
    "to the left": (0, -1),
    "up and to the left": (-1, -1),
    "up": (-1, 0),
    "up and to the right": (-1, 1),
}
"""Words -> signs of (y, x), in which a digit starts; diagonals are at 45 degrees."""

SPEEDS = {"slowly": (0.5, 1.0), "fast": (1.5, 2.0)}
"""Words -> the least and the greatest speed, in pixels a frame."""

_SPLITS = ("train", "test")
_UNITS = np.asarray(
    [np.asarray(signs) / math.hypot(*signs) for signs in DIRECTIONS.values()]
)


class Drawn(NamedTuple):
    """What was drawn for N clips.

    Attributes:
        digit: which one of those that there are, int64 [N].
        direction: index into `DIRECTIONS`, int64 [N].
        speed: index into `SPEEDS`, int64 [N].
        start: float64 [N, 2], in [0, room], as is start + velocity.
        velocity: float64 [N, 2], pixels a frame.
    """

    digit: np.ndarray
    direction: np.ndarray
    speed: np.ndarray
    start: np.ndarray
    velocity: np.ndarray


def examples(split: str, count: int, num_digits: int, room: float) -> Drawn:
    """Draw the first examples of a split, each a pure function of its number.

    Args:
        split: train or test.
        count: N.
        num_digits: how many there are to choose from.
        room: for the corner of the box, pixels each way; 2 or more.
    """
    stream = _SPLITS.index(split)
    # Four uniform numbers of 53 bits, and an integer that is fair enough mod any count.
    words = words_of(stream, np.arange(count), 5)
    uniform = shares_of(words[:, 1:])
    digit = (words[:, 0] % np.uint64(num_digits)).astype(np.int64)
    kind = (uniform[:, 0] * len(DIRECTIONS) * len(SPEEDS)).astype(np.int64)
    direction, speed = kind % len(DIRECTIONS), kind // len(DIRECTIONS)
    low, high = np.asarray(list(SPEEDS.values()))[speed].T
    pace = low + uniform[:, 1] * (high - low)
    velocity = _UNITS[direction] * pace[:, None]
    low, high = np.maximum(0, -velocity), room - np.maximum(0, velocity)
    start = low + uniform[:, 2:] * (high - low)
    return Drawn(digit, direction, speed, start, velocity)


def reflect(place: np.ndarray, room: float) -> np.ndarray:
    """Fold places on a line into [0, room], as elastic walls do."""
    return room - np.abs(np.mod(place, 2 * room) - room)


def positions(
    start: np.ndarray, velocity: np.ndarray, num_frames: int, room: float
) -> np.ndarray:
    """Return where boxes are in each frame.

    Args:
        start: [N, 2].
        velocity: [N, 2], pixels a frame.
        num_frames: F.
        room: pixels each way.

    Returns:
        float64 [N, F, 2].
    """
    frame = np.arange(num_frames)[None, :, None]
    return reflect(start[:, None] + frame * velocity[:, None], room)


def caption(label: str, direction: int, speed: int) -> str:
    """Say what moves, how fast, and where to at the start."""
    return f"a {label} moving {list(SPEEDS)[speed]} {list(DIRECTIONS)[direction]}"


def parse(text: str) -> tuple[str, int, int]:
    """Read a caption: label, direction and speed.

    Raises:
        UserError: it is none.
    """
    for speed, word in enumerate(SPEEDS):
        for direction, words in enumerate(DIRECTIONS):
            label = text.removeprefix("a ").removesuffix(f" moving {word} {words}")
            if caption(label, direction, speed) == text and " " not in label:
                return label, direction, speed
    raise UserError(
        f"{text!r:.80} is no caption of motion; write one like "
        "'a 7 moving fast to the left'."
    )
