"""Pictures as conditions, against NumPy, and their noise against its law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.conditioning.grey import Grey
from ddpm_jax.conditioning.low_res import LowRes, augmentation_level, from_low, resize
from ddpm_jax.conditioning.masked import Masked, from_mask
from ddpm_jax.errors import UserError

X0 = np.random.default_rng(0).uniform(-1, 1, (3, 8, 12, 3)).astype(np.float32)
KEY = jax.random.key(5)
KEYS = jax.random.split(KEY, 3)


def boxed(x, factor):
    """The mean over blocks, one block at a time, in float64."""
    batch, height, width, channels = x.shape
    rows, columns = height // factor, width // factor
    out = np.empty((batch, rows, columns, channels))
    for i in range(rows):
        for j in range(columns):
            block = x[
                :, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor
            ].astype(np.float64)
            out[:, i, j] = block.mean(axis=(1, 2))
    return out


def enlarged(low, height, width):
    """Straight lines between the middles of pixels, level beyond the outermost."""

    def along(values, size):
        middles = (np.arange(size) + 0.5) * len(values) / size - 0.5
        return np.interp(middles, np.arange(len(values)), values)

    tall = np.apply_along_axis(along, 1, np.asarray(low, np.float64), height)
    return np.apply_along_axis(along, 2, tall, width)


@pytest.mark.parametrize("factor", [2, 4])
def test_low_res_is_the_box_average_enlarged(factor):
    made = LowRes(factor).from_images(KEYS, jnp.asarray(X0), None)
    assert made.aug_level is None  # without augmentation
    expected = enlarged(boxed(X0, factor), 8, 12)
    np.testing.assert_allclose(made.map, expected, atol=1e-6)


def test_enlarging_stays_within_the_range_and_knows_other_sizes():
    low = np.random.default_rng(1).choice([-1.0, 1.0], (2, 4, 5, 1)).astype(np.float32)
    made = resize(low, 12, 20)
    np.testing.assert_allclose(made, enlarged(low, 12, 20), atol=1e-6)
    assert np.abs(made).max() <= 1


def test_levels_of_the_augmentation():
    """Variance is kept, the ends are clean and pure noise, and 1/3 is 30 degrees."""
    level = augmentation_level(jnp.asarray([0.0, 1 / 3, 0.5, 1.0]))
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, rtol=1e-6)
    np.testing.assert_allclose(level.alpha, [1, 0.75**0.5, 0.5**0.5, 0], atol=1e-7)
    np.testing.assert_array_equal(level.sigma[0], 0)
    np.testing.assert_allclose(level.t, [0, 1000 / 3, 500, 1000])


def test_the_noise_of_a_small_picture_has_the_mean_and_variance_of_its_level():
    """Before enlarging: at the same size nothing is enlarged."""
    low = jnp.broadcast_to(jnp.asarray([-0.5, 0.25]), (4000, 2, 1, 2))
    keys = jax.random.split(KEY, 4000)
    made = from_low(keys, low, (2, 1, 2), 0.25)
    z = np.asarray(made.map, np.float64)
    np.testing.assert_array_equal(made.aug_level, np.full(4000, 0.25))
    alpha, sigma = np.cos(np.pi / 8), np.sin(np.pi / 8)
    off = (z - alpha * np.asarray(low)) / sigma  # standard normal, 16,000 of them
    assert abs(off.mean()) < 4 / 16_000**0.5
    assert abs(off.var() - 1) < 4 * (2 / 16_000) ** 0.5
    pixels = off.reshape(4000, -1)
    correlation = np.corrcoef(pixels.T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / 4000**0.5


def test_training_draws_levels_uniformly_and_tells_each_row_its_own():
    x0 = jnp.zeros((4000, 2, 2, 1))
    keys = jax.random.split(KEY, 4000)
    made = LowRes(2, max_aug_level=0.5).from_images(keys, x0)
    s = np.asarray(made.aug_level, np.float64)
    assert 0 <= s.min() < 0.002 and 0.498 < s.max() <= 0.5
    # The deciles of a uniform law; the largest gap is below Kolmogorov's 1 in 1000.
    gap = np.abs(np.sort(s) - np.linspace(0, 0.5, 4000)).max() / 0.5
    assert gap < 1.95 / 4000**0.5
    # What is told is what was added: sigma_s eps over sigma_s has variance 1 by row.
    z = np.asarray(made.map, np.float64)[:, 0, 0, 0]
    for part in (s < 0.2, s > 0.3):
        scaled = z[part] / np.sin(np.pi * s[part] / 2)
        assert abs(scaled.var() - 1) < 4 * (2 / part.sum()) ** 0.5


def test_no_noise_is_the_picture_itself():
    keys, low = jax.random.split(KEY, 3), jnp.asarray(X0)
    clean = from_low(keys, low, (16, 24, 3), 0.0)
    none = from_low(keys, low, (16, 24, 3), None)
    np.testing.assert_array_equal(clean.map, none.map)
    np.testing.assert_array_equal(clean.aug_level, np.zeros(3))
    assert none.aug_level is None


@pytest.mark.parametrize("s", [None, 0.3])
@pytest.mark.parametrize("name", ["low_res", "masked"])
def test_a_row_depends_on_its_own_key_alone(name, s):
    made_by = {"low_res": LowRes(2, 0.5), "masked": Masked()}
    x0 = jnp.asarray(X0)
    made = jax.jit(made_by[name].from_images)
    whole, one = made(KEYS, x0, s), made(KEYS[1:2], x0[1:2], s)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1:2], b, atol=1e-6), whole, one
    )


def test_a_level_that_is_given_is_not_drawn():
    given = LowRes(2, 0.5).from_images(KEYS, jnp.asarray(X0), 0.25)
    np.testing.assert_array_equal(given.aug_level, [0.25, 0.25, 0.25])
    # One that was drawn, given, makes the same picture.
    drawn = LowRes(2, 0.5).from_images(KEYS, jnp.asarray(X0), None)
    again = LowRes(2, 0.5).from_images(KEYS, jnp.asarray(X0), drawn.aug_level)
    np.testing.assert_allclose(again.map, drawn.map, atol=1e-5)


def test_what_a_person_is_shown():
    x0 = jnp.asarray(X0)
    low = LowRes(2).from_images(KEYS, x0, None)
    np.testing.assert_array_equal(LowRes(2).show(low), low.map)
    grey = Grey().show(Grey().from_images(KEYS, x0))
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert grey.shape == x0.shape
    known = jnp.ones((3, 8, 12, 1)).at[:, :4].set(0)
    shown = Masked().show(from_mask(x0, known))
    np.testing.assert_array_equal(shown[:, 4:], x0[:, 4:])
    np.testing.assert_array_equal(shown[:, :4], 0)


def test_grey_is_luma():
    made = Grey().from_images(KEYS, jnp.asarray(X0))
    expected = X0.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(made[..., 0], expected, atol=1e-6)
    # A picture without colour is told as it is.
    flat = jnp.full((1, 2, 2, 3), 0.3)
    np.testing.assert_allclose(Grey().from_images(None, flat), 0.3, rtol=1e-6)


def test_masked_shows_what_is_known_and_nothing_else():
    x0 = jnp.asarray(X0)
    condition = Masked()
    made = jax.jit(condition.from_images)(KEYS, x0)
    assert made.shape[-1] == 4
    known, kept = made[..., :1], made[..., 1:]
    assert set(np.unique(known)) == {0, 1}
    np.testing.assert_array_equal(kept, np.where(known > 0, X0, 0))
    # What is hidden cannot be seen, were it not even a number.
    spoilt = jnp.where(known > 0, x0, jnp.nan)
    np.testing.assert_array_equal(from_mask(spoilt, known), made)
    assert not np.array_equal(known[0], known[1])  # each row has a mask of its own


@pytest.mark.parametrize(
    ("name", "channels"), [("low_res", 3), ("grey", 1), ("masked", 4)]
)
def test_the_same_key_makes_the_same_condition_jitted_or_not(name, channels):
    made_by = {
        "low_res": LowRes(2, 0.5),
        "grey": Grey(),
        "masked": Masked(),
    }[name]
    plain, jitted = (
        make(KEYS, jnp.asarray(X0))
        for make in (made_by.from_images, jax.jit(made_by.from_images))
    )
    maps = made_by.embedder(8).init_with_output(KEY, plain)[0].maps
    assert maps.shape[-1] == channels
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, jitted
    )


@pytest.mark.parametrize("name", ["low_res", "grey", "masked"])
def test_a_request_becomes_the_maps_of_its_images_on_the_device(name):
    """Bytes and keys are sent; the keys of maps are derived from those of images."""
    made_by = {
        "low_res": LowRes(2, 0.5),
        "grey": Grey(),
        "masked": Masked(),
    }[name]
    pixels = np.random.default_rng(3).integers(0, 256, (3, 8, 12, 3), np.uint8)
    rows = made_by.from_request(KEYS, pixels, 0.25)
    assert rows.image is pixels
    own = jax.vmap(lambda key: jax.random.fold_in(key, 2))(KEYS)
    expected = made_by.from_images(own, pixels / np.float32(127.5) - 1, 0.25)
    encoded = made_by.embedder(8).apply({}, rows, method="encode")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), encoded, expected
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRes(1), "factor=1"),
        (lambda: LowRes(2, 1.5), "max_aug_level=1.5"),
        (lambda: LowRes(5).from_images(KEYS, jnp.asarray(X0), None), "axis of 8"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
