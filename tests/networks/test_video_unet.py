"""The U-Net of clips: an image model for each frame, and attention along the frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.networks import Ports, TokenSequence, UNet
from ddpm_jax.networks.video_unet import TemporalAttention, VideoUNet

SMALL = {
    "out_channels": 2,
    "channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "num_heads": 2,
    "num_groups": 4,
}
CLIP = (2, 3, 4, 4, 1)  # B, F, H, W, C
T = np.asarray([3, 700], np.int32)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def randomised(net, *inputs):
    """Parameters with every leaf, zeros included, drawn at random."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]

    def fill(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25.0
        drawn = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
        return (drawn + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def ports_of(batch):
    """A vector, tokens and maps of clips."""
    return Ports(
        draw(5, batch, 32),
        TokenSequence(draw(6, batch, 5, 7), np.arange(5)[None] < [[3], [5]][:batch]),
        draw(7, *CLIP[:4], 2),
    )


@pytest.fixture(scope="module")
def net():
    return VideoUNet(**SMALL)


@pytest.fixture(scope="module")
def params(net):
    return randomised(net, draw(2, *CLIP), T, ports_of(2))


def folded(x):
    return x.reshape(-1, *x.shape[2:])


def image_model(params, x, t, ports):
    """The network of images on each frame of clips, with the parameters that it has."""
    frames = x.shape[1]
    of_frames = Ports(
        *(
            jax.tree.map(lambda rows: np.repeat(rows, frames, axis=0), port)
            for port in ports[:2]
        ),
        folded(ports.maps),
    )
    kept = {name: leaf for name, leaf in params.items() if not name.endswith("_time")}
    assert len(kept) < len(params)
    out = UNet(**SMALL).apply(
        {"params": kept}, folded(x), np.repeat(t, frames), of_frames
    )
    return out.reshape(*x.shape[:-1], 2)


def silenced(params):
    """The same, with the last layer of attention in time at zero, as it starts."""
    return {
        name: leaf | {"out": jax.tree.map(np.zeros_like, leaf["out"])}
        if name.endswith("_time")
        else leaf
        for name, leaf in params.items()
    }


def test_it_starts_as_the_network_of_images(net, params):
    started = net.init(jax.random.key(0), draw(2, *CLIP), T, ports_of(2))["params"]
    last = [leaf["out"] for name, leaf in started.items() if name.endswith("_time")]
    assert len(last) == 4  # of the way down, the middle, and two of the way up
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(last))
    x, ports = draw(3, *CLIP), ports_of(2)
    out = net.apply({"params": silenced(params)}, x, T, ports)
    # The embedding of the time is of B rows in the one and of B F in the other: sums of
    # 32 products may be rounded in another order.
    np.testing.assert_allclose(out, image_model(params, x, T, ports), atol=1e-5)
    spoken = net.apply({"params": params}, x, T, ports)
    assert np.abs(spoken - out).max() > 0.05


def test_a_clip_of_one_frame_is_an_image(net, params):
    x, ports = draw(3, *CLIP)[:, :1], ports_of(2)
    ports = ports._replace(maps=ports.maps[:, :1])
    out = net.apply({"params": params}, x, T, ports)
    np.testing.assert_array_equal(out, image_model(params, x, T, ports))


def test_the_image_model_is_exact_where_nothing_differs_but_time(net, params):
    """One row, so that the embedding is of one row in both."""
    x = draw(3, 1, 1, *CLIP[2:])
    ports = jax.tree.map(lambda rows: rows[:1], ports_of(2))
    ports = ports._replace(maps=ports.maps[:, :1])
    out = net.apply({"params": silenced(params)}, x, T[:1], ports)
    np.testing.assert_array_equal(out, image_model(params, x, T[:1], ports))


def by_frame(a):
    return np.moveaxis(a, 1, 0)


def test_independent_frames_neither_see_nor_are_seen(params):
    """Exactly: the outputs are the same to the last bit."""
    net = VideoUNet(**SMALL, joint_images=1)
    x = draw(3, *CLIP)

    def run(x, train):
        rngs = {"dropout": jax.random.key(0)}
        return by_frame(
            net.apply({"params": params}, x, T, ports_of(2), train=train, rngs=rngs)
        )

    def moved_by(frame, train):
        other = x.copy()
        other[:, frame] += 1
        pairs = zip(run(x, train), run(other, train), strict=True)
        return [bool(np.any(a != b)) for a, b in pairs]

    in_clip, alone = [True, True, False], [False, False, True]
    assert [moved_by(i, True) for i in range(3)] == [in_clip, in_clip, alone]
    # Outside of training all frames are of the clip.
    assert [moved_by(i, False) for i in range(3)] == [[True] * 3] * 3
    image = image_model(params, x, T, ports_of(2))
    np.testing.assert_allclose(run(x, True)[2], by_frame(image)[2], atol=1e-5)


def test_no_frame_sees_a_later_one_where_it_is_causal(params):
    net = VideoUNet(**SMALL, causal=True)
    x = draw(3, *CLIP)
    whole = by_frame(net.apply({"params": params}, x, T, ports_of(2)))
    # What follows, and how long the clip is, changes nothing that went before.
    for length in (1, 2):
        ports = ports_of(2)
        ports = ports._replace(maps=ports.maps[:, :length])
        short = by_frame(net.apply({"params": params}, x[:, :length], T, ports))
        np.testing.assert_allclose(short, whole[:length], atol=1e-5)
    first = by_frame(image_model(params, x, T, ports_of(2)))[0]
    np.testing.assert_allclose(whole[0], first, atol=1e-5)
    free = by_frame(VideoUNet(**SMALL).apply({"params": params}, x, T, ports_of(2)))
    assert np.abs(free[0] - whole[0]).max() > 1e-3


# --- Attention along the frames -------------------------------------------------------

ATTENTION = {"num_heads": 2, "num_groups": 4, "max_distance": 2}
SHAPE = (2, 5, 2, 3, 8)  # more frames than max_distance reaches


@pytest.fixture(scope="module")
def temporal():
    module = TemporalAttention(**ATTENTION)
    x = draw(4, *SHAPE)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), folded(jnp.asarray(x)), 5)
    )["params"]
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes
    )
    return params, x


