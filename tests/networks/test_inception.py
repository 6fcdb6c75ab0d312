"""Inception-v3: its published size, and its blocks in NumPy.

tests/peers/test_inception.py holds the whole network against another program.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks import inception
from ddpm_jax.networks.inception import BLOCKS, Block, InceptionV3, parameter_shapes


@functools.cache
def shapes():
    return parameter_shapes()


def test_number_of_parameters():
    """By the published counts of the same convolutions under 1000 classes with biases.

    Keras: 23,851,784, with a shift, a mean and a variance for every channel but no
    scale. torchvision: 27,161,264 with, and 3,326,696 of them in, an auxiliary
    classifier; with a scale and a shift for every channel. There are 17,216 channels.
    """
    head = 2048 * 1000 + 1000
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes()))
    assert count == 23_851_784 - 17_216 - head + 2048 * 1008
    assert count == 27_161_264 - 3_326_696 - head + 2048 * 1008


def test_sizes_of_the_blocks():
    """Szegedy et al. 2015, table 1; 1280 channels after the last reduction."""
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    (features, logits), state = jax.eval_shape(
        lambda params, x: InceptionV3().apply(
            {"params": params}, x, capture_intermediates=True
        ),
        shapes(),
        x,
    )
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    found = state["intermediates"]
    sizes = {
        name: found[name]["__call__"][0].shape[1:] for name in found if name[0] in "CM"
    }
    assert sizes == {
        "Conv2d_1a_3x3": (149, 149, 32),
        "Conv2d_2a_3x3": (147, 147, 32),
        "Conv2d_2b_3x3": (147, 147, 64),
        "Conv2d_3b_1x1": (73, 73, 80),
        "Conv2d_4a_3x3": (71, 71, 192),
        "Mixed_5b": (35, 35, 256),
        "Mixed_5c": (35, 35, 288),
        "Mixed_5d": (35, 35, 288),
        "Mixed_6a": (17, 17, 768),
        "Mixed_6b": (17, 17, 768),
        "Mixed_6c": (17, 17, 768),
        "Mixed_6d": (17, 17, 768),
        "Mixed_6e": (17, 17, 768),
        "Mixed_7a": (8, 8, 1280),
        "Mixed_7b": (8, 8, 2048),
        "Mixed_7c": (8, 8, 2048),
    }


# h x w of the kernels in the blocks that are not 1x1, as in the published PyTorch file.
KERNELS = """
branch5x5_2 5x5, branch3x3dbl_2 3x3, branch3x3dbl_3 3x3, branch3x3 3x3, branch3x3_2 3x3
branch7x7_2 1x7, branch7x7_3 7x1, branch7x7dbl_2 7x1, branch7x7dbl_3 1x7
branch7x7dbl_4 7x1, branch7x7dbl_5 1x7, branch7x7x3_2 1x7, branch7x7x3_3 7x1
branch7x7x3_4 3x3, branch3x3_2a 1x3, branch3x3_2b 3x1, branch3x3dbl_3a 1x3
branch3x3dbl_3b 3x1
"""


def test_which_kernels_are_wide_and_which_are_high():
    expected = dict(
        pair.split() for pair in KERNELS.strip().replace("\n", ", ").split(", ")
    )
    found = {}
    for name in BLOCKS:
        for branch, layer in shapes()[name].items():
            height, width = layer["kernel"].shape[:2]
            found.setdefault(branch, set()).add(f"{height}x{width}")
    assert found == {name: {expected.get(name, "1x1")} for name in found}
    assert set(expected) < set(found)


# --- Blocks, against NumPy in float64 -------------------------------------------------


def windows(x, size, stride):
    """All patches of [B, H, W, C]: [B, H', W', C, h, w]."""
    found = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return found[:, ::stride, ::stride]


def padded(x, size, value=0.0):
    sides = [(0, 0), *((n // 2, n // 2) for n in size), (0, 0)]
    return np.pad(x, sides, constant_values=value)


def conv(x, layer, stride=1):
    kernel = np.float64(layer["kernel"])
    x = padded(x, kernel.shape[:2]) if stride == 1 else x
    patches = windows(x, kernel.shape[:2], stride)
    y = np.einsum("bhwcij,ijcd->bhwd", patches, kernel)
    return np.maximum(y * layer["scale"] + layer["shift"], 0)


def average(x):
    """Of the pixels there are: sums over sums of ones."""
    total = windows(padded(x, (3, 3)), (3, 3), 1).sum((-2, -1))
    return total / windows(padded(np.ones_like(x), (3, 3)), (3, 3), 1).sum((-2, -1))


def largest(x, stride=1):
    x = padded(x, (3, 3), -np.inf) if stride == 1 else x
    return windows(x, (3, 3), stride).max((-2, -1))


def block_5b(x, p):
    a = conv(x, p["branch1x1"])
    b = conv(conv(x, p["branch5x5_1"]), p["branch5x5_2"])
    c = conv(conv(x, p["branch3x3dbl_1"]), p["branch3x3dbl_2"])
    d = conv(average(x), p["branch_pool"])
    return np.concatenate([a, b, conv(c, p["branch3x3dbl_3"]), d], -1)


def block_6a(x, p):
    a = conv(x, p["branch3x3"], 2)
    b = conv(conv(x, p["branch3x3dbl_1"]), p["branch3x3dbl_2"])
    return np.concatenate([a, conv(b, p["branch3x3dbl_3"], 2), largest(x, 2)], -1)


def block_7(pool):
    def block(x, p):
        b = conv(x, p["branch3x3_1"])
        c = conv(conv(x, p["branch3x3dbl_1"]), p["branch3x3dbl_2"])
        return np.concatenate(
            [
                conv(x, p["branch1x1"]),
                conv(b, p["branch3x3_2a"]),
                conv(b, p["branch3x3_2b"]),
                conv(c, p["branch3x3dbl_3a"]),
                conv(c, p["branch3x3dbl_3b"]),
                conv(pool(x), p["branch_pool"]),
            ],
            -1,
        )

    return block


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Mixed_5b", block_5b),
        ("Mixed_6a", block_6a),
        ("Mixed_7b", block_7(average)),
        ("Mixed_7c", block_7(largest)),
    ],
)
def test_a_block_in_numpy(name, expected):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 7, 5, 3)).astype(np.float32)
    block = Block(BLOCKS[name])
    empty = jax.eval_shape(block.init, jax.random.key(0), x)["params"]

    def fill(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4
        return np.float32(rng.standard_normal(leaf.shape) / np.sqrt(fan_in))

    params = jax.tree.map(fill, empty)
    found = jax.jit(block.apply)({"params": params}, x)
    desired = expected(np.float64(x), params)
    assert desired.std() > 0.05
    np.testing.assert_allclose(found, desired, atol=1e-5)


def test_the_border_does_not_darken_an_average():
    """Were nine counted everywhere, a corner of ones would become 4/9."""
    ones = jnp.ones((1, 3, 4, 1))
    np.testing.assert_allclose(inception.average_pool(ones), ones, rtol=1e-6)
