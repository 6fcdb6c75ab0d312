"""The one policy that brings an image of any kind to a fixed shape.

In this order: the EXIF orientation is applied; samples of 16-bit gray files, which are
taken to span `sample_bits` bits, are rounded to 8 bits; the colors become one channel
(the ITU-R 601 luma that Pillow uses) or three, transparency composited on white, or
four, which keep it (Pillow scales them premultiplied);
the image is brought to `size` in the way that `resize` names (Lanczos, antialiased, on
the stored values; smaller images are upscaled); at last `pad_to` adds the value 0, the
background of MNIST, on all sides alike (an odd pixel goes to the bottom or the right).

| resize    | what happens to an image of another shape                            |
| --------- | -------------------------------------------------------------------- |
| crop      | scaled until it just covers `size`, cropped about its centre         |
| pad_black | scaled until it just fits into `size`, black put on two sides        |
| pad_white | the same with white                                                  |
| squash    | both sides scaled to `size`, whatever becomes of the proportions     |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageOps

from ddpm_jax.errors import UserError

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 lie on their side
_SIDEWAYS = (5, 6, 7, 8)
WIDE_BITS = 16  # of a sample, in files that hold more than 8
# Modes of 8 bits a channel at most, which Pillow converts to gray and RGB.
_NARROW = (
    *("1", "L", "LA", "P", "PA"),
    *("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"),
)


@dataclass(frozen=True)
class Layout:
    """What images are brought to; None keeps what the data set has."""

    size: tuple[int, int] | None = None  # (H, W) before padding
    channels: int | None = None  # 1, 3 or 4
    pad_to: tuple[int, int] | None = None  # (H, W) after padding
    # Not in the text of a layout, which fingerprints cover, since older ones had none:
    # see `identity`.
    resize: str = field(default="crop", repr=False)
    sample_bits: int = field(default=WIDE_BITS, repr=False)  # of 16-bit gray files


def make_layout(
    image_size: int | Sequence[int] | None,
    channels: int | None,
    pad_to: int | Sequence[int] | None,
    resize: str = "crop",
    sample_bits: int = WIDE_BITS,
) -> Layout:
    """Check the options of the user and return them as a `Layout`.

    Args:
        image_size: Side, or (H, W), in pixels.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        pad_to: Side, or (H, W), in pixels after padding.
        resize: How images of other shapes are resized: see the table above.
        sample_bits: Bits that the samples of 16-bit gray files span, 9 to 16: with 12,
            as of many microscopes, 4095 is white.

    Raises:
        UserError: A size is not positive, `channels` is none of 1, 3 and 4, `resize` is
            not known, or `sample_bits` is out of range.
    """
    if not 8 < sample_bits <= WIDE_BITS:
        raise UserError(
            f"sample_bits={sample_bits}; use 9 to {WIDE_BITS}, such as 12 for files "
            "whose largest possible sample is 4095."
        )
    if resize not in RESIZES:
        raise UserError(f"resize={resize!r} is not known; use {', '.join(RESIZES)}.")
    if channels not in (None, 1, 3, 4):
        raise UserError(
            f"channels={channels}; use 1 for grey, 3 for RGB or 4 for RGBA images."
        )
    size, padded = _pair("image_size", image_size), _pair("pad_to", pad_to)
    return Layout(size, channels, padded, resize, sample_bits)


def _pair(name, value):
    """Read a side, or a height and a width, of whatever a user may have given."""
    if value is None:
        return None
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise UserError(
            f"{name}={str(value)[:40]} is not a size; use a positive side such as 32, "
            "or height and width such as 32,48."
        )
    return int(sides[0]), int(sides[1])


def _is_side(side):
    is_number = isinstance(side, int | np.integer) and not isinstance(side, bool)
    return is_number and side >= 1


def drawn_size(
    layout: Layout, side: int, channels: int, what: str, why: str
) -> tuple[int, int]:
    """Return the (H, W) of images that are drawn by a rule, at any size.

    Args:
        layout: of the user.
        side: of the images where the layout leaves it open, pixels.
        channels: that they have.
        what: is drawn, for messages.
        why: they have so many channels, likewise.

    Raises:
        UserError: the layout pads them, or wants other channels.
    """
    size = layout.size or (side, side)
    if layout.pad_to not in (None, size):
        raise UserError(
            f"pad_to puts black around the images, and {what} are rendered at any "
            "size; give image_size alone."
        )
    if layout.channels not in (None, channels):
        raise UserError(f"channels={layout.channels}, but {why}; use {channels}.")
    return size


def square_side(size: tuple[int, int], what: str) -> int:
    """Return the side of images that have to be square.

    Raises:
        UserError: they are not.
    """
    height, width = size
    if height != width:
        raise UserError(
            f"image_size={height}x{width}, but {what} are square; give one side."
        )
    return height


def refuse_resize(layout: Layout, what: str) -> None:
    """Refuse a way to resize what is drawn at its size.

    Raises:
        UserError: there is one.
    """
    if layout.resize != "crop":
        raise UserError(
            f"resize={layout.resize!r} does nothing, since {what} are rendered at "
            "image_size; leave it out."
        )


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
    channels = layout.channels or native[2]
    return replace(layout, size=size, channels=channels, pad_to=pad_to)


def identity(layout: Layout) -> tuple[object, ...]:
    """Return what a fingerprint covers of a layout."""
    resize = () if layout.resize == "crop" else (layout.resize,)
    bits = () if layout.sample_bits == WIDE_BITS else (layout.sample_bits,)
    return (layout, *resize, *bits)


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
    (height, width), channels, pad_to = _known(layout)
    image = _recolor(narrow(upright(image), layout.sample_bits), channels)
    if image.size != (width, height):
        image = RESIZES[layout.resize](image, (width, height))
    pixels = np.asarray(image).reshape(height, width, channels)
    return pad(pixels, pad_to)


def _known(layout: Layout) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """Return the values of a complete layout: size, channels, pad_to."""
    assert layout.size and layout.channels and layout.pad_to  # as `complete` left it
    return layout.size, layout.channels, layout.pad_to


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    if image.getexif().get(ORIENTATION, 1) != 1:
        return ImageOps.exif_transpose(image)
    return image


def is_wide(image: Image.Image) -> bool:
    """Return whether an image has more than 8 bits a sample, as only gray ones have."""
    return image.mode.startswith(("I", "F"))


def peak_of(image: Image.Image) -> int | None:
    """Return the largest sample of a 16-bit gray image, None of any other.

    Raises:
        ValueError: The samples are floating point or beyond 16 bits, or the colors
            are of a kind that Pillow does not convert.
    """
    if image.mode == "F":
        raise ValueError("its samples are floating point; convert it to 8 or 16 bits")
    if not is_wide(image):
        if image.mode not in _NARROW:
            raise ValueError(f"its colors are {image.mode}; convert it to RGB")
        return None
    samples = np.asarray(image)
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high >= 2**WIDE_BITS:
        raise ValueError(
            f"its samples go from {low} to {high}, and 0 to {2**WIDE_BITS - 1} are read"
        )
    return high


def narrow(image: Image.Image, sample_bits: int = WIDE_BITS) -> Image.Image:
    """Round 16-bit gray samples to 8 bits; other images are returned as they are.

    Args:
        image: Any mode.
        sample_bits: Bits that the samples span.

    Returns:
        The image; L, or LA where a sample value is transparent.

    Raises:
        ValueError: As `peak_of`, or a sample is beyond `sample_bits`.
    """
    peak, white = peak_of(image), 2**sample_bits - 1
    if peak is None:
        return _mark_transparent(image)
    if peak > white:
        raise ValueError(
            f"it has samples up to {peak}, and sample_bits={sample_bits} ends at "
            f"{white}"
        )
    wide = np.asarray(image).astype(np.int64)
    # convert() would clip at 255 instead.
    gray = Image.fromarray(((wide * 255 + white // 2) // white).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        opaque = np.where(wide == clear, 0, 255).astype(np.uint8)
        gray.putalpha(Image.fromarray(opaque))
    return gray


def _mark_transparent(image):
    """Bring the transparent color of a 16-bit RGB file to the 8 bits Pillow keeps."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        image.info["transparency"] = tuple(sample >> 8 for sample in clear)
    return image


