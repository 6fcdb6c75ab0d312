"""What training starts from: x0 of the items of a batch."""

import jax
import numpy as np
from settings import default

from ddpm_jax import assembly
from ddpm_jax.assembly.parts import start
from ddpm_jax.codecs import from_bytes, from_moments


def test_latents_are_drawn_from_the_posterior_of_either_view():
    """Means 10 and 20, deviations 1 and 2: of 20,000 draws half are of each."""
    moments = np.ones((20_000, 1, 1, 1), np.float32) * np.float32([10, 1, 20, 2])
    x0 = np.asarray(jax.jit(from_moments(2))(jax.random.key(0), moments)).ravel()
    far = x0 > 14.5  # from the one 4.5 deviations, from the other 2.75
    assert abs(far.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000) + 0.002
    for part, mean, std in ((x0[~far], 10, 1), (x0[far], 20, 2)):
        error = std / np.sqrt(len(part))
        assert abs(part.mean() - mean) < 4 * error + 0.01
        assert abs(part.std() - std) < 4 * error + 0.03
    one = from_moments(1)(jax.random.key(1), moments[:5, ..., :2])
    assert len(np.unique(one)) == 5, "each row has noise of its own"


def test_latents_without_spread_are_their_means_and_images_are_themselves():
    values = np.random.default_rng(0).standard_normal((3, 2, 2, 4)).astype(np.float32)
    moments = np.concatenate([values, np.zeros_like(values)], axis=-1)
    np.testing.assert_array_equal(from_moments(1)(jax.random.key(0), moments), values)
    white = np.full((3, 2, 2, 1), 255, np.uint8)
    np.testing.assert_array_equal(from_bytes(flip=False)(jax.random.key(0), white), 1)


def test_only_images_are_mirrored_and_floating_point_is_left_alone():
    spec, key = default().task, jax.random.key(0)
    rows = np.random.default_rng(0).integers(0, 256, (64, 2, 3, 5), np.uint8)

    def x0(items):
        shape, dtype = items.shape[1:], str(items.dtype)
        info = assembly.DataInfo("d", shape, None, "", dtype=dtype)
        return np.asarray(start(spec, info)(key, items))

    scaled = (rows - 127.5) / 127.5
    images = x0(rows)
    pairs = zip(images, scaled, strict=True)
    mirrored = [np.allclose(image, row[:, ::-1]) for image, row in pairs]
    assert 20 < sum(mirrored) < 44, "half of them, of five channels as of three"
    np.testing.assert_allclose(x0(rows[:, None]), scaled[:, None], atol=1e-6)
    floats = 9 * scaled.astype(np.float32)
    np.testing.assert_array_equal(x0(floats), floats)
