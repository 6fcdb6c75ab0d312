"""Rule-based attribute classifier: from pixels to a scene, "unknown" where unclear.

Each quarter is read by itself. What differs from the background is compared with eight
stencils, a shape in a size each, laid so that their center of mass is that of what is
seen. For the best color c [3] of stencil T [h, w], the residual of the difference D is

    E = (sum |D - c T|^2 - noise) / sum |D|^2,    c = sum T D / sum T^2

with the pixel noise estimated where there is only background. Shape and size are those
of the stencil with the least E, if that is small, and clearly smaller than the E of all
others; the color is the one of the palette that has the hue of the thing, if c is
near to it and little is of another hue. What has no clear color is faint, blurred or
two things at once, and its shape and size are left unknown too.

Stencils are made here by testing points, 16 to a pixel and direction, and not by the
formulas of `rendering`.
"""

import functools

import numpy as np

from ddpm_jax.data.shapes.grammar import (
    BACKGROUND,
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)
from ddpm_jax.data.shapes.rendering import check_side

UNKNOWN = "unknown"

_NEAR = 45.0  # levels from a color of the palette; two of them are 142 or more apart
_FAINT = 30.0  # levels that the mean of 3x3 pixels may be from the background
_VISIBLE = 60.0  # levels from the background at which a pixel belongs to the thing
_UNEXPLAINED = 0.05  # the most that E may be
_CLEARER = 0.02  # by how much another shape's or size's E has to be larger
_OTHER_HUES = 0.04  # the most of sum |D|^2 that may be of another hue
_MOST_NOISE = 15.0  # levels of standard deviation; more is not noise but a thing
_MEAN_BY_MEDIAN = 1.268  # of the sum of three squared normal numbers
_FINE = 16  # points in a pixel and direction
_AT_ONCE = 256  # images, for the memory they take

_BACKGROUND = np.array(BACKGROUND, np.float32)
_PALETTE = np.array(list(COLORS.values()), np.float32) - _BACKGROUND
_STENCILS = [(size, shape) for size in SIZES for shape in SHAPES]
_INSIDE = {
    "circle": lambda y, x: y**2 + x**2 <= 1,
    "square": lambda y, x: np.maximum(np.abs(y), np.abs(x)) <= 1,
    "triangle": lambda y, x: (2 * np.abs(x) <= 1 + y) & (y <= 1),
    "cross": lambda y, x: (
        (np.maximum(np.abs(y), np.abs(x)) <= 1)
        & (np.minimum(np.abs(y), np.abs(x)) <= 1 / 3)
    ),
}


def classify(pixels: np.ndarray) -> list[Scene]:
    """Recognize the scenes in images.

    Args:
        pixels: uint8 [N, side, side, 3].

    Returns:
        N scenes. A quarter that is not empty has a thing, of which each word that is
        not clear is "unknown": all of them where nothing can be made out.

    Raises:
        ValueError: the images are of another kind or shape.
        UserError: their side is odd, or too small for shapes.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(
            f"images are {pixels.dtype} {list(pixels.shape)}; want uint8 "
            "[N, side, side, 3]."
        )
    side = pixels.shape[1]
    if pixels.shape[2] != side:
        raise ValueError(f"images are {side}x{pixels.shape[2]}; want square ones.")
    check_side(side)
    scenes = []
    for start in range(0, len(pixels), _AT_ONCE):
        scenes += _read(pixels[start : start + _AT_ONCE])
    return scenes


def _read(pixels: np.ndarray) -> list[Scene]:
    differs = _quarters(pixels) - _BACKGROUND  # D, [N * 4, h, w, 3]
    things: list[Thing | None] = [None] * len(differs)
    (there,) = np.nonzero(_is_there(differs))
    if there.size:
        classified = _things(differs[there], side=pixels.shape[1])
        for index, thing in zip(there, classified, strict=True):
            things[index] = thing
    num_places = len(PLACES)
    return [
        tuple(things[i : i + num_places]) for i in range(0, len(things), num_places)
    ]


def _quarters(pixels: np.ndarray) -> np.ndarray:
    """Cut [N, side, side, 3] into float32 [N * 4, side / 2, side / 2, 3]."""
    half = pixels.shape[1] // 2
    cut = pixels.reshape(-1, 2, half, 2, half, 3).swapaxes(2, 3)
    return cut.reshape(-1, half, half, 3).astype(np.float32)


def _is_there(differs: np.ndarray) -> np.ndarray:
    """Return where a thing is: bool [M]. Noise alone has small means of 3x3 pixels."""
    rows = differs[:, 2:] + differs[:, 1:-1] + differs[:, :-2]
    means = (rows[:, :, 2:] + rows[:, :, 1:-1] + rows[:, :, :-2]) / 9
    return np.linalg.norm(means, axis=-1).max(axis=(1, 2)) > _FAINT


def _things(differs: np.ndarray, side: int) -> list[Thing]:
    """Read quarters [M, h, w, 3] that are not empty."""
    noise = _noise(differs)
    hues, other = _hues(differs, noise)
    colors, left = _fit(differs, noise, _centres(differs, hues), side)
    color = colors[np.arange(len(left)), left.argmin(axis=1)]  # c, [M, 3]
    is_near = np.linalg.norm(color - _PALETTE[hues], axis=1) < _NEAR
    is_clear = is_near & (other < _OTHER_HUES)
    names = np.where(is_clear, np.array(list(COLORS))[hues], UNKNOWN)
    left[~is_clear] = np.inf
    sizes, shapes = (_clear(left, words) for words in zip(*_STENCILS, strict=True))
    return [Thing(*map(str, words)) for words in zip(sizes, names, shapes, strict=True)]


def _clear(left: np.ndarray, words: tuple[str, ...]) -> np.ndarray:
    """Return the word of the best stencil, if no stencil of another word is as good.

    Args:
        left: E, [M, stencils].
        words: one for each stencil, such as its shape.
    """
    kinds = list(dict.fromkeys(words))
    least = np.stack(
        [left[:, [word == kind for word in words]].min(axis=1) for kind in kinds],
        axis=1,
    )
    first, second = np.sort(least, axis=1)[:, :2].T
    is_clear = (first < _UNEXPLAINED) & (second > first + _CLEARER)
    return np.where(is_clear, np.array(kinds)[least.argmin(axis=1)], UNKNOWN)


def _noise(differs: np.ndarray) -> np.ndarray:
    """Estimate the mean of |noise|^2 of a pixel, from those outside of things: [M].

    By the median, since the faint edges of things are among them.
    """
    squares = np.sum(differs**2, axis=-1)
    outside = np.where(squares < _VISIBLE**2, squares, np.nan)
    outside[np.isnan(outside).all(axis=(1, 2))] = 0
    noise = _MEAN_BY_MEDIAN * np.nanmedian(outside, axis=(1, 2))
    return np.minimum(noise, 3 * _MOST_NOISE**2)


def _hues(differs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the color of the palette whose direction from the background is nearest.

    Returns:
        Its number, int [M], and the share of sum |D|^2 across this direction.
    """
    directions = _PALETTE / np.linalg.norm(_PALETTE, axis=1, keepdims=True)
    visible = np.linalg.norm(differs, axis=-1, keepdims=True) > _VISIBLE
    hues = (np.sum(differs * visible, axis=(1, 2)) @ directions.T).argmax(axis=1)
    along = np.einsum("mhwc,mc->mhw", differs, directions[hues])
    energy = np.sum(differs**2, axis=(1, 2, 3))
    # Two of the three directions of noise are across.
    across = energy - np.sum(along**2, axis=(1, 2)) - noise * along[0].size * 2 / 3
    return hues, across / energy


