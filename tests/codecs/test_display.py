"""Items of any shape as pictures for a person."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.codecs import arrays, display_of, pixels
from ddpm_jax.runtime import images

RNG = np.random.default_rng(0)


def bytes_of(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def test_floating_point_is_shown_as_the_bytes_it_stands_for():
    items = bytes_of(6, 5, 4, 3)
    show = display_of((5, 4, 3))
    np.testing.assert_array_equal(
        show.sheet(images.to_float(items), 2), show.sheet(items, 2)
    )


def test_five_channels_are_shown_and_kept_channel_by_channel(tmp_path):
    items = bytes_of(2, 64, 64, 5)
    sheet = display_of((64, 64, 5)).sheet(items, 1)
    display_of((64, 64, 5)).save(tmp_path, items, ["a", "b"])
    stored = np.asarray(Image.open(tmp_path / "b.png"))
    for c in range(5):
        columns = slice(2 + 64 * c, 66 + 64 * c)
        np.testing.assert_array_equal(sheet[68:132, columns, 0], items[1, ..., c])
        np.testing.assert_array_equal(stored[:, 64 * c : 64 * c + 64], items[1, ..., c])


def test_clips_are_a_row_of_frames_and_play_in_order(tmp_path):
    clips = bytes_of(2, 3, 64, 64, 1)  # [N, F, H, W, C]
    show = display_of(clips.shape[1:])
    sheet = show.sheet(clips, None)
    np.testing.assert_array_equal(sheet[68:132, 134:198], clips[1, 2])
    played = show.animation(np.stack([bytes_of(*clips.shape), clips]), 2)
    assert len(played) == 3
    np.testing.assert_array_equal(played[1, 2:66, 68:132], clips[1, 1])
    show.save(tmp_path, clips, None)
    with Image.open(tmp_path / "000001.gif") as gif:
        for number in range(3):
            gif.seek(number)
            np.testing.assert_array_equal(
                np.asarray(gif.convert("L")), clips[1, number, ..., 0]
            )


def is_ink(picture):
    """Count the pixels of curves and points, which are blue, and not of the axes."""
    red, _, blue = picture.astype(int).transpose(2, 0, 1)
    return (blue - red > 60).sum()


def test_points_are_a_scatter_plot_on_common_axes():
    """The same points are drawn the same in each frame, whatever the others hold."""
    points = RNG.standard_normal((30, 2)).astype(np.float32)
    show = display_of((2,))
    frames = show.animation(np.stack([points, 10 * points, points]), None)
    np.testing.assert_array_equal(frames[0], frames[2])
    assert (frames[0] != frames[1]).any()
    film = show.trajectory(np.stack([points, 10 * points]))
    assert film.shape[1] == 2 * frames.shape[2]
    assert is_ink(show.sheet(points, None)) > is_ink(show.sheet(points[:1], None))


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 2), (2, 2, 2, 2, 2)])
def test_other_items_are_curves_of_their_numbers(shape):
    items = RNG.standard_normal((5, *shape)).astype(np.float32)
    show = display_of(shape)
    flat = display_of((items[0].size,)).sheet(items.reshape(5, -1), None)
    np.testing.assert_array_equal(show.sheet(items, None), flat)
    assert is_ink(flat) > 5


def test_a_codec_shows_its_items_and_returns_what_is_stored():
    items = bytes_of(3, 4, 4, 4)
    codec = pixels((4, 4, 4))
    np.testing.assert_array_equal(codec.store(codec.load(items)), items)
    points = RNG.standard_normal((3, 2)).astype(np.float32)
    codec = arrays((2,))
    for function in (codec.load, codec.store):
        np.testing.assert_array_equal(function(points), points)
    np.testing.assert_array_equal(
        codec.show.sheet(points, None), display_of((2,)).sheet(points, None)
    )
