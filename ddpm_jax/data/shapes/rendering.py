"""Rendering of scenes: antialiased by the covered area of each pixel.

A thing lies within a square of half side h, which is 1 of its own units; y points down.

| shape    | which points are in it                    |
| -------- | ----------------------------------------- |
| circle   | x^2 + y^2 <= 1                            |
| square   | all                                       |
| triangle | 2 |x| <= 1 + y                            |
| cross    | |x| <= 1/3 or |y| <= 1/3                  |

The square lies anywhere in its quarter of the image, but not nearer to the borders
than `MARGIN` of the side; without a key it lies in the middle.
"""

import numpy as np

from ddpm_jax.data.shapes.grammar import BACKGROUND, COLORS, PLACES, SIZES, Scene
from ddpm_jax.errors import UserError

SMALLEST_SIDE = 16  # pixels; the arms of a small cross are then 1.3 wide
MARGIN = 0.025
_COLUMNS = 32  # in a pixel; along each the covered length is exact


def check_side(side: int) -> None:
    """Refuse a side too small to resolve shapes, or that does not halve.

    Raises:
        UserError: it is too small, or odd.
    """
    if side < SMALLEST_SIDE or side % 2:
        raise UserError(
            f"shapes cannot be rendered with a side of {side} pixels; use an even "
            f"one of {SMALLEST_SIDE} or more."
        )


def render(
    scene: Scene, side: int = 32, key: tuple[int, int] | None = None
) -> np.ndarray:
    """Render a scene.

    Args:
        scene: what is at each of the four places.
        side: of the image, in pixels.
        key: two whole numbers from 0 to 2^64 - 1, by which each thing is shifted; a
            thing's shift depends on key, place and size alone. None centers them.

    Returns:
        uint8 [side, side, 3].

    Raises:
        UserError: the side is odd, or too small.
    """
    check_side(side)
    shifts = np.zeros((len(PLACES), 2)) if key is None else _shifts(key)
    image = np.empty((side, side, 3))
    image[:] = BACKGROUND
    quarter = side // 2
    for place, thing in enumerate(scene):
        if thing is None:
            continue
        half = SIZES[thing.size]
        y, x = (0.25 + shifts[place] * (0.25 - MARGIN - half)) * side
        covered = _COVERED[thing.shape](quarter, y, x, half * side)
        top, left = place // 2 * quarter, place % 2 * quarter
        color = np.subtract(COLORS[thing.color], BACKGROUND)
        image[top : top + quarter, left : left + quarter] += covered[..., None] * color
    return np.rint(image).astype(np.uint8)


def _shifts(key: tuple[int, int]) -> np.ndarray:
    """Sample how each place's thing is shifted, (y, x) in [-1, 1): float64 [4, 2]."""
    words = np.random.Philox(key=np.array(key, np.uint64)).random_raw(2 * len(PLACES))
    return (words >> np.uint64(11)).reshape(-1, 2) * 2.0**-52 - 1


def _square(size: int, y: float, x: float, h: float) -> np.ndarray:
    return _rectangle(size, y, x, h, h)


def _cross(size: int, y: float, x: float, h: float) -> np.ndarray:
    wide, high = _rectangle(size, y, x, h / 3, h), _rectangle(size, y, x, h, h / 3)
    return wide + high - _rectangle(size, y, x, h / 3, h / 3)


def _rectangle(size: int, y: float, x: float, up: float, across: float) -> np.ndarray:
    """Return the share of each pixel that a rectangle covers, float64 [size, size]."""
    rows = _overlap(y - up, y + up, np.arange(size))
    columns = _overlap(x - across, x + across, np.arange(size))
    return rows[:, None] * columns


def _circle(size: int, y: float, x: float, h: float) -> np.ndarray:
    across = _across(size, x, h)
    reach = np.sqrt(np.maximum(1 - across**2, 0)) * h
    return _by_columns(size, y - reach, y + reach)


def _triangle(size: int, y: float, x: float, h: float) -> np.ndarray:
    across = np.minimum(np.abs(_across(size, x, h)), 1)
    return _by_columns(size, y + (2 * across - 1) * h, y + h)


def _across(size: int, x: float, h: float) -> np.ndarray:
    """Return where columns lie, `_COLUMNS` to a pixel, in units of the thing."""
    return ((np.arange(size * _COLUMNS) + 0.5) / _COLUMNS - x) / h


def _by_columns(size: int, low: np.ndarray, high: np.ndarray | float) -> np.ndarray:
    """Return the share of each pixel between two borders, given for each column."""
    lengths = _overlap(low, high, np.arange(size)[:, None])
    return lengths.reshape(size, size, _COLUMNS).mean(axis=-1)


def _overlap(
    low: np.ndarray | float, high: np.ndarray | float, pixel: np.ndarray
) -> np.ndarray:
    """Return how much of [pixel, pixel + 1] lies in [low, high]."""
    return np.maximum(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0)


_COVERED = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
