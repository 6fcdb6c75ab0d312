"""Known frames: which are drawn, what of them a network sees, and what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.known_frames import KnownFrames, random_frames
from ddpm_jax.data.info import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.networks.video_unet import VideoUNet

CLIPS = np.random.default_rng(0).standard_normal((3, 4, 4, 4, 2)).astype(np.float32)
KNOWN = np.asarray([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)


def test_what_is_known_is_shown_and_nothing_else():
    rows = KnownFrames().from_given(KEYS, CLIPS, KNOWN)
    assert rows.aug_level is None
    np.testing.assert_array_equal(
        rows.map[..., 0], KNOWN[:, :, None, None] + 0 * CLIPS[..., 0]
    )
    np.testing.assert_array_equal(
        rows.map[..., 1:], CLIPS * KNOWN[:, :, None, None, None]
    )
    # What stands in frames that are not known changes nothing, whatever it is.
    other = np.where(KNOWN[:, :, None, None, None] != 0, CLIPS, np.nan)
    again = KnownFrames().from_given(KEYS, other, KNOWN)
    np.testing.assert_array_equal(rows.map, again.map)


def test_the_null_condition_is_that_nothing_is_known():
    for conditioner in (KnownFrames(), KnownFrames(max_aug_level=0.5)):
        none = conditioner.from_given(KEYS, CLIPS, 0 * KNOWN)
        rows = conditioner.from_given(KEYS, CLIPS, KNOWN, 0.3)
        for made in (conditioner.null(rows), conditioner.example(3, CLIPS.shape[1:])):
            jax.tree.map(np.testing.assert_array_equal, made, none)


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0])
def test_known_frames_have_the_noise_of_their_level(s):
    """z = cos(pi s / 2) x + sin(pi s / 2) eps, of each pixel alone."""
    clips = np.broadcast_to(CLIPS[:1], (4000, *CLIPS.shape[1:]))
    keys = jax.random.split(jax.random.key(1), 4000)
    known = np.broadcast_to(KNOWN[:1], (4000, 4))
    rows = KnownFrames(max_aug_level=1.0).from_given(keys, clips, known, s)
    np.testing.assert_array_equal(rows.aug_level, np.float32(s))
    shown = np.asarray(rows.map[:, :2, ..., 1:], np.float64)
    alpha, sigma = np.cos(np.pi * s / 2), np.sin(np.pi * s / 2)
    bound = 5 * sigma / np.sqrt(4000) + 1e-6
    assert np.abs(shown.mean(axis=0) - alpha * CLIPS[0, :2]).max() < bound
    np.testing.assert_allclose(shown.std(axis=0), sigma, atol=0.08 * sigma + 1e-6)
    assert not np.any(rows.map[:, 2:])


def test_each_kind_is_drawn_a_quarter_of_the_time():
    """Of 6 frames: none, the first K, both ends, or each with probability 1/2."""
    keys = jax.random.split(jax.random.key(2), 8000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: random_frames(key, 6)))(keys))
    share = {}
    for row in drawn.astype(int):
        share[tuple(row)] = share.get(tuple(row), 0) + 1 / 8000
    # Each of the 64 sets is drawn "any" once in 256.
    any_ = 1 / 4 / 64
    expected = dict.fromkeys(np.ndindex(*[2] * 6), any_)
    expected[(0,) * 6] += 1 / 4
    expected[(1, 0, 0, 0, 0, 1)] += 1 / 4
    for count in range(1, 6):
        expected[(1,) * count + (0,) * (6 - count)] += 1 / 4 / 5
    assert sum(expected.values()) == pytest.approx(1)
    chi2 = sum((share.get(k, 0) - p) ** 2 / p for k, p in expected.items()) * 8000
    assert chi2 < 104  # 63 degrees, 0.1%


def test_a_batch_draws_its_own_frames_and_levels():
    conditioner = KnownFrames(max_aug_level=0.5)
    clips = jnp.ones((500, 4, 2, 2, 1))
    rows = conditioner.from_batch(jax.random.key(3), {}, clips)
    assert rows.map.shape == (500, 4, 2, 2, 2)
    assert len(np.unique(rows.map[..., 0].reshape(500, -1), axis=0)) > 8
    assert 0 <= rows.aug_level.min() < 0.05 and 0.45 < rows.aug_level.max() <= 0.5
    other = conditioner.from_batch(jax.random.key(4), {}, clips)
    assert np.any(other.map != rows.map)


def test_a_network_sees_what_is_known_and_its_level():
    network = VideoUNet(
        out_channels=2,
        channels=8,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_groups=4,
    )
    conditioner = KnownFrames(max_aug_level=0.5)
    model = Conditioned(network, {"frames": conditioner})
    x, t = CLIPS[::-1].copy(), np.asarray([3, 300, 900])
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, t)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )

    def run(known, s, cond=True):
        rows = conditioner.from_given(KEYS, CLIPS, known, 0.0)
        rows = rows._replace(aug_level=jnp.full(3, s, jnp.float32))
        return model.apply({"params": params}, x, t, {"frames": rows} if cond else None)

    shown = run(KNOWN, 0.0)
    assert np.abs(shown - run(KNOWN, 0.2)).max() > 1e-3
    assert np.abs(shown - run(0 * KNOWN, 0.0))[[0, 2]].max() > 1e-3
    # Row 1 knows nothing in both, which is what a model is that is not given any.
    np.testing.assert_allclose(shown[1], run(0 * KNOWN, 0.0)[1], atol=1e-6)
    np.testing.assert_array_equal(run(0 * KNOWN, 0.0), run(KNOWN, 0.0, cond=False))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="max_aug_level=2 is not in"):
        KnownFrames(max_aug_level=2)
    info = DataInfo("digits", (8, 8, 1), None, "0" * 16)
    with pytest.raises(UserError, match="is of clips, and the model's items are 8x8x1"):
        KnownFrames().for_data(info)
