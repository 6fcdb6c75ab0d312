"""Pictures as conditions, against NumPy, and their noise against its law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.conditioning import image_maps as pictures
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
    made = pictures.low_res(factor, 3).make(KEYS, jnp.asarray(X0), None)
    assert set(made) == {"picture"}  # told no noise, so none is there
    expected = enlarged(boxed(X0, factor), 8, 12)
    np.testing.assert_allclose(made["picture"], expected, atol=1e-6)


def test_enlarging_stays_within_the_range_and_knows_other_sizes():
    low = np.random.default_rng(1).choice([-1.0, 1.0], (2, 4, 5, 1)).astype(np.float32)
    made = pictures.enlarge(low, 12, 20)
    np.testing.assert_allclose(made, enlarged(low, 12, 20), atol=1e-6)
    assert np.abs(made).max() <= 1


def test_levels_of_the_augmentation():
    """Variance is kept, the ends are clean and pure noise, and 1/3 is 30 degrees."""
    level = pictures.augmentation_level(jnp.asarray([0.0, 1 / 3, 0.5, 1.0]))
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, rtol=1e-6)
    np.testing.assert_allclose(level.alpha, [1, 0.75**0.5, 0.5**0.5, 0], atol=1e-7)
    np.testing.assert_array_equal(level.sigma[0], 0)
    np.testing.assert_allclose(level.t, [0, 1000 / 3, 500, 1000])


def test_the_noise_of_a_small_picture_has_the_mean_and_variance_of_its_level():
    """Before enlarging: at the same size nothing is enlarged."""
    low = jnp.broadcast_to(jnp.asarray([-0.5, 0.25]), (4000, 2, 1, 2))
    keys = jax.random.split(KEY, 4000)
    made = pictures.low_res_cond(keys, low, (2, 1, 2), 0.25)
    z, told = np.asarray(made["picture"], np.float64), made["noise_level"]
    np.testing.assert_allclose(told, np.full(4000, 250.0))
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
    made = pictures.low_res(2, 1, max_augmentation=0.5).make(keys, x0, None)
    s = np.asarray(made["noise_level"], np.float64) / 1000
    assert 0 <= s.min() < 0.002 and 0.498 < s.max() <= 0.5
    # The deciles of a uniform law; the largest gap is below Kolmogorov's 1 in 1000.
    gap = np.abs(np.sort(s) - np.linspace(0, 0.5, 4000)).max() / 0.5
    assert gap < 1.95 / 4000**0.5
    # What is told is what was added: sigma_s eps over sigma_s has variance 1 by row.
    z = np.asarray(made["picture"], np.float64)[:, 0, 0, 0]
    for part in (s < 0.2, s > 0.3):
        scaled = z[part] / np.sin(np.pi * s[part] / 2)
        assert abs(scaled.var() - 1) < 4 * (2 / part.sum()) ** 0.5


def test_no_noise_is_the_picture_itself():
    keys, low = jax.random.split(KEY, 3), jnp.asarray(X0)
    clean = pictures.low_res_cond(keys, low, (16, 24, 3), 0.0)
    told_none = pictures.low_res_cond(keys, low, (16, 24, 3), None)
    np.testing.assert_array_equal(clean["picture"], told_none["picture"])
    np.testing.assert_array_equal(clean["noise_level"], np.zeros(3))
    assert set(told_none) == {"picture"}


@pytest.mark.parametrize("s", [None, 0.3])
@pytest.mark.parametrize("name", ["low_res", "masked"])
def test_a_row_depends_on_its_own_key_alone(name, s):
    make = {"low_res": pictures.low_res(2, 3, 0.5), "masked": pictures.masked(3)}
    x0 = jnp.asarray(X0)
    made = jax.jit(make[name].make)
    whole, one = made(KEYS, x0, s), made(KEYS[1:2], x0[1:2], s)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1:2], b, atol=1e-6), whole, one
    )


def test_a_level_that_is_given_is_not_drawn():
    told = pictures.low_res(2, 3, 0.5).make(KEYS, jnp.asarray(X0), 0.25)
    np.testing.assert_allclose(told["noise_level"], [250, 250, 250])
    # One that was drawn, given, makes the same picture.
    drawn = pictures.low_res(2, 3, 0.5).make(KEYS, jnp.asarray(X0), None)
    level = pictures.augmentation_level(drawn["noise_level"] / 1000)
    again = pictures.low_res(2, 3, 0.5).make(KEYS, jnp.asarray(X0), level.t / 1000)
    np.testing.assert_allclose(again["picture"], drawn["picture"], atol=1e-5)


def test_what_a_person_is_shown():
    x0 = jnp.asarray(X0)
    low = pictures.low_res(2, 3).make(KEYS, x0, None)["picture"]
    np.testing.assert_array_equal(pictures.show(low, 3), low)
    grey = pictures.show(pictures.grey_cond(x0)["picture"], 3)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert grey.shape == x0.shape
    known = jnp.ones((3, 8, 12, 1)).at[:, :4].set(0)
    shown = pictures.show(pictures.masked_cond(x0, known)["picture"], 3)
    np.testing.assert_array_equal(shown[:, 4:], x0[:, 4:])
    np.testing.assert_array_equal(shown[:, :4], 0)


def test_grey_is_luma():
    made = pictures.grey().make(KEYS, jnp.asarray(X0), None)["picture"]
    expected = X0.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(made[..., 0], expected, atol=1e-6)
    # A picture without colour is told as it is.
    flat = jnp.full((1, 2, 2, 3), 0.3)
    np.testing.assert_allclose(pictures.grey_cond(flat)["picture"], 0.3, rtol=1e-6)


def test_masked_shows_what_is_known_and_nothing_else():
    x0 = jnp.asarray(X0)
    condition = pictures.masked(3)
    made = jax.jit(condition.make)(KEYS, x0, None)["picture"]
    assert made.shape[-1] == condition.num_channels == 4
    known, kept = made[..., :1], made[..., 1:]
    assert set(np.unique(known)) == {0, 1}
    np.testing.assert_array_equal(kept, np.where(known > 0, X0, 0))
    # What is hidden cannot be seen, were it not even a number.
    spoilt = jnp.where(known > 0, x0, jnp.nan)
    np.testing.assert_array_equal(pictures.masked_cond(spoilt, known)["picture"], made)
    assert not np.array_equal(known[0], known[1])  # each row has a mask of its own


@pytest.mark.parametrize("name", ["low_res", "grey", "masked"])
def test_the_same_key_makes_the_same_condition_jitted_or_not(name):
    made = {
        "low_res": pictures.low_res(2, 3, 0.5),
        "grey": pictures.grey(),
        "masked": pictures.masked(3),
    }[name]
    plain, jitted = made.make(KEYS, X0, None), jax.jit(made.make)(KEYS, X0, None)
    assert plain["picture"].shape[-1] == made.num_channels
    assert ("noise_level" in plain) == made.told_noise
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, jitted
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pictures.low_res(1, 3), "factor=1"),
        (lambda: pictures.low_res(2, 3, 1.5), "max_augmentation=1.5"),
        (lambda: pictures.low_res(5, 3).make(KEYS, jnp.asarray(X0), None), "axis of 8"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
