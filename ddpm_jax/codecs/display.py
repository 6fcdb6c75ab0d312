"""Display: items of any shape as images, trajectories, animations and files.

| items as stored           | shown as                                                 |
| ------------------------- | -------------------------------------------------------- |
| uint8 or float [H, W, C]  | images; 4 channels are RGBA, other numbers panels        |
| uint8 or float [F, H, W, C] | clips: a row of frames each, and an animation          |
| float [2]                 | one scatter plot of all                                  |
| float [D]                 | a curve each, in one plot                                |
| others                    | as curves, flattened                                     |

Floating point is shown as uint8 is, [-1, 1] being black to white, in images; plots
have axes of their own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.runtime import images, plots

_MARGIN = 0.05  # of a plot around its data


class Display(NamedTuple):
    """How items of one shape are displayed.

    Attributes:
        sheet: (items [N, ...], columns or None) -> uint8 [H, W, C], all in one image.
        trajectory: [K, N, ...] -> uint8 [H, W, C], time from left to right.
        animation: (trajectory [K, N, ...], columns or None) -> uint8 [T, H, W, C].
        save: (folder, items [N, ...], names or None) -> None, a file for each item;
            none for plots.
    """

    sheet: Callable[[np.ndarray, int | None], np.ndarray]
    trajectory: Callable[[np.ndarray], np.ndarray]
    animation: Callable[[np.ndarray, int | None], np.ndarray]
    save: Callable[[Path, np.ndarray, Sequence[str] | None], object]


def display_of(shape: tuple[int, ...]) -> Display:
    """Choose how items of a shape are displayed.

    Args:
        shape: of one item.
    """
    if len(shape) == 3:
        return IMAGES
    if len(shape) == 4:
        return CLIPS
    return PLOTS


# --- Images ---------------------------------------------------------------------------


def _bytes(items: np.ndarray) -> np.ndarray:
    items = np.asarray(items)
    return items if items.dtype == np.uint8 else np.asarray(images.to_uint8(items))


def _sheet(items: np.ndarray, columns: int | None = None) -> np.ndarray:
    return images.grid(_bytes(items), columns=columns)


def _sheets(frames: np.ndarray, columns: int | None = None) -> np.ndarray:
    return np.stack([_sheet(frame, columns) for frame in frames])


def _save_images(
    folder: Path, items: np.ndarray, names: Sequence[str] | None = None
) -> None:
    images.save_images(folder, _bytes(items), names)


IMAGES = Display(
    _sheet, lambda frames: images.trajectory_grid(_bytes(frames)), _sheets, _save_images
)


# --- Clips ----------------------------------------------------------------------------


def _clip_sheet(items: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lay out clips [N, F, H, W, C]: a row each, its frames from left to right."""
    del columns
    return images.trajectory_grid(_bytes(items).swapaxes(0, 1))


def _clip_trajectory(frames: np.ndarray) -> np.ndarray:
    """Show a trajectory of clips [K, N, F, H, W, C]: a row for each point in time."""
    first = _bytes(frames)[:, 0]  # of the first clip
    return images.trajectory_grid(first.swapaxes(0, 1))


def _clip_animation(frames: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Animate the final clips: [F] sheets of all N."""
    return _sheets(np.asarray(frames)[-1].swapaxes(0, 1), columns)


def _save_clips(
    folder: Path, items: np.ndarray, names: Sequence[str] | None = None
) -> None:
    for number, clip in enumerate(_bytes(items)):
        name = f"{number:06d}" if names is None else names[number]
        sheets = np.stack([images.grid(frame[None], padding=0) for frame in clip])
        images.save_animation(folder / name, sheets)


CLIPS = Display(_clip_sheet, _clip_trajectory, _clip_animation, _save_clips)


# --- Plots ----------------------------------------------------------------------------


def _plots(frames: np.ndarray) -> np.ndarray:
    """Plot frames [K, N, D] of items, each a picture, on axes that hold all of them."""
    like = frames.reshape(-1, frames.shape[-1])
    low, high = like.min(axis=0), like.max(axis=0)
    if frames.shape[-1] != 2:  # one axis for all numbers
        low, high = low.min(), high.max()
    room = np.maximum(_MARGIN * (high - low), 1e-3)
    if frames.shape[-1] == 2:
        return plots.draw_points(frames, low - room, high + room)
    return plots.draw_curves(frames, float(low - room), float(high + room))


def _flat(items: np.ndarray, axes: int) -> np.ndarray:
    items = np.asarray(items)
    return items.reshape(*items.shape[:axes], -1).astype(np.float64)


def _plot_sheet(items: np.ndarray, columns: int | None = None) -> np.ndarray:
    del columns
    return _plots(_flat(items, 1)[None])[0]


def _plot_animation(frames: np.ndarray, columns: int | None = None) -> np.ndarray:
    del columns
    return _plots(_flat(frames, 2))


def _plot_trajectory(frames: np.ndarray) -> np.ndarray:
    return np.concatenate(list(_plot_animation(frames)), axis=1)


PLOTS = Display(
    _plot_sheet, _plot_trajectory, _plot_animation, lambda folder, items, names: None
)
