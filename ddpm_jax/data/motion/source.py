"""Moving digits as a data set: `motion:digits` or `motion:mnist`, clips of 8 frames.

With a number behind them, clips of so many: `motion:digits:16`.
"""

from collections.abc import Callable

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
    name: str,
    stills: Callable[[str], Dataset],
    *,
    split: str,
    layout: layouts.Layout,
) -> Dataset:
    """Draw the clips of a split.

    Args:
        name: what is after "motion:", such as "digits" or "digits:16".
        stills: opens, for digits or mnist, the still pictures of that split: of one
            channel, with labels.
        split: train or test.
        layout: its size is the side of the frames.

    Raises:
        UserError: the name or a size does not fit.
        NoSplitError: no such split.
    """
    if split not in COUNTS:
        raise NoSplitError(f"motion has no split {split!r}; use {', '.join(COUNTS)}.")
    kind, num_frames = _parse(name)
    what, box = "frames of motion", _BOXES[kind]
    size = layouts.drawn_size(layout, SIDES[kind], 1, what, "digits in motion are gray")
    layouts.refuse_resize(layout, what)
    side = layouts.square_side(size, what)
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
    digits = stills(kind)
    items, labels = in_memory(digits)
    assert labels is not None and digits.label_names is not None  # of digits
    edge = (items.shape[1] - box) // 2
    pictures = items[:, edge : edge + box, edge : edge + box, 0] / 255.0
    drawn = examples(split, count, len(pictures), room)
    where = positions(drawn.start, drawn.velocity, num_frames, room)
    clips = np.empty((count, num_frames, side, side, 1), np.uint8)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        frames = draw(pictures[drawn.digit[part]], where[part], side)
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


def _parse(name: str) -> tuple[str, int]:
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
