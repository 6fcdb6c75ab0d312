"""Pixels are checked one by one; files are read back with Pillow or NumPy directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import images as im

ALL_BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_all_bytes_come_back(wrap, kind):
    x = wrap(im.to_float)(kind(ALL_BYTES))
    assert x.dtype == np.float32
    exact = np.arange(256, dtype=np.float64) / 127.5 - 1
    np.testing.assert_allclose(np.ravel(x), exact, rtol=0, atol=1.2e-7)  # 1 ulp at 1
    assert (x.min(), x.max()) == (-1, 1)
    back = wrap(im.to_uint8)(x)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, ALL_BYTES)


def test_psnr_is_that_of_each_image_averaged():
    """Off by k levels everywhere: 20 log10(255 / k); without an error 120, no more."""
    errors = np.array([(2 * k / 255) ** 2 for k in (3, 30)])
    expected = [20 * np.log10(255 / k) for k in (3, 30)]
    assert im.psnr(errors) == pytest.approx(np.mean(expected), rel=1e-12)
    assert im.psnr(np.zeros(2)) == pytest.approx(120.0)


def test_numpy_stays_on_the_host():
    assert type(im.to_float(ALL_BYTES)) is np.ndarray
    assert type(im.to_uint8(np.zeros(2, np.float64))) is np.ndarray


def test_to_uint8_rounds_to_nearest_and_clips():
    levels = np.array([-70, -0.4, 0.4, 0.6, 99.49, 99.51, 254.4, 254.6, 255.4, 600])
    expected = [0, 0, 0, 1, 99, 100, 254, 255, 255, 255]  # by hand
    np.testing.assert_array_equal(im.to_uint8(levels / 127.5 - 1), expected)
    low_precision = jnp.asarray([-1, 0.5, 1], jnp.bfloat16)
    np.testing.assert_array_equal(im.to_uint8(low_precision), [0, 191, 255])


def test_values_that_are_no_pixels_are_refused():
    for xp in (np, jnp):
        with pytest.raises(ValueError, match="2 of 3 pixel values are NaN or inf"):
            im.to_uint8(xp.asarray([0.0, np.nan, np.inf], xp.float32))
    with pytest.raises(ValueError, match="dtype uint8, want floating"):
        im.to_uint8(ALL_BYTES)
    with pytest.raises(ValueError, match="dtype float32, want uint8"):
        im.to_float(np.zeros(3, np.float32))


def test_grid_puts_each_pixel_in_its_place():
    three = np.array([[[1, 2]], [[3, 4]], [[5, 6]]], np.uint8)[..., None]  # [3,1,2,1]
    sheet = im.grid(three, columns=2, padding=1, upscale=1, background=9)
    expected = [
        [9, 9, 9, 9, 9, 9, 9],
        [9, 1, 2, 9, 3, 4, 9],
        [9, 9, 9, 9, 9, 9, 9],
        [9, 5, 6, 9, 9, 9, 9],  # the last row is filled with background
        [9, 9, 9, 9, 9, 9, 9],
    ]
    np.testing.assert_array_equal(sheet[..., 0], expected)
    doubled = im.grid(three[:1], padding=0, upscale=2)
    np.testing.assert_array_equal(doubled[..., 0], [[1, 1, 2, 2], [1, 1, 2, 2]])


def test_grid_enlarges_what_is_too_small_to_see():
    # 8 px -> 8 times = 64; 32 px -> twice; 64 px and 100 px stay; padding 2.
    for side, shown in ((8, 64), (32, 64), (64, 64), (100, 100)):
        assert im.grid(noise(1, side, side, 3)).shape == (shown + 4, shown + 4, 3)
    assert im.grid(noise(10, 64, 64, 3), padding=0).shape == (192, 256, 3)  # 3 by 4
    assert im.grid(noise(2, 8, 16, 1), padding=0).shape == (64, 256, 1)  # not square


def test_other_channel_counts_become_grey_panels():
    fields = noise(1, 5, 6, 5)
    sheet = im.grid(fields, padding=0, upscale=1)
    assert sheet.shape == (5, 30, 1)
    for c in range(5):
        np.testing.assert_array_equal(sheet[:, 6 * c : 6 * c + 6, 0], fields[0, ..., c])


def test_a_sheet_of_rgba_is_transparent_between_images_and_keeps_them():
    images = noise(3, 64, 64, 4)
    sheet = im.grid(images, columns=2, padding=1)
    np.testing.assert_array_equal(sheet[1:65, 66:130], images[1])
    np.testing.assert_array_equal(sheet[0, 0], [255, 255, 255, 0])
    assert (sheet[66:130, 66:130, 3] == 0).all(), "an empty place"


def test_a_checkerboard_shows_through_as_far_as_rgba_is_transparent():
    clear, half, full = (np.full((16, 16, 1), a, np.uint8) for a in (0, 102, 255))
    red = np.full((16, 16, 3), (200, 0, 0), np.uint8)
    laid = [
        im.on_checkerboard(np.concatenate([red, a], -1)) for a in (clear, half, full)
    ]
    squares = [(0, 0), (0, 8), (8, 0), (8, 8)]
    assert [laid[0][at].tolist() for at in squares] == [
        [255] * 3,
        [204] * 3,
        [204] * 3,
        [255] * 3,
    ]
    # 0.4 of red and 0.6 of the board, by hand.
    assert laid[1][0, 0].tolist() == [233, 153, 153]
    assert laid[1][0, 8].tolist() == [202, 122, 122]
    np.testing.assert_array_equal(laid[2], red)


def test_trajectory_grid_has_a_row_for_each_film():
    films = np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1, 1)  # [K=3, N=2]
    strip = im.trajectory_grid(films, padding=0, upscale=1)
    np.testing.assert_array_equal(strip[..., 0], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "float32, want uint8"),
        (noise(4, 4, 3), r"\[4, 4, 3\], want \[N, H, W, C\]"),
        (noise(0, 4, 4, 3), "no axis empty"),
    ],
)
def test_grid_says_what_it_wants(bad, message):
    with pytest.raises(ValueError, match=message):
        im.grid(bad)
    with pytest.raises(ValueError, match="columns=0"):
        im.grid(noise(1, 4, 4, 1), columns=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_holds_the_pixels(tmp_path, channels):
    image = noise(5, 7, channels)
    path = tmp_path / "new" / "folder" / "a.png"
    im.save_png(path, jnp.asarray(image))
    stored = np.asarray(Image.open(path)).reshape(5, 7, channels)
    np.testing.assert_array_equal(stored, image)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]  # nothing left beside


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    im.save_png(path, ALL_BYTES)
    before = path.read_bytes()

    def run_out_of_space(self, file, **options):
        file.write(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", run_out_of_space)
    with pytest.raises(UserError, match="No space left on device"):
        im.save_png(path, ALL_BYTES)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(UserError, match="cannot write"):
        im.save_png(path / "below_a_file.png", ALL_BYTES)


def test_images_are_saved_under_their_names(tmp_path):
    two = noise(2, 3, 3, 3)
    paths = im.save_images(tmp_path, two, ["cat", "dog"])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "dog.png")), two[1])
    assert paths == [tmp_path / "cat.png", tmp_path / "dog.png"]
    assert [p.name for p in im.save_images(tmp_path, two)] == [
        "000000.png",
        "000001.png",
    ]
    for names in (["cat"], ["cat", "cat"]):
        with pytest.raises(ValueError, match="for 2 images"):
            im.save_images(tmp_path, two, names)


def test_gif_keeps_frames_order_and_time(tmp_path):
    levels = (0, 90, 255)
    frames = np.stack([np.full((4, 6, 1), level, np.uint8) for level in levels])
    im.save_gif(tmp_path / "a.gif", frames, fps=20, hold_last=1.5)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.info["loop"] == 0  # 0 repeats for ever
        for i, (level, milliseconds) in enumerate(
            zip(levels, (50, 50, 1500), strict=True)
        ):
            gif.seek(i)
            assert gif.info["duration"] == milliseconds
            assert np.unique(np.asarray(gif.convert("L"))) == [level]
    with pytest.raises(UserError, match="fps=60"):
        im.save_gif(tmp_path / "a.gif", frames, fps=60)


def test_gif_of_colors_is_close(tmp_path):
    frames = noise(2, 8, 8, 3)  # 64 colors a frame fit into a palette
    im.save_gif(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as gif:
        gif.seek(1)
        difference = np.asarray(gif.convert("RGB")).astype(int) - frames[1]
    assert np.abs(difference).max() <= 8


def test_npz_has_the_layout_of_evaluators(tmp_path):
    samples, labels = noise(3, 4, 4, 3), np.array([2, 0, 1], np.int32)
    im.save_npz(tmp_path / "samples.npz", samples, labels)
    with np.load(tmp_path / "samples.npz") as stored:
        assert list(stored) == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(stored["arr_0"], samples)
        np.testing.assert_array_equal(stored["arr_1"], labels)
    im.save_npz(tmp_path / "plain.npz", samples)
    with np.load(tmp_path / "plain.npz") as stored:
        assert list(stored) == ["arr_0"]
    with pytest.raises(
        ValueError, match=r"labels are int32 \[2\], want integers \[3\]"
    ):
        im.save_npz(tmp_path / "bad.npz", samples, labels[:2])


def test_npz_of_clips_holds_bytes_or_float32(tmp_path):
    clips = noise(2, 3, 4, 4, 1)
    for items in (clips, clips.astype(np.float32)):
        im.save_npz(tmp_path / "clips.npz", items)
        with np.load(tmp_path / "clips.npz") as stored:
            np.testing.assert_array_equal(stored["arr_0"], items)
            assert stored["arr_0"].dtype == items.dtype
    with pytest.raises(ValueError, match="dtype int64, want uint8"):
        im.save_npz(tmp_path / "bad.npz", clips.astype(np.int64))
