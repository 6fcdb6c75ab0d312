"""Each layer against a float64 NumPy computation written from its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.networks.convolution import upsample_nearest
from ddpm_jax.networks.layers import (
    Attention,
    Conv3x3,
    GroupNorm,
    ResBlock,
    average_pairs,
    time_embedding,
)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def randomised(module, *args):
    """Parameters of `module` with every leaf, zeros included, drawn at random."""
    shapes = jax.eval_shape(lambda key: module.init(key, *args), jax.random.key(0))
    rng = np.random.default_rng(1)

    def fill(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4.0
        return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(fill, shapes["params"])


def conv(x, kernel, bias, stride=1):
    """Correlate position by position; even sizes, padded as the layer promises."""
    before = 2 - stride
    padded = np.pad(x.astype(np.float64), ((0, 0), (before, 1), (before, 1), (0, 0)))
    batch, height, width, _ = x.shape
    y = np.zeros((batch, height // stride, width // stride, kernel.shape[-1]))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = padded[:, i * stride :, j * stride :][:, :3, :3]
            y[:, i, j] = np.einsum("bijc,ijcd->bd", window, kernel)
    return y + bias


def group_norm(x, scale, bias, num_groups, epsilon=1e-6):
    y = np.empty(x.shape)
    for image, out in zip(x.astype(np.float64), y, strict=True):
        for channels in np.split(np.arange(x.shape[-1]), num_groups):
            group = image[..., channels]
            out[..., channels] = (group - group.mean()) / np.sqrt(group.var() + epsilon)
    return y * scale + bias


def swish(x):
    return x / (1 + np.exp(-x.astype(np.float64)))


def dense(x, params):
    return x @ params["kernel"].astype(np.float64) + params["bias"]


def test_time_embedding_by_hand():
    # d = 4: frequencies 1 and 1e-4, sines first.
    code = time_embedding(jnp.asarray([0.0, 2.0]), 4)
    by_hand = [[0, 0, 1, 1], [0.9092974268, 2e-4, -0.4161468365, 0.99999998]]
    np.testing.assert_allclose(code, by_hand, atol=1e-7)


def test_time_embedding_without_the_shift_of_frequencies():
    # d = 4: frequencies 1 and 1e-2, as in the code of Nichol & Dhariwal 2021.
    code = time_embedding(jnp.asarray([2.0]), 4, 0)
    by_hand = [[0.9092974268, 0.0199986667, -0.4161468365, 0.9998000067]]
    np.testing.assert_allclose(code, by_hand, atol=1e-7)


def test_time_embedding_has_no_frequencies_between_one():
    with pytest.raises(UserError, match="of width 3; use 4 or more"):
        time_embedding(jnp.zeros(1), 3)


def test_time_embedding_against_float64():
    t = np.asarray([0, 1, 37, 999])
    w = np.exp(-np.log(10000.0) * np.arange(64) / 63)
    expected = np.concatenate([np.sin(np.outer(t, w)), np.cos(np.outer(t, w))], axis=1)
    # Angles near 1000 keep about 6e-5 radians in float32.
    np.testing.assert_allclose(time_embedding(jnp.asarray(t), 128), expected, atol=2e-4)
    odd = time_embedding(jnp.asarray(t), 129)
    np.testing.assert_allclose(odd[:, :128], expected, atol=2e-4)
    np.testing.assert_array_equal(odd[:, 128], 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 2, 2, 5)])
def test_convolution(shape, stride):
    x = draw(0, *shape)
    layer = Conv3x3(4, stride=stride)
    params = randomised(layer, x)
    expected = conv(x, params["kernel"], params["bias"], stride)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_the_convolution(stride):
    # y is linear in x, in the kernel and in the bias, so <dy, y> moves by exactly
    # <gradient, step> when one of them takes a step; checked for every unit step.
    x = draw(0, 2, 4, 2, 3)
    layer = Conv3x3(2, stride=stride)
    params = randomised(layer, x)
    dy = draw(2, *layer.apply({"params": params}, x).shape)

    def inner(params, x):
        return jnp.sum(layer.apply({"params": params}, x) * dy)

    of_params, of_x = jax.jit(jax.grad(inner, argnums=(0, 1)))(params, x)
    zero = np.zeros_like(params["bias"])
    for index in np.ndindex(*params["kernel"].shape):
        unit = np.zeros_like(params["kernel"])
        unit[index] = 1
        expected = np.sum(conv(x, unit, zero, stride) * dy)
        np.testing.assert_allclose(of_params["kernel"][index], expected, atol=1e-5)
    for index in np.ndindex(*x.shape):
        unit = np.zeros_like(x)
        unit[index] = 1
        expected = np.sum(conv(unit, params["kernel"], zero, stride) * dy)
        np.testing.assert_allclose(of_x[index], expected, atol=1e-5)
    np.testing.assert_allclose(of_params["bias"], dy.sum(axis=(0, 1, 2)), atol=1e-5)


def test_initial_kernels_are_uniform_up_to_the_published_bound():
    # variance_scaling(1, "fan_avg", "uniform"): bound sqrt(3 / mean of 9 C and 9 C').
    params = Conv3x3(10).init(jax.random.key(0), np.zeros((1, 2, 2, 30)))["params"]
    bound = np.sqrt(3 / (9 * (30 + 10) / 2))
    assert 0.99 * bound < np.abs(params["kernel"]).max() <= bound
    # 2,700 draws: the deviation is bound / sqrt(3) to within a few per cent.
    assert params["kernel"].std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    np.testing.assert_array_equal(params["bias"], 0)


def test_group_norm():
    x = 3 * draw(0, 2, 4, 3, 12) + 5
    layer = GroupNorm(num_groups=4)
    params = randomised(layer, x)
    expected = group_norm(x, params["scale"], params["bias"], 4)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "epsilon"), [({}, 1e-6), ({"epsilon": 1e-6}, 1e-6), ({"epsilon": 4}, 4)]
)
def test_the_epsilon_of_a_group_norm_by_hand(options, epsilon):
    """Values of +-1e-3 have the variance 1e-6, so that of themselves and an epsilon of
    1e-6 they are 1 / sqrt(2); of the default too."""
    x = np.float32(1e-3) * np.array([1, -1, -1, 1], np.float32).reshape(1, 2, 2, 1)
    layer = GroupNorm(1, **options)
    found = layer.apply({"params": {"scale": np.ones(1), "bias": np.zeros(1)}}, x)
    by_hand = np.sign(x) * 1e-3 / np.sqrt(1e-6 + epsilon)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_group_norm_keeps_its_digits_far_from_zero():
    # E[x^2] - E[x]^2 in one float32 pass would lose the variance of this map.
    x = draw(0, 1, 8, 8, 4) + np.float32(2000)
    layer = GroupNorm(num_groups=2)
    expected = group_norm(x, 1.0, 0.0, 2)
    actual = layer.apply({"params": {"scale": np.ones(4), "bias": np.zeros(4)}}, x)
    np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.parametrize("num_heads", [1, 3])
def test_attention(num_heads):
    x = draw(0, 2, 2, 3, 6)
    layer = Attention(num_heads, num_groups=2)
    params = randomised(layer, x)
    h = group_norm(x, **params["norm"], num_groups=2).reshape(2, 6, 6)
    q, k, v = (dense(h, params[name]) for name in ("query", "key", "value"))
    mixed = np.empty_like(h)
    for b in range(2):
        for head in np.split(np.arange(6), num_heads):
            logits = q[b][:, head] @ k[b][:, head].T / np.sqrt(len(head))
            weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            mixed[b][:, head] = weights @ v[b][:, head]
    expected = x + dense(mixed, params["out"]).reshape(x.shape)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("features", [4, 6])
def test_residual_block(features, scale_shift):
    x, embedding = draw(0, 2, 4, 2, 4), draw(1, 2, 5)
    layer = ResBlock(features, num_groups=2, scale_shift=scale_shift)
    params = randomised(layer, x, embedding, False)
    condition = dense(swish(embedding), params["embedding"])[:, None, None, :]
    h = swish(group_norm(x, **params["norm_0"], num_groups=2))
    h = conv(h, **params["conv_0"])
    if scale_shift:
        h = group_norm(h, **params["norm_1"], num_groups=2)
        h = h * (1 + condition[..., :features]) + condition[..., features:]
    else:
        h = group_norm(h + condition, **params["norm_1"], num_groups=2)
    h = conv(swish(h), **params["conv_1"])
    shortcut = x if features == 4 else dense(x, params["shortcut"])
    actual = layer.apply({"params": params}, x, embedding, False)
    np.testing.assert_allclose(actual, shortcut + h, atol=2e-5)


@pytest.mark.parametrize("way", ["down", "up"])
def test_residual_block_that_resamples(way):
    """Both ways are resampled after the first normalisation: NumPy by hand."""
    x, embedding = draw(0, 2, 4, 2, 4), draw(1, 2, 5)

    def by_hand(h):
        if way == "up":
            return np.repeat(np.repeat(h, 2, axis=1), 2, axis=2)
        rows = h[:, 0::2] + h[:, 1::2]
        return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4

    resample = average_pairs if way == "down" else upsample_nearest
    layer = ResBlock(4, num_groups=2, epsilon=0.5, resample=resample)
    params = randomised(layer, x, embedding, False)
    condition = dense(swish(embedding), params["embedding"])[:, None, None, :]
    h = by_hand(swish(group_norm(x, **params["norm_0"], num_groups=2, epsilon=0.5)))
    h = conv(h, **params["conv_0"]) + condition
    h = group_norm(h, **params["norm_1"], num_groups=2, epsilon=0.5)
    expected = by_hand(x) + conv(swish(h), **params["conv_1"])
    actual = layer.apply({"params": params}, x, embedding, False)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("num_heads", [1, 3])
def test_attention_by_jax_is_the_same(num_heads):
    # jax.nn.dot_product_attention is what cuDNN's fused kernel is reached through.
    x = draw(0, 2, 2, 4, 6)
    plain = Attention(num_heads, num_groups=2)
    params = randomised(plain, x)
    other = Attention(num_heads, num_groups=2, attend=jax.nn.dot_product_attention)
    found, wanted = (layer.apply({"params": params}, x) for layer in (other, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