def _centres(differs: np.ndarray, hues: np.ndarray) -> np.ndarray:
    """Return the center of mass (y, x) of each thing, in pixels: [M, 2]."""
    along = _PALETTE / np.sum(_PALETTE**2, axis=1, keepdims=True)
    covered = np.einsum("mhwc,mc->mhw", differs, along[hues])
    covered = np.where(covered > 0.2, np.minimum(covered, 1), 0)  # what is not noise
    places = np.arange(covered.shape[1]) + 0.5
    mass = np.maximum(covered.sum(axis=(1, 2)), 1e-6)
    y, x = covered.sum(axis=2) @ places, covered.sum(axis=1) @ places
    return np.stack([y, x], axis=1) / mass[:, None]


def _fit(
    differs: np.ndarray, noise: np.ndarray, centre: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lay each stencil on each quarter.

    Returns:
        c, [M, stencils, 3], and E, [M, stencils].
    """
    stencils, heavy = _stencils(side)
    last = stencils.shape[1] - 1
    pixels = np.arange(differs.shape[1]) + 0.5
    energy = np.sum(differs**2, axis=(1, 2, 3))
    colors, explained = [], []
    for stencil, offset in zip(stencils, heavy, strict=True):
        # From the middle of the stencil to that of each pixel: [M, 2, h].
        steps = (offset - centre)[:, :, None] + pixels
        at = np.clip(np.rint(last / 2 + steps * _FINE).astype(int), 0, last)
        covered = stencil[at[:, 0, :, None], at[:, 1, None, :]]
        area = np.maximum(np.sum(covered**2, axis=(1, 2)), 1e-6)
        color = np.einsum("mhw,mhwc->mc", covered, differs) / area[:, None]
        colors.append(color)
        explained.append(np.sum(color**2, axis=1) * area)
    remains = (energy - noise * pixels.size**2)[:, None] - np.stack(explained, axis=1)
    return np.stack(colors, axis=1), remains / energy[:, None]


@functools.lru_cache(maxsize=4)
def _stencils(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Make the stencils for images of a side.

    Returns:
        The share of a pixel that is covered, for pixels that begin at every 16th of a
        pixel: float32 [stencils, n, n], zero at the borders. And the center of mass of
        each, (y, x) from its middle in pixels: [stencils, 2].
    """
    reach = int(np.ceil(max(SIZES.values()) * side)) + 1  # pixels from the middle
    points = (np.arange(-reach * _FINE, reach * _FINE) + 0.5) / _FINE
    stencils, heavy = [], []
    for size, shape in _STENCILS:
        h = SIZES[size] * side
        inside = _INSIDE[shape](points[:, None] / h, points / h)
        share = inside / inside.sum()
        heavy.append([share.sum(axis=1) @ points, share.sum(axis=0) @ points])
        sums = np.zeros((len(points) + 1,) * 2)
        sums[1:, 1:] = inside.cumsum(axis=0).cumsum(axis=1)
        rows = sums[_FINE:] - sums[:-_FINE]
        stencils.append((rows[:, _FINE:] - rows[:, :-_FINE]) / _FINE**2)
    return np.array(stencils, np.float32), np.array(heavy)
