"""Text as a condition of a U-Net: what it changes, and what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.conditioning.conditioned import Conditioned, as_network, encode
from ddpm_jax.conditioning.encoded_text import Tokens
from ddpm_jax.conditioning.text import Text
from ddpm_jax.errors import UserError
from ddpm_jax.networks import UNet
from ddpm_jax.networks.layers import CrossAttention
from ddpm_jax.networks.text import TextTransformer

LENGTH, WIDTH = 5, 6
UNET = UNet(
    out_channels=1,
    channels=8,
    channel_multipliers=(1,),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_heads=2,
    num_groups=4,
)
NET = Conditioned(UNET, {"text": Text(LENGTH, WIDTH)})
X = np.random.default_rng(0).standard_normal((3, 4, 4, 1)).astype(np.float32)
T = np.asarray([0, 7, 999], np.int32)


def text_of(seed, lengths=(5, 3, 1)):
    rng = np.random.default_rng(seed)
    sequence = rng.standard_normal((3, LENGTH, WIDTH)).astype(np.float32)
    mask = np.arange(LENGTH) < np.asarray(lengths)[:, None]
    pooled = rng.standard_normal((3, WIDTH)).astype(np.float32)
    return sequence, mask, pooled


@pytest.fixture(scope="module")
def run():
    """The network as a function of its text, with every parameter drawn at random."""
    shapes = jax.eval_shape(NET.init, jax.random.key(0), X, T)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: (0.5 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )
    return jax.jit(lambda text: as_network(NET)(params, X, T, text and {"text": text}))


def test_what_stands_where_no_token_is_changes_nothing(run):
    sequence, mask, pooled = text_of(2)
    other = np.where(mask[..., None], sequence, 1e3 * text_of(3)[0])
    np.testing.assert_array_equal(
        run((sequence, mask, pooled)), run((other, mask, pooled))
    )


def test_no_text_is_a_mask_without_any_whatever_else_is_given(run):
    sequence, mask, pooled = text_of(2)
    nothing = run((0 * sequence, mask & False, 0 * pooled))
    np.testing.assert_array_equal(run((sequence, mask & False, pooled)), nothing)
    np.testing.assert_allclose(run(None), nothing, atol=1e-5)  # another program
    # And it is that for its row alone.
    mask = mask & np.asarray([[True], [False], [True]])
    some = np.asarray(run((sequence, mask, pooled)))
    np.testing.assert_allclose(some[1], np.asarray(nothing)[1], atol=1e-5)
    assert np.abs(some[0] - np.asarray(nothing)[0]).max() > 0.1


def test_tokens_are_a_set_for_the_map(run):
    """Their order is the text encoder's affair: attention has none of its own."""
    sequence, mask, pooled = text_of(2)
    order = [4, 2, 0, 3, 1]
    turned = run((sequence[:, order], mask[:, order], pooled))
    np.testing.assert_allclose(turned, run((sequence, mask, pooled)), atol=1e-4)


@pytest.mark.parametrize("part", [0, 2], ids=["sequence", "pooled"])
def test_each_way_in_is_open_to_its_own_row(run, part):
    before = text_of(2)
    after = [np.copy(leaf) for leaf in before]
    after[part][1] += 1.0 + np.arange(after[part].shape[-1])
    change = np.abs(np.asarray(run(tuple(after)) - run(before))).max(axis=(1, 2, 3))
    assert change[1] > 1e-2
    np.testing.assert_allclose(change[[0, 2]], 0, atol=1e-5)


