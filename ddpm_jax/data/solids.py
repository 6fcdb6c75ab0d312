"""Captioned renders of known solids: what a 2-D model learns a 3-D thing's views from.

| name                 | its images                                                |
| -------------------- | --------------------------------------------------------- |
| solids               | of all solids of `scenes.solids`, in turn                 |
| solids:N             | N of them                                                 |
| solids:snowman,car   | of these solids; and solids:snowman,car:N                 |
| solids:blind         | of all, and captions say no view; and with names, and :N  |

Example i is of solid i modulo their number, which is its class, from a camera that is
a pure function of the split and of i, drawn from `scenes.cameras.CameraRange`. Its
caption says what is seen and from where: "a snowman, seen from the left side".
"""

import dataclasses

import numpy as np

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import (
    CORES,
    Dataset,
    NoSplitError,
    Records,
    fingerprint_of,
)
from ddpm_jax.data.streams import shares_of, words_of
from ddpm_jax.errors import UserError
from ddpm_jax.scenes.cameras import Camera, CameraRange, seen_from, view_of
from ddpm_jax.scenes.solids import SOLIDS, render

BLIND = "blind"
"""The word of a source whose captions say no view."""

COUNTS = {"train": 1_000, "test": 100}
"""Split -> examples of each solid, unless their number is given."""

_SPLITS = tuple(COUNTS)
_SIDE = 32  # pixels, unless `image_size` is given
_VERSION = 1  # of solids, cameras and captions; part of fingerprints


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What comes behind "solids:"."""

    names: tuple[str, ...]
    count: int | None
    blind: bool


def load_solids(text: str | None, *, split: str, layout: layouts.Layout) -> Dataset:
    """Open renders of solids, which are rendered at access.

    Args:
        text: of the source, behind "solids:"; None if there is nothing.
        split: train or test.
        layout: its size is that of the images, 32x32 if it is open.

    Raises:
        UserError: a solid is not known, or the images cannot be rendered so.
        NoSplitError: no such split.
    """
    if split not in _SPLITS:
        raise NoSplitError(f"solids has no split {split!r}; use {', '.join(_SPLITS)}.")
    asked = _parse(text)
    size = layouts.drawn_size(
        layout, _SIDE, 3, "solids", "solids are rendered in color"
    )
    layouts.refuse_resize(layout, "solids")
    num_solids = len(asked.names)
    count = COUNTS[split] * num_solids if asked.count is None else asked.count
    camera = camera_of(split, np.arange(count))
    views = view_of(camera)

    def read(index: int) -> dict:
        solid = SOLIDS[asked.names[index % num_solids]]
        one = Camera(*(field[index] for field in camera))
        pixels = np.rint(255 * render(solid, one, size).image).astype(np.uint8)
        return {"image": pixels, "label": index % num_solids}

    things = [f"a {asked.names[i % num_solids]}" for i in range(count)]
    texts = things
    if not asked.blind:
        texts = [f"{a}, {seen_from(v)}" for a, v in zip(things, views, strict=True)]
    identity = ["solids", _VERSION, asked.names, asked.blind, split, count, size]
    return Dataset(
        name="solids" if text is None else f"solids:{text}",
        source=Records(count, read, num_threads=CORES, label=lambda i: i % num_solids),
        shape=(*size, 3),
        label_names=asked.names,
        fingerprint=fingerprint_of(identity),
        split=split,
        note="Captions say no view." if asked.blind else "",
        texts=tuple(texts),
        sided=not asked.blind,
    )


def camera_of(split: str, index: np.ndarray) -> Camera:
    """Return the cameras of examples, each of which is independent of all others.

    Args:
        split: train or test.
        index: int [N].

    Returns:
        Leaves float64 [N], NumPy: even between the limits of `CameraRange`.
    """
    ranges = CameraRange()
    limits = np.array(
        [ranges.azimuth, ranges.elevation, ranges.distance, ranges.field_of_view]
    )
    stream = _SPLITS.index(split)
    shares = shares_of(words_of(stream, index, len(limits)))
    drawn = limits[:, 0] + (limits[:, 1] - limits[:, 0]) * shares
    azimuth, elevation, distance, field_of_view = drawn.T
    return Camera(
        np.deg2rad(azimuth), np.deg2rad(elevation), distance, np.deg2rad(field_of_view)
    )


def _parse(text: str | None) -> _Asked:
    """Read [blind] [:NAMES] [:N]; each may be missing."""
    words = [] if text is None else text.split(":")
    blind = bool(words) and words[0] == BLIND
    rest = words[blind:]
    names = tuple(SOLIDS)
    if rest and not rest[0].isdecimal():
        names = tuple(rest.pop(0).split(","))
    for name in names:
        if name not in SOLIDS:
            raise UserError(
                f"solids:{str(text)[:40]} names {name[:40]!r}, which is no solid; use "
                f"some of {','.join(SOLIDS)}, as solids:snowman,car."
            )
    if len(set(names)) < len(names):
        raise UserError(
            f"solids:{str(text)[:40]} names a solid twice; name each of them once."
        )
    if not rest:
        return _Asked(names, None, blind)
    count = rest[0]
    if len(rest) > 1 or not count.isdecimal() or len(count) > 18 or int(count) < 1:
        raise UserError(
            f"solids:{str(text)[:40]} names no number of images; use one from 1, such "
            "as solids:600 or solids:snowman,car:600."
        )
    return _Asked(names, int(count), blind)
