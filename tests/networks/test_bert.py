"""BERT against float64 NumPy, fed tensors by the names that published files use."""

import math

import jax
import numpy as np
from flax import traverse_util

from ddpm_jax.networks.bert import Bert, Sizes, parameter_shapes, torch_name

SIZES = Sizes(
    vocabulary_size=13,
    max_length=7,
    num_segments=2,
    width=6,
    hidden=10,
    depth=2,
    num_heads=3,
    epsilon=1e-12,
)


def tensors(sizes=SIZES, seed=0):
    """Random tensors as Hugging Face's BertModel names and shapes them."""
    rng = np.random.default_rng(seed)
    found = {}

    def add(name, *shape):
        found[name] = rng.standard_normal(shape).astype(np.float32) / 2

    def linear(name, into, out):
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def layer_norm(name):
        add(f"{name}.weight", sizes.width)
        add(f"{name}.bias", sizes.width)

    add("embeddings.word_embeddings.weight", sizes.vocabulary_size, sizes.width)
    add("embeddings.position_embeddings.weight", sizes.max_length, sizes.width)
    add("embeddings.token_type_embeddings.weight", sizes.num_segments, sizes.width)
    layer_norm("embeddings.LayerNorm")
    for index in range(sizes.depth):
        layer = f"encoder.layer.{index}"
        for name in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{name}", sizes.width, sizes.width)
        linear(f"{layer}.attention.output.dense", sizes.width, sizes.width)
        layer_norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", sizes.width, sizes.hidden)
        linear(f"{layer}.output.dense", sizes.hidden, sizes.width)
        layer_norm(f"{layer}.output.LayerNorm")
    return found


def states_alone(t, numbers, sizes=SIZES):
    """The last hidden states of one text without padding, in float64: [L, D]."""
    t = {name: value.astype(np.float64) for name, value in t.items()}

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def layer_norm(x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        unit = (x - mean) / np.sqrt(var + sizes.epsilon)
        return unit * t[f"{name}.weight"] + t[f"{name}.bias"]

    def gelu(x):
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

    x = t["embeddings.word_embeddings.weight"][numbers]
    x = x + t["embeddings.position_embeddings.weight"][: len(numbers)]
    x = x + t["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, "embeddings.LayerNorm")
    depth = sizes.width // sizes.num_heads
    for index in range(sizes.depth):
        layer = f"encoder.layer.{index}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{name}")
            for name in ("query", "key", "value")
        )
        mixed = []
        for head in range(sizes.num_heads):
            part = slice(head * depth, (head + 1) * depth)
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(depth))
            mixed.append(weights / weights.sum(1, keepdims=True) @ v[:, part])
        h = linear(np.concatenate(mixed, axis=1), f"{layer}.attention.output.dense")
        x = layer_norm(x + h, f"{layer}.attention.output.LayerNorm")
        h = gelu(linear(x, f"{layer}.intermediate.dense"))
        h = linear(h, f"{layer}.output.dense")
        x = layer_norm(x + h, f"{layer}.output.LayerNorm")
    return x


def test_equals_float64_and_padding_is_nothing():
    named = tensors()
    flat = traverse_util.flatten_dict(parameter_shapes(SIZES))
    assert {torch_name(path) for path in flat} == set(named)
    params = {}
    for path, leaf in flat.items():
        value = named[torch_name(path)]
        params[path] = value.T if path[-1] == "kernel" else value
        assert params[path].shape == leaf.shape
    variables = {"params": traverse_util.unflatten_dict(params)}

    ids = np.array([[2, 12, 5, 99, 99, 99], [1, 2, 3, 4, 5, 6]], np.int32)
    mask = ids < 99
    states = jax.jit(Bert(SIZES).apply)(variables, ids, mask)
    assert not np.asarray(states)[~mask].any()
    for row, there in zip(range(2), mask, strict=True):
        alone = states_alone(named, ids[row, there])
        np.testing.assert_allclose(states[row, there], alone, atol=2e-5)
