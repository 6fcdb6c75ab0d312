"""Images and masks that are inputs of an edit, in the shape of a model's images."""

import re
from pathlib import Path

import numpy as np

from ddpm_jax.data import layout
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.image_file import BROKEN, NAMES, open_image, reason_of

_OF_THE_DATA = re.compile(r"data:([0-9]{1,18})(?:-([0-9]{1,18}))?")


def read_image(
    path: str | Path,
    image_shape: tuple[int, int, int],
    *,
    padded: bool = False,
    factor: int = 1,
) -> np.ndarray:
    """Read an image and resize it to (H, W, C) as the data pipeline would.

    Args:
        path: of an image file, in one of the formats of `image_file`.
        image_shape: (H, W, C) of the model.
        padded: the model's data were padded; then an image no larger than H x W is
            padded too. Else, and if it is larger, it is scaled to cover H x W and
            cropped about its centre.
        factor: an image of exactly H/factor x W/factor is upscaled by repeating its
            pixels, whose means over blocks are then those it had.

    Returns:
        uint8 [H, W, C].

    Raises:
        UserError: the file cannot be read as an image.
    """
    height, width, channels = image_shape
    try:
        with open_image(path) as image:
            size = layout.upright_size(image)
            if factor > 1 and size == (height // factor, width // factor):
                wanted = layout.Layout(size, channels, size)
                small = layout.arrange(image, wanted)
                return small.repeat(factor, axis=0).repeat(factor, axis=1)
            fits = size[0] <= height and size[1] <= width
            inner = size if padded and fits else (height, width)
            wanted = layout.Layout(inner, channels, (height, width))
            return layout.arrange(image, wanted)
    except BROKEN as error:
        raise UserError(
            f"cannot read the image {path} ({reason_of(error)}); give a {NAMES} file."
        ) from error


def read_mask(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask: white is True, black is False, the limit being mid grey.

    Args:
        path: an image.
        size: (H, W) it must have.

    Returns:
        bool [H, W].

    Raises:
        UserError: the file cannot be read, has another size, or is all of one color.
    """
    try:
        with open_image(path) as image:
            grey = np.asarray(layout.narrow(layout.upright(image)).convert("L"))
    except BROKEN as error:
        raise UserError(
            f"cannot read the mask {path} ({reason_of(error)}); give a black and white "
            "PNG file."
        ) from error
    if grey.shape != size:
        raise UserError(
            f"the mask {path} is {grey.shape[0]}x{grey.shape[1]}, the model's images "
            f"are {size[0]}x{size[1]}; give a mask of that size."
        )
    white = grey > 127
    if white.all() or not white.any():
        color = "white" if white.all() else "black"
        raise UserError(
            f"the mask {path} is all {color}; paint white what is to be filled and "
            "black what is to be kept."
        )
    return white


def indices_of(text: str, dataset: Dataset) -> list[int] | None:
    """Read "data:7" or "data:7-10" as examples of a data set; None if it is neither.

    Raises:
        UserError: there are no such examples.
    """
    match = _OF_THE_DATA.fullmatch(text)
    if match is None:
        return None
    first = int(match[1])
    last = int(match[2] or first)
    if not first <= last < len(dataset):
        raise UserError(
            f"{text} names examples {first} to {last} of {dataset.name}, which has "
            f"0 to {len(dataset) - 1}; choose among those."
        )
    return list(range(first, last + 1))
