"""Image files that anyone may have made: what opens them, and what they may do."""

import os
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from ddpm_jax.runtime.image_file import BROKEN, SUFFIXES, open_image, reason_of

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
)
PIXELS = np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7
LOSSLESS = [s for s in SUFFIXES if s not in (".jpg", ".jpeg", ".jpe", ".jfif", ".pgm")]


def chunk(kind, content):
    """Write a chunk of a PNG file."""
    tail = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + tail


def huge(side):
    """Return a PNG whose header asks for side x side pixels, and has none."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def reason(path):
    with pytest.raises(BROKEN) as raised, open_image(path) as image:
        image.load()
    text = reason_of(raised.value)
    assert text and "\n" not in text
    return text


def test_postscript_by_the_name_of_a_picture_starts_no_program(tmp_path, monkeypatch):
    started = []
    for name in ("check_call", "run", "Popen"):
        monkeypatch.setattr(subprocess, name, lambda *a, **k: started.append(a))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    (tmp_path / "a.png").write_bytes(EPS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"  # what Pillow would have done
    assert "it is not a PNG" in reason(tmp_path / "a.png")
    assert started == []


@pytest.mark.parametrize("suffix", sorted({*LOSSLESS, ".pgm"} - {".pbm"}))
def test_every_format_is_read_exactly(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    pixels = PIXELS[..., 0] if suffix in (".gif", ".pgm") else PIXELS
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, **options)
    with open_image(path) as image:
        kept = image.convert("L" if pixels.ndim == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(kept), pixels)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")  # opening it would wait for a writer
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for name in ("a.png", "b.png"):
        assert reason(tmp_path / name) == "it is not a regular file"
    assert reason(tmp_path / "c.png") == "No such file or directory"


def test_too_many_pixels_are_one_line_and_many_are_no_warning(tmp_path, recwarn):
    (tmp_path / "a.png").write_bytes(huge(20_000))
    assert "exceeds limit" in reason(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(huge(10_000))
    with open_image(tmp_path / "b.png") as image:
        assert image.size == (10_000, 10_000)
    assert not [w for w in recwarn if "pixels" in str(w.message)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_whatever_is_damaged_is_one_of_the_known_errors(tmp_path, kind):
    """300 files a format, cut or with bytes changed by a fixed seed."""
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "whole", kind, exif=exif)
    whole = (tmp_path / "whole").read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for place in generator.integers(0, len(damaged), 3):
            damaged[place] = generator.integers(256)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            with open_image(tmp_path / "damaged") as image:
                image.getexif()
                image.load()
        except BROKEN as error:
            refused += 1
            assert "\n" not in reason_of(error)
    assert refused > 100