def test_cross_attention_is_that_of_the_papers():
    """Against NumPy in float64, row by row, over the tokens that are there."""
    sequence, mask, _ = text_of(2)
    x = np.random.default_rng(3).standard_normal((3, 2, 2, 8)).astype(np.float32)
    net = CrossAttention(num_heads=2, num_groups=4)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, sequence, mask)["params"]
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes
    )
    got = net.apply({"params": params}, x, sequence, mask)

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(h, name):
        return h @ p[name]["kernel"] + p[name]["bias"]

    def normalised(h, axes, epsilon):
        h = h - h.mean(axis=axes, keepdims=True)
        return h / np.sqrt((h**2).mean(axis=axes, keepdims=True) + epsilon)

    for row in range(3):
        groups = x[row].astype(np.float64).reshape(4, 4, 2)  # pixels, groups, channels
        h = normalised(groups, (0, 2), 1e-6).reshape(4, 8)
        h = h * p["norm"]["scale"] + p["norm"]["bias"]
        tokens = normalised(sequence[row, mask[row]].astype(np.float64), (1,), 1e-6)
        tokens = tokens * p["norm_text"]["scale"] + p["norm_text"]["bias"]
        q = dense(h, "query")
        k = np.concatenate([p["no_key"][None], dense(tokens, "key")])
        v = np.concatenate([p["no_value"][None], dense(tokens, "value")])
        mixed = np.empty((4, 8))
        for head in (slice(0, 4), slice(4, 8)):
            weights = np.exp(q[:, head] @ k[:, head].T / np.sqrt(4))
            weights /= weights.sum(axis=1, keepdims=True)
            mixed[:, head] = weights @ v[:, head]
        expected = x[row] + dense(mixed, "out").reshape(2, 2, 8)
        np.testing.assert_allclose(got[row], expected, rtol=1e-4, atol=1e-4)


def test_text_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="got text of shapes"):
        sequence, mask, pooled = text_of(0)
        NET.init(jax.random.key(0), X, T, {"text": (sequence[:, :4], mask, pooled)})
    with pytest.raises(UserError, match="tokens for a network without a text encoder"):
        NET.init(jax.random.key(0), X, T, {"text": Tokens(mask * 1, mask)})
    with pytest.raises(UserError, match="conditioned on nothing"):
        Conditioned(UNET, {}).init(jax.random.key(0), X, T, {"text": text_of(0)})
    with pytest.raises(UserError, match="4 tokens, 6 wide"):
        Text(LENGTH, WIDTH, TextTransformer(9, 4, width=6))


def test_a_trained_encoder_reads_once_or_in_each_call_alike():
    """Tokens, and what `encode` has made of them, negative ones included."""
    reader = TextTransformer(9, LENGTH, width=WIDTH, depth=1, num_heads=2)
    net = Conditioned(UNET, {"text": Text(LENGTH, WIDTH, reader)})
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, T)["params"]
    params = jax.tree.map(
        lambda leaf: (0.5 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )
    mask = np.arange(LENGTH) < np.asarray([[5], [3], [0]])
    tokens = Tokens((rng.integers(1, 9, mask.shape) * mask).astype(np.int32), mask)
    cond = {"text": tokens, "negative": {"text": jax.tree.map(np.flip, tokens)}}
    encoded = jax.jit(lambda params: encode(net, params, cond))(params)
    sequence, pooled = reader.apply({"params": params["text"]["encoder"]}, *tokens)
    np.testing.assert_allclose(encoded["text"].sequence, sequence, atol=1e-5)
    np.testing.assert_allclose(encoded["text"].pooled, pooled, atol=1e-5)
    ids, there = cond["negative"]["text"]
    other, _ = reader.apply({"params": params["text"]["encoder"]}, ids, there)
    np.testing.assert_allclose(encoded["negative"]["text"].sequence, other, atol=1e-5)
    found = [as_network(net)(params, X, T, one) for one in (cond, encoded)]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_a_fresh_network_does_not_look_at_tokens_yet():
    """Every branch ends in zeros; the output layer is replaced, which does so too."""
    params = NET.init(jax.random.key(0), jnp.asarray(X), T)["params"]
    names = [name for name in params if name.endswith("_text")]
    assert names  # in the middle, and beside the attention to the map
    for name in names:
        assert not np.any(params[name]["out"]["kernel"])
