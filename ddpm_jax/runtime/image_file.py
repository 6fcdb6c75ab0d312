"""Safe opening of untrusted image files, and their errors.

Pillow would try every format that it has, by the content and not by the name: a
PostScript file called `cat.png` would start Ghostscript. Here the formats are named,
only regular files are opened (a pipe would wait for ever, a device never ends), and an
image whose header has more pixels than Pillow's limit is an error in one line. No other
module calls `Image.open`.
"""

import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
"""Pillow's names of the formats that are read; none of them starts a program."""

NAMES = "PNG, JPEG, WebP, GIF, TIFF, BMP or PPM"
"""The same for messages."""

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".tif", ".tiff"),
    *(".bmp", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings, in lower case, of files that are taken for images."""

# What Pillow raises on a damaged file, depending on the format and on the damage.
BROKEN = (
    ArithmeticError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """Read the header of an image; its pixels are decoded on access.

    Args:
        source: a path, or an open file.

    Returns:
        The image, which is to be closed. Animations stand at their first frame.

    Raises:
        OSError: no such file, not a regular one, or none of `FORMATS`; a damaged header
            may raise any of `BROKEN`.
    """
    if isinstance(source, str | Path) and not stat.S_ISREG(os.stat(source).st_mode):
        raise OSError("it is not a regular file")
    # Two lines on the terminal for what is read all the same; beyond twice the limit
    # it is an error. Not `catch_warnings`, which is not for threads.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image.open(source, formats=FORMATS)


def reason_of(error: BaseException) -> str:
    """Describe in one line what is wrong with a file, for any of `BROKEN`."""
    if isinstance(error, UnidentifiedImageError):  # its text repeats the whole path
        return f"it is not a {NAMES} file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text if len(text) > 2 else type(error).__name__
