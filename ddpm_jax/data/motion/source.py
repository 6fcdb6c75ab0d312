"""Moving digits as a data set: `motion:digits` or `motion:mnist`, clips of 8 frames.

With a number behind them, clips of so many: `motion:digits:16`.
"""

import numpy as np

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import (
    Arrays,
    Dataset,
    NoSplitError,
    fingerprint_of,
    in_memory,
)
from ddpm_jax.data.motion.drawing import draw
from ddpm_jax.data.motion.rule import caption, examples, positions
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import capacity

COUNTS = {"train": 20_000, "test": 2_000}
"""Split -> how many clips it has; each is of the digits of that split."""

SIDES = {"digits": 16, "mnist": 32}
"""Name -> side of the frames, pixels, unless `image_size` is given."""

_BOXES = {"digits": 8, "mnist": 20}  # side of the part of a picture that has the digit
_FRAMES, _MOST_FRAMES = 8, 1024
_ROOM = 4  # pixels at the least: two steps of the fastest
_CHUNK = 1000  # clips drawn at a time
_VERSION = 1  # to be raised where the same name gives other clips


def load_motion(
    name: str, digits: Dataset, *, split: str, layout: layouts.Layout
) -> Dataset:
    """Draw the clips of a split.

    Args:
        name: what is after "motion:", such as "digits" or "digits:16".
        digits: still pictures of one channel, with labels, of the same split.
        split: train or test.
        layout: its size is the side of the frames.

    Raises:
        UserError: the name or a size does not fit.
        NoSplitError: no such split.
    """
    known_split(split)
    kind, num_frames = parse_name(name)
    side, box = _side(layout, SIDES[kind]), _BOXES[kind]
    if side < box + _ROOM:
        raise UserError(
            f"image_size={side} leaves a digit of {box} pixels no room to move; use "
            f"{box + _ROOM} or more, such as {SIDES[kind]}."
        )
    count, room = COUNTS[split], side - box
    needed, memory = count * num_frames * side * side, capacity.machine_memory()
    if memory is not None and needed > memory:
        raise UserError(
            f"{count:,} clips of {num_frames} frames of {side}x{side} take "
            f"{capacity.format_bytes(needed)}, and there are "
            f"{capacity.format_bytes(memory)} of memory; use a smaller image_size or "
            "fewer frames."
        )
    items, labels = in_memory(digits)
    assert labels is not None and digits.label_names is not None  # of digits
    stills = items[..., 0]
    edge = (stills.shape[1] - box) // 2
    stills = stills[:, edge : edge + box, edge : edge + box] / 255.0
    drawn = examples(split, count, len(stills), room)
    where = positions(drawn.start, drawn.velocity, num_frames, room)
    clips = np.empty((count, num_frames, side, side, 1), np.uint8)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        frames = draw(stills[drawn.digit[part]], where[part], side)
        clips[part] = np.rint(frames * 255)[..., None]
    classes = labels[drawn.digit].astype(np.int32)
    names = digits.label_names
    texts = tuple(
        caption(names[label], direction, speed)
        for label, direction, speed in zip(
            classes, drawn.direction, drawn.speed, strict=True
        )
    )
    identity = ["motion", _VERSION, digits.fingerprint, num_frames, side]
    return Dataset(
        name=f"motion:{name}",
        source=Arrays(clips, classes),
        shape=clips.shape[1:],
        label_names=names,
        fingerprint=fingerprint_of(identity),
        split=split,
        texts=texts,
        sided=True,
    )


def known_split(split: str) -> str:
    """Return a split that there is.

    Raises:
        NoSplitError: there is none of that name.
    """
    if split not in COUNTS:
        raise NoSplitError(f"motion has no split {split!r}; use {', '.join(COUNTS)}.")
    return split


def parse_name(name: str) -> tuple[str, int]:
    """Read "digits", "mnist", or either with ":FRAMES".

    Raises:
        UserError: it is neither.
    """
    kind, colon, frames = name.partition(":")
    if kind not in SIDES:
        known = " or ".join(f"motion:{one}" for one in SIDES)
        raise UserError(f"motion:{name:.40} is not known; use {known}.")
    if not colon:
        return kind, _FRAMES
    if not frames.isdecimal() or not 1 <= int(frames[:9]) <= _MOST_FRAMES:
        raise UserError(
            f"motion:{name:.40} names no number of frames; use one from 1 to "
            f"{_MOST_FRAMES}, such as motion:{kind}:16."
        )
    return kind, int(frames)


def _side(layout: layouts.Layout, default: int) -> int:
    height, width = layout.size or (default, default)
    if height != width:
        raise UserError(
            f"image_size={height}x{width}, but frames of motion are square; give one "
            "side."
        )
    if layout.pad_to not in (None, (height, width)):
        raise UserError(
            "pad_to puts black around images, and frames of motion are drawn at any "
            "size; give image_size alone."
        )
    if layout.channels not in (None, 1):
        raise UserError(
            f"channels={layout.channels}, but digits in motion are gray; use 1."
        )
    return height
