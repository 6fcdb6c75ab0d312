"""Measuring motion in clips, whoever made them.

A clip is measured by the centroids of its frames. Along each axis a step is how far the
centroid goes from one frame to the next. Where steps change their sign the digit has
met a wall, in the step before or after: both are left out, and what lies between is one
*run*, in which the velocity ought to be constant. The last step is left out as well,
for a wall may be met in it whose other side is not seen. A digit that hardly moves
along an axis has one run there.
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.data.motion.drawing import draw
from ddpm_jax.data.motion.rule import DIRECTIONS, SPEEDS

_STILL = 0.25  # pixels a frame: slower than that, no wall is looked for
_FLOOR = 0.03  # of full brightness: darker pixels are not of the digit
_WINDOW = 1.5  # of a digit's side: what is looked at around its centroid


class Motion(NamedTuple):
    """What was measured in N clips.

    Attributes:
        error: root mean square of how far steps are from the mean of their run, pixels
            a frame; NaN without a run of two steps.
        pace_change: pixels a frame at the end over those at the start, from the first
            and the last run; NaN where there are not two steps of each.
        direction: at the start, index into `DIRECTIONS`.
        speed: index into `SPEEDS`, whichever is nearer.
    """

    error: np.ndarray
    pace_change: np.ndarray
    direction: np.ndarray
    speed: np.ndarray


def centroids(frames: np.ndarray, *, floor: float = 0.0) -> np.ndarray:
    """Return the centers of brightness of frames.

    Args:
        frames: [..., H, W], 0 black to 1 white.
        floor: what is darker counts as black, and is taken off what is lighter.

    Returns:
        float64 [..., 2], (y, x) in pixels; the middle of a black frame.
    """
    frames = np.maximum(np.asarray(frames, np.float64) - floor, 0)
    height, width = frames.shape[-2:]
    total = frames.sum(axis=(-2, -1))
    is_black = total == 0
    total = np.where(is_black, 1, total)
    y = (frames.sum(axis=-1) * np.arange(height)).sum(axis=-1) / total
    x = (frames.sum(axis=-2) * np.arange(width)).sum(axis=-1) / total
    middle = np.asarray([(height - 1) / 2, (width - 1) / 2])
    return np.where(is_black[..., None], middle, np.stack([y, x], axis=-1))


def read_motion(clips: np.ndarray, *, floor: float = _FLOOR) -> Motion:
    """Measure the motion in clips of three frames or more.

    Args:
        clips: [N, F, H, W], 0 black to 1 white.
        floor: see `centroids`.
    """
    steps = np.diff(centroids(clips, floor=floor), axis=1)  # [N, F - 1, 2]
    units = np.asarray(list(DIRECTIONS.values()), np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    # Half of the speeds' gap away from either of them.
    border = (SPEEDS["slowly"][1] + SPEEDS["fast"][0]) / 2
    rows = []
    for clip in steps:
        runs = [_runs(axis) for axis in clip.T]
        off = np.concatenate(
            [run - run.mean() for axis in runs for run in axis] or [[]]
        )
        start, end = (
            np.asarray([axis[place].mean() if axis else np.nan for axis in runs])
            for place in (0, -1)
        )
        pace = np.linalg.norm(start)
        # The first run may begin after a wall; the first step tells where to.
        signs = np.where(np.abs(clip[0]) >= _STILL, np.sign(clip[0]), 0)
        heading = np.abs(np.nan_to_num(start)) * signs
        rows.append(
            (
                np.sqrt(np.mean(off**2)) if off.size else np.nan,
                np.linalg.norm(end) / pace if pace > 0 else np.nan,
                int(np.argmax(units @ heading)),
                int(pace > border),
            )
        )
    error, change, direction, speed = (np.asarray(c) for c in zip(*rows, strict=True))
    return Motion(error, change, direction, speed)


def _runs(steps: np.ndarray) -> list[np.ndarray]:
    """Split the steps [F - 1] along one axis at the walls; runs of two or more."""
    if np.abs(steps).max() < _STILL:
        return [steps] if len(steps) > 1 else []
    signs = np.sign(steps)
    free = np.arange(len(steps)) < len(steps) - 1
    for turn in np.flatnonzero(signs[1:] != signs[:-1]):
        free[turn : turn + 2] = False
    runs, start = [], None
    for place, is_free in enumerate([*free, False]):
        if is_free and start is None:
            start = place
        elif not is_free and start is not None:
            if place - start > 1:
                runs.append(steps[start:place])
            start = None
    return runs


def nearest_digits(
    frames: np.ndarray, pictures: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Classify what frames show by the nearest of known pictures, center on center.

    Args:
        frames: [M, H, W], 0 black to 1 white, with one digit each.
        pictures: known digits [K, h, w], 0 to 1.
        labels: their classes, int [K].

    Returns:
        The classes, int [M].
    """
    side = round(_WINDOW * max(pictures.shape[1:]))
    known, shown = (_centered(images, side) for images in (pictures, frames))
    found = np.empty(len(shown), np.int64)
    for start in range(0, len(shown), 256):
        likeness = shown[start : start + 256] @ known.T  # both of length 1
        found[start : start + 256] = labels[likeness.argmax(axis=1)]
    return found


def _centered(images: np.ndarray, side: int) -> np.ndarray:
    """Move centroids to the middle of frames [side, side]; flat, of length 1."""
    images = np.asarray(images, np.float64)
    to = (side - 1) / 2 - centroids(images, floor=_FLOOR)
    flat = draw(images, to[:, None], side).reshape(len(images), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
