"""The text encoder against float64 NumPy, and what a mask promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.networks.masked_attention import masked_attend, masked_mean
from ddpm_jax.networks.text import TextTransformer

MODEL = TextTransformer(11, 6, width=8, depth=2, num_heads=2)
IDS = np.array([[3, 9, 4, 0, 0, 0], [7, 7, 1, 2, 5, 10]], np.int32)
MASK = IDS > 0
apply = jax.jit(MODEL.apply)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    """Every parameter drawn at random, those that start at zero included."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IDS, MASK)
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([draw(i, *leaf.shape) / 2 for i, leaf in enumerate(leaves)])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):  # Hendrycks & Gimpel 2016, section 2: the approximation by tanh
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def encode_alone(params, numbers, heads=2):
    """One caption without padding, a query at a time: [L] -> [L, D]."""
    x = params["tokens"]["embedding"][numbers]
    x = x + params["positions"]["embedding"][: len(numbers)]
    for index in range(2):
        p = params[f"block_{index}"]
        h = norm(x, p["norm_0"])
        q, k, v = (dense(h, p[name]) for name in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for part in np.split(np.arange(x.shape[1]), heads):
            for i, query in enumerate(q[:, part]):
                weights = softmax(k[:, part] @ query / np.sqrt(len(part)))
                mixed[i, part] = weights @ v[:, part]
        x = x + dense(mixed, p["out"])
        h = gelu(dense(norm(x, p["norm_1"]), p["dense_0"]))
        x = x + dense(h, p["dense_1"])
    return norm(x, params["norm"])


def test_equals_each_caption_alone_in_float64(variables):
    params = jax.tree.map(np.float64, variables["params"])
    sequence, pooled = apply(variables, IDS, MASK)
    for row, (numbers, there) in enumerate(zip(IDS, MASK, strict=True)):
        alone = encode_alone(params, numbers[there])
        np.testing.assert_allclose(sequence[row, there], alone, atol=1e-5)
        np.testing.assert_allclose(pooled[row], alone.mean(0), atol=1e-5)


def test_what_is_under_the_mask_changes_not_a_bit(variables):
    sequence, pooled = apply(variables, IDS, MASK)
    for filling in (5, 10, 10**6, -3):  # of which two are in no vocabulary
        other = apply(variables, np.where(MASK, IDS, filling), MASK)
        np.testing.assert_array_equal(other[0], sequence)
        np.testing.assert_array_equal(other[1], pooled)
    assert not np.asarray(sequence)[~MASK].any()


def test_less_padding_is_the_same(variables):
    sequence, pooled = apply(variables, IDS[:1], MASK[:1])
    short = apply(variables, IDS[:1, :3], MASK[:1, :3])
    np.testing.assert_allclose(short[0], sequence[:, :3], atol=1e-6)
    np.testing.assert_allclose(short[1], pooled, atol=1e-6)


def test_a_dropped_caption_is_zero_and_so_is_its_gradient(variables):
    mask = MASK.copy()
    mask[0] = False
    sequence, pooled = apply(variables, IDS, mask)
    assert not np.asarray(sequence[0]).any() and not np.asarray(pooled[0]).any()
    np.testing.assert_array_equal(pooled[1], apply(variables, IDS, MASK)[1][1])

    def loss(variables, mask):
        sequence, pooled = MODEL.apply(variables, IDS[:1], mask[:1])
        return jnp.sum(sequence**2) + jnp.sum(jnp.cos(pooled))

    slopes = jax.grad(loss)(variables, mask)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(slopes))
    slopes = jax.grad(loss)(variables, MASK)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_order_matters(variables):
    swapped = IDS[:, [1, 0, 2, 3, 4, 5]]
    difference = apply(variables, swapped, MASK)[1] - apply(variables, IDS, MASK)[1]
    assert abs(difference[0]).max() > 0.01
    assert abs(difference[1]).max() < 1e-6  # 7 and 7


def test_blocks_begin_as_the_identity():
    variables = MODEL.init(jax.random.key(0), IDS, MASK)
    params = variables["params"]
    x = params["tokens"]["embedding"][IDS] + params["positions"]["embedding"]
    sequence, _ = apply(variables, IDS, MASK)
    expected = norm(np.float64(x), params["norm"]) * MASK[..., None]
    np.testing.assert_allclose(sequence, expected, atol=1e-4)


def test_dropout_only_in_training(variables):
    model = MODEL.clone(dropout=0.5)
    np.testing.assert_array_equal(
        model.apply(variables, IDS, MASK)[1], MODEL.apply(variables, IDS, MASK)[1]
    )
    first, second = (
        model.apply(
            variables, IDS, MASK, train=True, rngs={"dropout": jax.random.key(seed)}
        )[1]
        for seed in (0, 1)
    )
    assert abs(first - second).max() > 0.1


def test_half_precision_keeps_parameters_and_pooled_in_float32(variables):
    model = MODEL.clone(dtype=jnp.bfloat16)
    made = model.init(jax.random.key(0), IDS, MASK)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    sequence, pooled = model.apply(variables, IDS, MASK)
    assert (sequence.dtype, pooled.dtype) == (jnp.bfloat16, jnp.float32)
    # bfloat16 has 8 bits; a dozen roundings of numbers near 1 add up to a few percent.
    np.testing.assert_allclose(pooled, apply(variables, IDS, MASK)[1], atol=0.1)


def test_wrong_sizes_are_refused(variables):
    with pytest.raises(UserError, match=r"7 tokens long.* at most 6"):
        MODEL.apply(variables, np.ones((1, 7), np.int32), np.ones((1, 7), bool))
    with pytest.raises(UserError, match="8 wide cannot be shared by 3 heads"):
        MODEL.clone(num_heads=3).init(jax.random.key(0), IDS, MASK)


def test_attention_to_another_sequence_is_the_sum_by_hand():
    """Two keys of three: logits ln 3 and 0 give weights 3/4 and 1/4."""
    q = np.full((2, 1, 1, 4), 2 * np.log(3) / 4, np.float32)
    k = np.stack([np.ones((4,)), np.zeros((4,)), np.full((4,), 99.0)])[None, :, None]
    v = np.stack([np.full((4,), x) for x in (1.0, 5.0, 1e30)])[None, :, None]
    k, v = (np.repeat(a.astype(np.float32), 2, axis=0) for a in (k, v))
    mask = np.array([[True, True, False], [False, False, False]])
    mixed = masked_attend(q, k, v, mask)
    np.testing.assert_allclose(mixed[0], 2.0, rtol=1e-6)  # 3/4 * 1 + 1/4 * 5
    assert not np.asarray(mixed[1]).any()


def test_mean_by_hand():
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mask = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_array_equal(masked_mean(x, mask), [[2, 3], [0, 0]])