def _recolor(image, channels):
    if channels == 4:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _crop(image, size):
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _squash(image, size):
    return image.resize(size, Image.Resampling.LANCZOS)


def _pad_with(color):
    def pad_image(image, size):
        scale = min(size[0] / image.width, size[1] / image.height)
        inner = [max(1, round(side * scale)) for side in image.size]
        sheet = Image.new(image.mode, size, color)
        corner = [(outer - side) // 2 for outer, side in zip(size, inner, strict=True)]
        sheet.paste(image.resize(inner, Image.Resampling.LANCZOS), corner)
        return sheet

    return pad_image


RESIZES = {
    "crop": _crop,
    "pad_black": _pad_with("black"),
    "pad_white": _pad_with("white"),
    "squash": _squash,
}


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (H, W) once the EXIF orientation is applied; most decode no pixel."""
    if image.format == "TIFF":  # Pillow has turned its size already, and its pixels
        return image.size[::-1]
    turned = image.getexif().get(ORIENTATION, 1) in _SIDEWAYS
    return image.size if turned else image.size[::-1]


def pad(pixels: np.ndarray, pad_to: tuple[int, int]) -> np.ndarray:
    """Surround [..., H, W, C] with zeros up to (H, W) = pad_to, centred."""
    extra = [pad_to[0] - pixels.shape[-3], pad_to[1] - pixels.shape[-2]]
    if extra == [0, 0]:
        return pixels
    sides = [(space // 2, space - space // 2) for space in extra]
    return np.pad(pixels, [(0, 0)] * (pixels.ndim - 3) + [*sides, (0, 0)])
