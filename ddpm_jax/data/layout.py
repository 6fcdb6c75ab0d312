"""The one policy that brings an image of any kind to a fixed shape.

In this order: the EXIF orientation is applied; 16-bit samples are rounded to 8 bits;
transparency is laid over white; the colours become one channel (the ITU-R 601 luma
that Pillow uses) or three; the image is scaled until it just covers `size` (Lanczos,
antialiased, on the stored values) and cropped about its centre; at last `pad_to` adds
the value 0, the background of MNIST, on all sides alike (an odd pixel goes to the
bottom or the right). Smaller images are enlarged. Nothing is stretched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from ddpm_jax.errors import UserError

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 lie on their side

# What Pillow raises on a damaged file, depending on the format and on the damage.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Layout:
    """What images are brought to; None keeps what the data set has."""

    size: tuple[int, int] | None = None  # (H, W) before padding
    channels: int | None = None  # 1 or 3
    pad_to: tuple[int, int] | None = None  # (H, W) after padding


def make_layout(
    image_size: int | Sequence[int] | None,
    channels: int | None,
    pad_to: int | Sequence[int] | None,
) -> Layout:
    """Check what the user asked for and return it as a `Layout`.

    Args:
        image_size: Side, or (H, W), in pixels.
        channels: 1 (grey) or 3 (RGB).
        pad_to: Side, or (H, W), in pixels after padding.

    Raises:
        UserError: A size is not positive or `channels` is neither 1 nor 3.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels}; use 1 for grey or 3 for RGB images.")
    return Layout(_pair("image_size", image_size), channels, _pair("pad_to", pad_to))


def _pair(name, value):
    if value is None:
        return None
    sides = (value, value) if isinstance(value, int | np.integer) else tuple(value)
    if len(sides) != 2 or any(int(side) != side or side < 1 for side in sides):
        raise UserError(
            f"{name}={value!r} is not a size; use a positive side such as 32, "
            "or (height, width)."
        )
    return int(sides[0]), int(sides[1])


def complete(layout: Layout, native: tuple[int, int, int], name: str) -> Layout:
    """Fill what the user left open from the data's own (H, W, C).

    Raises:
        UserError: The images would not fit into `pad_to`.
    """
    size = layout.size or native[:2]
    pad_to = layout.pad_to or size
    if pad_to[0] < size[0] or pad_to[1] < size[1]:
        raise UserError(
            f"pad_to={pad_to[0]}x{pad_to[1]} is smaller than the "
            f"{size[0]}x{size[1]} images of {name}; use a larger pad_to, or "
            "image_size to shrink them first."
        )
    return Layout(size, layout.channels or native[2], pad_to)


def shape_of(layout: Layout) -> tuple[int, int, int]:
    """Return the (H, W, C) that a complete layout leads to."""
    _, channels, pad_to = _known(layout)
    return (*pad_to, channels)


def arrange(image: Image.Image, layout: Layout) -> np.ndarray:
    """Bring one image to a complete layout.

    Args:
        image: Any mode and size.
        layout: As returned by `complete`.

    Returns:
        uint8 [H, W, C].
    """
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    (height, width), channels, pad_to = _known(layout)
    image = _recolour(image, channels)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).reshape(height, width, channels)
    return pad(pixels, pad_to)


def _known(layout: Layout) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """Return what a complete layout says: size, channels, pad_to."""
    assert layout.size and layout.channels and layout.pad_to  # as `complete` left it
    return layout.size, layout.channels, layout.pad_to


def _recolour(image, channels):
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip it at 255
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def pad(pixels: np.ndarray, pad_to: tuple[int, int]) -> np.ndarray:
    """Surround [..., H, W, C] with zeros up to (H, W) = pad_to, centred."""
    extra = [pad_to[0] - pixels.shape[-3], pad_to[1] - pixels.shape[-2]]
    if extra == [0, 0]:
        return pixels
    sides = [(space // 2, space - space // 2) for space in extra]
    return np.pad(pixels, [(0, 0)] * (pixels.ndim - 3) + [*sides, (0, 0)])
