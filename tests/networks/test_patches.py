"""Patches as channels: the rearrangement, and a U-Net of patches as one of pixels."""

import jax
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.networks import Ports, TokenSequence, UNet
from ddpm_jax.networks.patches import depth_to_space, space_to_depth
from ddpm_jax.networks.video_unet import VideoUNet

SMALL = {
    "channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "num_groups": 4,
}
T = np.asarray([3, 700], np.int32)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def randomised(net, *inputs):
    """Parameters with every leaf, zeros included, drawn at random."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25.0
        drawn = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
        return (drawn + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def test_a_patch_is_read_row_by_row_with_its_colors_together():
    x = draw(0, 2, 6, 9, 2)
    found = space_to_depth(x, 3)
    for row, column in np.ndindex(2, 3):
        patch = x[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        expected = [patch[:, i, j, c] for i, j, c in np.ndindex(3, 3, 2)]
        np.testing.assert_array_equal(
            found[:, row, column], np.stack(expected, axis=-1)
        )


@pytest.mark.parametrize(("patch", "shape"), [(1, (1, 3, 5, 2)), (4, (2, 8, 12, 3))])
def test_one_rearrangement_undoes_the_other(patch, shape):
    x = draw(1, *shape)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, patch), patch), x)


def ports_of(batch, *places):
    tokens = TokenSequence(draw(6, batch, 5, 7), np.arange(5)[None] < [[3], [5]])
    return Ports(draw(5, batch, 32), tokens, draw(7, batch, *places, 3))


def test_a_unet_of_patches_is_the_unet_of_their_channels():
    """The same parameters, on images that are rearranged by hand: the same bits.

    With maps beside x_t, a vector and tokens, on wide images, and an output of twice
    the channels, as of a learned variance.
    """
    x = draw(2, 2, 8, 12, 1)
    ports = ports_of(2, 8, 12)
    patched = UNet(out_channels=2, patch=2, **SMALL)
    plain = UNet(out_channels=8, **SMALL)
    params = randomised(patched, x, T, ports)
    # 4 of x_t and 12 of the maps.
    assert params["conv_in"]["kernel"].shape == (3, 3, 16, 8)

    rearranged = space_to_depth(x, 2)
    inside = ports._replace(maps=space_to_depth(ports.maps, 2))
    found = jax.jit(patched.apply)({"params": params}, x, T, ports)
    expected = jax.jit(plain.apply)({"params": params}, rearranged, T, inside)
    assert found.shape == (2, 8, 12, 2) and np.std(found) > 0.1
    np.testing.assert_array_equal(found, depth_to_space(expected, 2))


def test_clips_are_made_of_patches_frame_by_frame():
    x = draw(2, 2, 3, 8, 8, 1)
    maps = draw(3, 2, 3, 8, 8, 2)
    patched = VideoUNet(out_channels=1, patch=2, **SMALL)
    plain = VideoUNet(out_channels=4, **SMALL)
    params = randomised(patched, x, T, Ports(maps=maps))

    def frames(x):
        folded = space_to_depth(x.reshape(6, 8, 8, -1), 2)
        return folded.reshape(2, 3, 4, 4, -1)

    found = jax.jit(patched.apply)({"params": params}, x, T, Ports(maps=maps))
    expected = jax.jit(plain.apply)(
        {"params": params}, frames(x), T, Ports(maps=frames(maps))
    )
    assert np.std(found) > 0.1
    np.testing.assert_array_equal(frames(found), expected)


def test_attention_is_named_by_the_maps_of_the_network():
    net = UNet(patch=4, channel_multipliers=(1, 1), attention_resolutions=(8,))
    x = jax.ShapeDtypeStruct((2, 32, 64, 3), np.float32)
    names = jax.eval_shape(net.init, jax.random.key(0), x, T)["params"]
    assert {"down_0_attention_0", "up_0_attention_1"} <= set(names)
    assert "down_1_attention_0" not in names


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (30, 32, 3),
            {"patch": 4},
            r"images of 30x32 do not divide into patches of 4x4 that halve 1 times; 2 "
            r"channel_multipliers and patch=4 need .* multiples of 8: resize or pad to "
            r"24x32 or 32x32 .* fewer levels, or smaller patches\.",
        ),
        ((32, 32, 3), {"patch": 0}, "patch=0 is too small"),
        ((32, 32, 3), {"patch": 65}, "patch=65 "),
        # The first level has attention: its map of 4 is named.
        (
            (8, 8, 3),
            {"patch": 2, "num_heads": 16},
            "num_heads=16 does not divide the 8 channels of level 0",
        ),
    ],
)
def test_patches_that_do_not_fit_are_refused_in_one_line(shape, options, message):
    with pytest.raises(UserError, match=message) as caught:
        UNet(**SMALL | options).check(shape)
    assert "\n" not in str(caught.value)
