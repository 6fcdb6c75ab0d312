"""The policy for one image: expected pixels are worked out by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.layout import Layout, arrange, complete, identity, make_layout
from ddpm_jax.errors import UserError


def as_shape(image, size, channels):
    return arrange(image, Layout(size, channels, size))


def test_transparency_is_laid_over_white():
    # 0.4 * 100 + 0.6 * 255 = 193 where alpha is 102 = 0.4 * 255.
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [100, 0, 200, 102]]])
    image = Image.fromarray(pixels.astype(np.uint8), "RGBA")
    expected = [[[10, 20, 30], [255, 255, 255], [193, 153, 233]]]
    np.testing.assert_array_equal(as_shape(image, (1, 3), 3), expected)


def test_grey_with_alpha_keeps_its_values():
    image = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(as_shape(image, (1, 2), 1)[..., 0], [[7, 255]])


def test_palette_with_a_transparent_color(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 9, 9, 9])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=1)
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == "P"
        expected = [[[1, 2, 3], [255, 255, 255]]]
        np.testing.assert_array_equal(as_shape(image, (1, 2), 3), expected)


def test_four_channels_keep_transparency_and_scale_it_premultiplied():
    """A clear green pixel beside a red one: their mean is half a red one, not brown."""
    two = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    two.putpixel((1, 0), (0, 255, 0, 0))
    kept = as_shape(two, (1, 2), 4)
    np.testing.assert_array_equal(kept, [[[255, 0, 0, 255], [0, 255, 0, 0]]])
    scaled = as_shape(two.resize((64, 32), Image.Resampling.NEAREST), (1, 1), 4)[0, 0]
    assert scaled[:3].tolist() == [255, 0, 0]
    assert abs(int(scaled[3]) - 127.5) < 1
    opaque = as_shape(Image.new("L", (1, 1), 7), (1, 1), 4)
    assert opaque[0, 0].tolist() == [7, 7, 7, 255]


def test_grey_becomes_three_equal_channels_and_color_becomes_luma():
    grey = Image.fromarray(np.array([[5, 250]], np.uint8))
    np.testing.assert_array_equal(
        as_shape(grey, (1, 2), 3), [[[5, 5, 5], [250, 250, 250]]]
    )
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B.
    red_green_blue = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    luma = as_shape(Image.fromarray(red_green_blue), (1, 3), 1)[..., 0]
    np.testing.assert_array_equal(luma, [[76, 150, 29]])


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    wide = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as image:
        pixels = as_shape(image, (1, 4), 1)[..., 0]
    # 65535 = 255 * 257; 32768 / 257 = 127.502.
    np.testing.assert_array_equal(pixels, [[0, 1, 128, 255]])


def png(depth, kind, samples, transparent):
    """Write a PNG of one row with a transparent color, as Pillow cannot."""

    def chunk(name, content):
        tail = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + tail

    header = struct.pack(">IIBBBBB", len(samples), 1, depth, kind, 0, 0, 0)
    row = b"\0" + np.array(samples, f">u{depth // 8}").tobytes()
    clear = np.array(transparent, ">u2").tobytes()
    parts = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(row))]
    body = b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body)


def test_a_transparent_sample_of_sixteen_bits_becomes_white():
    with Image.open(png(16, 0, [1000, 40000, 1001], 1000)) as image:
        pixels = as_shape(image, (1, 3), 1)[..., 0]
    np.testing.assert_array_equal(pixels, [[255, 156, 4]])  # 40000 / 257 = 155.6
    colors = [[1000, 2000, 3000], [40000, 2000, 3000]]
    with Image.open(png(16, 2, colors, [1000, 2000, 3000])) as image:
        pixels = as_shape(image, (1, 2), 3)
    np.testing.assert_array_equal(pixels, [[[255, 255, 255], [156, 7, 11]]])


def test_samples_beyond_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "a.tif")
    with (
        Image.open(tmp_path / "a.tif") as image,
        pytest.raises(ValueError, match="go from 0 to 70000, and 0 to 65535 are read"),
    ):
        as_shape(image, (1, 2), 1)


def test_shorter_side_is_scaled_and_the_centre_kept():
    # 8 x 16: a black left and right quarter, a white middle half. Scaled to cover
    # 4 x 4 the image is 4 x 8, whose central 4 columns are the white half.
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 4:12] = 255
    wide, tall = Image.fromarray(pixels), Image.fromarray(pixels.T)
    # Lanczos looks a little beyond the edge; stretching would give a black edge.
    assert (as_shape(wide, (4, 4), 1) > 230).all()
    assert (as_shape(tall, (4, 4), 1) > 230).all()


def test_downsampling_is_antialiased():
    # A chequerboard of single pixels is a uniform mean once scaled by 4; taking
    # every fourth pixel would give 0 or 255.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = as_shape(Image.fromarray(board), (16, 16), 1)
    assert small.min() >= 122 and small.max() <= 133


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[0, 50, 100], [150, 200, 250]]),
        (2, [[100, 50, 0], [250, 200, 150]]),  # mirrored left to right
        (3, [[250, 200, 150], [100, 50, 0]]),  # upside down
        (4, [[150, 200, 250], [0, 50, 100]]),  # mirrored top to bottom
        (5, [[0, 150], [50, 200], [100, 250]]),  # rows and columns exchanged
        (7, [[250, 100], [200, 50], [150, 0]]),  # the same, upside down
        (6, [[150, 0], [200, 50], [250, 100]]),  # a quarter turn clockwise
        (8, [[100, 250], [50, 200], [0, 150]]),  # a quarter turn anticlockwise
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, expected):
    image = Image.fromarray(np.array([[0, 50, 100], [150, 200, 250]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    expected = np.array(expected)
    with Image.open(tmp_path / "turned.png") as image:
        pixels = as_shape(image, expected.shape, 1)[..., 0]
    np.testing.assert_array_equal(pixels, expected)


def test_padding_is_symmetric_and_black():
    image = Image.fromarray(np.full((28, 28), 9, np.uint8))
    padded = arrange(image, Layout((28, 28), 1, (32, 32)))[..., 0]
    assert padded.sum() == 28 * 28 * 9
    assert (padded[2:30, 2:30] == 9).all()
    odd = arrange(image, Layout((28, 28), 1, (31, 29)))[..., 0]
    assert (odd[1:29, :28] == 9).all() and odd.sum() == 28 * 28 * 9


def test_open_parts_come_from_the_data():
    assert complete(make_layout(None, None, 32), (28, 28, 1), "mnist") == Layout(
        (28, 28), 1, (32, 32)
    )
    assert complete(make_layout([6, 4], 3, None), (28, 28, 1), "mnist") == Layout(
        (6, 4), 3, (6, 4)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, None, None), "image_size=0 is not a size"),
        ((None, 2, None), "channels=2"),
        ((None, None, (32, 32, 3)), "pad_to="),
        (("large", None, None), "image_size=large is not a size"),
        ((32.0, None, None), "image_size=32.0 is not a size"),
        ((True, None, None), "image_size=True is not a size"),
        (((32, "48"), None, None), "is not a size"),
        ((None, None, 20), "pad_to=20x20 is smaller than the 28x28 images"),
        ((30, None, 28), "pad_to=28x28 is smaller than the 30x30 images"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as raised:
        complete(make_layout(*arguments), (28, 28, 1), "mnist")
    assert "\n" not in str(raised.value)


def spread(board):
    return Image.fromarray(np.array(board, np.uint8))


# Four ways to bring 4 x 8 and 8 x 4 flat grey images to 4 x 4, and where the grey is.
@pytest.mark.parametrize(
    ("resize", "around", "rows"),
    [
        ("crop", None, (0, 4)),
        ("squash", None, (0, 4)),
        ("pad_black", 0, (1, 3)),
        ("pad_white", 255, (1, 3)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_ways_to_resize_a_flat_image(resize, around, rows, channels):
    layout = Layout((4, 4), channels, (4, 4), resize)
    expected = np.full((4, 4), 100 if around is None else around)
    expected[rows[0] : rows[1]] = 100
    flat = spread(np.full((4, 8), 100))
    got = arrange(flat, layout)
    np.testing.assert_array_equal(got, np.repeat(expected[..., None], channels, -1))
    turned = arrange(flat.transpose(Image.Transpose.TRANSPOSE), layout)
    np.testing.assert_array_equal(turned, got.swapaxes(0, 1))


def lanczos(line, length):
    """Resample a line of numbers: Lanczos of radius 3, widened where it shrinks."""
    scale = len(line) / length
    wide = max(scale, 1.0)
    out = []
    for i in range(length):
        centre = (i + 0.5) * scale
        x = (np.arange(len(line)) + 0.5 - centre) / wide
        weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        out.append((weights @ line) / weights.sum())
    return np.array(out)


@pytest.mark.parametrize("resize", ["crop", "pad_black", "pad_white", "squash"])
def test_ways_to_resize_against_lanczos_in_numpy(resize):
    # 24 x 48 to 8 x 8: by a third each way and the middle 8 of 16 columns, or by a
    # sixth and rows 2 to 5 of the sheet, or by a third and a sixth.
    image = np.random.default_rng(0).integers(0, 256, (24, 48))

    def resample(height, width):
        small = np.apply_along_axis(lanczos, 1, image.astype(float), width)
        return np.clip(np.apply_along_axis(lanczos, 0, small, height), 0, 255)

    if resize == "crop":
        expected = resample(8, 16)[:, 4:12]
    elif resize == "squash":
        expected = resample(8, 8)
    else:
        expected = np.full((8, 8), 0.0 if resize == "pad_black" else 255.0)
        expected[2:6] = resample(4, 8)
    got = arrange(spread(image), Layout((8, 8), 1, (8, 8), resize))[..., 0]
    # ImageOps.fit crops before it scales, which differs at the edge of the crop.
    inner = np.s_[:, 2:-2] if resize == "crop" else np.s_[:]
    assert np.abs(got - expected)[inner].max() <= 1.5  # Pillow rounds twice


def test_an_odd_pixel_of_padding_goes_to_the_bottom():
    flat = spread(np.full((2, 4), 9))
    got = arrange(flat, Layout((5, 4), 1, (5, 4), "pad_white"))[..., 0]
    np.testing.assert_array_equal(got[:, 0], [255, 9, 9, 255, 255])


def test_fingerprints_of_crops_are_what_they_were_before_there_was_a_choice():
    # Stored runs carry fingerprints made from this text.
    crop = Layout((8, 8), 1, (8, 8))
    assert repr(crop) == "Layout(size=(8, 8), channels=1, pad_to=(8, 8))"
    assert identity(crop) == (crop,)
    assert len(identity(Layout((8, 8), 1, (8, 8), "squash"))) == 2
    assert identity(Layout((8, 8), 1, (8, 8), sample_bits=12))[1:] == (12,)


def test_a_way_that_is_not_known():
    with pytest.raises(UserError, match="use crop, pad_black, pad_white, squash"):
        make_layout(8, 1, None, "fit")
