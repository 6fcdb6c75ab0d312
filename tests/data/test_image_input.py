"""One picture of a user's own: upright before anything is measured; masks."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import indices_of, load, read_image, read_mask
from ddpm_jax.errors import UserError

SIDEWAYS = 6  # EXIF: a quarter turn clockwise makes it upright


def turned(path, pixels):
    """Write pixels [H, W] as a telephone does: on their side, with a tag."""
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    Image.fromarray(np.rot90(pixels)).save(path, exif=exif)
    return path


UPRIGHT = np.arange(24, dtype=np.uint8).reshape(6, 4) * 10


def test_a_turned_picture_is_padded_upright(tmp_path):
    # Into 6x5 it fits upright alone: measured on its side, 4x6, it would be scaled.
    path = turned(tmp_path / "phone.png", UPRIGHT)
    got = read_image(path, (6, 5, 1), padded=True)[..., 0]
    np.testing.assert_array_equal(got, np.pad(UPRIGHT, ((0, 0), (0, 1))))


def test_a_turned_picture_is_upscaled_upright(tmp_path):
    path = turned(tmp_path / "phone.png", UPRIGHT)
    got = read_image(path, (12, 8, 1), factor=2)[..., 0]
    np.testing.assert_array_equal(got, UPRIGHT.repeat(2, 0).repeat(2, 1))


def test_a_turned_mask_is_upright_and_a_wide_one_is_scaled(tmp_path):
    white = UPRIGHT > 70
    path = turned(tmp_path / "mask.png", white.astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_mask(path, (6, 4)), white)
    # Half of 65535 is mid gray, where a clipped 16-bit mask would be all white.
    Image.fromarray(np.where(white, 60000, 5000).astype(np.uint16)).save(path)
    np.testing.assert_array_equal(read_mask(path, (6, 4)), white)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_file_that_is_no_image_is_one_line(tmp_path, read):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(UserError, match="it is not a PNG, JPEG, WebP") as raised:
        read(tmp_path / "a.png", (4, 4, 1)[: 3 if read is read_image else 2])
    assert "\n" not in str(raised.value)


def test_an_index_of_any_length_is_answered():
    digits = load("digits")
    assert indices_of("data:7-8", digits) == [7, 8]
    assert indices_of("data:" + "9" * 5000, digits) is None