def attend(params, x, **options):
    module = TemporalAttention(**ATTENTION | options)
    out = module.apply({"params": params}, folded(jnp.asarray(x)), x.shape[1])
    return np.asarray(out).reshape(x.shape)


def in_float64(params, x, seen):
    """The same sums, written out for each place, head and frame."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = x.astype(np.float64)
    batch, frames, height, width, channels = x.shape
    out = x.copy()
    for b in range(batch):
        groups = x[b].reshape(frames, height * width, 4, channels // 4)
        mean = groups.mean(axis=(1, 3), keepdims=True)
        var = groups.var(axis=(1, 3), keepdims=True)
        h = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x[b].shape)
        h = h * p["norm"]["scale"] + p["norm"]["bias"]
        q, k, v = (
            h @ p[name]["kernel"] + p[name]["bias"]
            for name in ("query", "key", "value")
        )
        for row in range(height):
            for column in range(width):
                for i in range(frames):
                    if seen[i].sum() == 1:
                        continue
                    mixed = np.zeros(channels)
                    for head, part in enumerate((slice(0, 4), slice(4, 8))):
                        others = np.flatnonzero(seen[i])
                        at = (row, column, part)
                        logits = np.asarray(
                            [
                                q[(i, *at)] @ k[(j, *at)] / 2
                                + p["relative_bias"][head, 2 + np.clip(j - i, -2, 2)]
                                for j in others
                            ]
                        )
                        weights = np.exp(logits - logits.max())
                        weights /= weights.sum()
                        for j, weight in zip(others, weights, strict=True):
                            mixed[part] += weight * v[(j, *at)]
                    out[b, i, row, column] += (
                        mixed @ p["out"]["kernel"] + p["out"]["bias"]
                    )
    return out


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, np.ones((5, 5), bool)),
        ({"causal": True}, np.tril(np.ones((5, 5), bool))),
        (
            {"num_alone": 2},
            np.asarray(
                [[1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], bool
            ),
        ),
    ],
    ids=["all", "causal", "joint"],
)
def test_it_is_its_sums_in_float64(temporal, options, seen):
    params, x = temporal
    expected = in_float64(params, x, seen)
    assert np.abs(expected - x).max() > 1
    np.testing.assert_allclose(attend(params, x, **options), expected, atol=5e-4)


def test_without_a_bias_frames_have_no_order(temporal):
    params, x = temporal
    order = [3, 0, 4, 1, 2]
    without = params | {"relative_bias": np.zeros_like(params["relative_bias"])}
    np.testing.assert_allclose(
        attend(without, x[:, order]), attend(without, x)[:, order], atol=1e-4
    )
    moved = attend(params, x[:, order]) - attend(params, x)[:, order]
    assert np.abs(moved).max() > 0.1


# --- Training and sizes ---------------------------------------------------------------


def test_joint_images_are_frames_of_their_own_clip():
    net = VideoUNet(joint_images=3)
    x = draw(8, 6, 4, 2, 2, 1)
    out = np.asarray(net.augment(jax.random.key(3), jnp.asarray(x)))
    np.testing.assert_array_equal(out[:, :4], x)
    places = [
        [[np.array_equal(image, frame) for frame in clip].index(True) for image in more]
        for clip, more in zip(x, out[:, 4:], strict=True)
    ]
    assert len({tuple(row) for row in places}) > 3  # each clip has its own choice
    np.testing.assert_array_equal(np.unique(places), np.arange(4))
    other = np.asarray(net.augment(jax.random.key(4), jnp.asarray(x)))
    assert np.any(other != out)
    assert VideoUNet().augment(jax.random.key(3), x) is x


def test_joint_images_make_the_gradient_less_noisy():
    """The reason for joint training: [Ho et al. 2022, section 3.2]."""
    x0 = draw(9, 4, 2, 4, 4, 1)

    def variance(joint_images):
        net = VideoUNet(**SMALL | {"out_channels": 1}, joint_images=joint_images)
        params = randomised(net, x0, np.zeros(4, np.int32))

        @jax.jit
        def gradient(key):
            keys = jax.random.split(key, 2)
            x = net.augment(keys[0], jnp.asarray(x0))
            noise = jax.random.normal(keys[1], x.shape)

            def loss(params):
                out = net.apply({"params": params}, x + noise, jnp.zeros(4), train=True)
                return jnp.mean((out - noise) ** 2)

            return jax.grad(loss)(params)["conv_out"]["kernel"]

        grads = np.stack([gradient(jax.random.key(i)) for i in range(64)])
        return grads.var(axis=0).sum()

    alone, some, more = map(variance, (0, 2, 6))
    assert more < 0.8 * some < 0.64 * alone


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ({}, (8, 8, 3), "takes items of frames x height x width x channels"),
        ({"max_distance": 0}, (4, 8, 8, 3), "max_distance"),
        ({"joint_images": -1}, (4, 8, 8, 3), "joint_images"),
        ({"causal": True}, (1, 8, 8, 3), "clips of one frame"),
        ({}, (4, 9, 8, 3), "9"),
    ],
)
def test_what_does_not_fit_is_refused(options, shape, said):
    net = VideoUNet(channel_multipliers=(1, 2), **options)
    with pytest.raises(UserError, match=said):
        net.check(shape)


def test_longer_clips_than_were_trained_on(params):
    """Frames beyond max_distance are as far as it."""
    near = VideoUNet(**SMALL, max_distance=1)
    cut = {
        name: leaf | {"relative_bias": leaf["relative_bias"][:, 15:18]}
        if name.endswith("_time")
        else leaf
        for name, leaf in params.items()
    }
    far = {
        name: leaf
        | {
            "relative_bias": np.repeat(
                leaf["relative_bias"][:, 15:18], [16, 1, 16], axis=1
            )
        }
        if name.endswith("_time")
        else leaf
        for name, leaf in params.items()
    }
    x, ports = draw(3, *CLIP), ports_of(2)
    np.testing.assert_array_equal(
        near.apply({"params": cut}, x, T, ports),
        VideoUNet(**SMALL).apply({"params": far}, x, T, ports),
    )
