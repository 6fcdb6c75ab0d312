"""Resizing: weights by hand, Pillow itself, and what linear maps must keep."""

import jax
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.evaluation import resize

MATRICES = [
    resize.bilinear_from_the_corner,
    resize.bilinear_from_centres,
    resize.bicubic_of_pillow,
]


def test_from_the_corner_by_hand():
    """Positions 0, 1/2, 1, 3/2 of two pixels, none right of the second; 0, 2 of 4."""
    up = resize.bilinear_from_the_corner(2, 4)
    np.testing.assert_array_equal(up, [[1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    down = resize.bilinear_from_the_corner(4, 2)
    np.testing.assert_array_equal(down, [[1, 0, 0, 0], [0, 0, 1, 0]])


def test_from_centres_by_hand():
    """Positions -1/4, 1/4, 3/4, 5/4 of two pixels; 1/2 and 5/2 of four."""
    up = resize.bilinear_from_centres(2, 4)
    np.testing.assert_array_equal(up, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    down = resize.bilinear_from_centres(4, 2)
    np.testing.assert_array_equal(down, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


@pytest.mark.parametrize("sizes", [(32, 299), (300, 299), (517, 299), (1, 7), (9, 2)])
def test_bicubic_is_pillows(sizes):
    """The columns of a unit matrix, resized by Pillow: within its float32 output."""
    num_in, num_out = sizes
    picture = Image.fromarray(np.eye(num_in, dtype=np.float32))
    expected = np.asarray(picture.resize((num_in, num_out), Image.BICUBIC))
    np.testing.assert_allclose(resize.bicubic_of_pillow(*sizes), expected, atol=1e-7)


def test_bicubic_reproduces_a_parabola():
    """Keys 1981: with a = -1/2 the error is of third order; bilinear's is of second."""
    places = (np.arange(53) + 0.5) * 20 / 53 - 0.5
    inside = (places > 1) & (places < 18)
    curve = np.arange(20.0) ** 2
    cubic = resize.bicubic_of_pillow(20, 53) @ curve
    np.testing.assert_allclose(cubic[inside], places[inside] ** 2, rtol=1e-9)
    linear = resize.bilinear_from_centres(20, 53) @ curve
    assert np.abs(linear - places**2)[inside].max() > 0.2


@pytest.mark.parametrize("matrix_of", MATRICES)
@pytest.mark.parametrize("sizes", [(28, 299), (299, 299), (1000, 299), (1, 5)])
def test_a_flat_picture_stays_flat(matrix_of, sizes):
    matrix = matrix_of(*sizes)
    assert matrix.shape == sizes[::-1]
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    if sizes[0] == sizes[1]:
        np.testing.assert_allclose(matrix, np.eye(sizes[0]), atol=1e-12)


def test_rows_columns_and_channels_keep_their_places():
    """A plane 3 row + 10 column + channel: bilinear, it is followed exactly."""
    row, column = np.mgrid[:4, :8]
    plane = np.stack([3 * row + 10 * column + c for c in (0, 50, 100)], -1)
    images = np.stack([plane, plane + 20]).astype(np.uint8)
    small = jax.jit(resize.resize, static_argnums=(1, 2))(
        images, (2, 2), resize.bilinear_from_the_corner
    )
    expected = plane[::2, ::4]
    np.testing.assert_allclose(small, [expected, expected + 20], rtol=1e-6)


def test_a_grey_picture_becomes_three_equal_channels():
    grey = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 1)).astype(np.uint8)
    color = np.repeat(grey, 3, axis=-1)
    one, three = (resize.prepare(x, resize.clean, (9, 7)) for x in (grey, color))
    np.testing.assert_array_equal(one, three)
    assert one.shape == (2, 9, 7, 3)


def test_clean_neither_clips_nor_rounds():
    edge = np.zeros((1, 8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    wide = np.asarray(resize.resize(edge, (23, 23), resize.clean.matrix_of))
    assert wide.min() < -5 and wide.max() > 260


@pytest.mark.parametrize(
    ("way", "ends"),
    [
        (resize.tensorflow, (-1, 127 / 128)),
        (resize.clean, (-1, 127 / 128)),
        (resize.pytorch, (-1, 1)),
    ],
)
def test_what_black_and_white_become(way, ends):
    images = np.zeros((1, 4, 4, 1), np.uint8)
    images[:, :, 2:] = 255
    found = resize.prepare(images, way, (4, 4))
    np.testing.assert_allclose(found[0, 0, ::3, 0], ends, atol=1e-6)
