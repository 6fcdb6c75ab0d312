"""The diffusion transformer: by NumPy, its size, its symmetries, what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.label import Label
from ddpm_jax.errors import UserError
from ddpm_jax.networks import Ports, TokenSequence
from ddpm_jax.networks.activation_memory import saved_bytes
from ddpm_jax.networks.cost import count_flops
from ddpm_jax.networks.dit import (
    DiT,
    normalize,
    rotary_angles,
    rotate,
    sine_positions,
)
from ddpm_jax.networks.layers import ATTENTIONS

SMALL = {"out_channels": 1, "width": 16, "depth": 2, "num_heads": 2}
MODERN = {
    "mlp": "swiglu",
    "norm": "rms",
    "bottleneck": 3,
    "rotary": True,
    "qk_norm": True,
}
T = np.asarray([0, 7, 999], np.int32)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shapes_of(net, *inputs):
    return jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]


def randomised(net, *inputs):
    """Parameters with every leaf, zeros included, drawn at random."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25.0
        drawn = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
        return (drawn + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes_of(net, *inputs))


def ports_of(batch, height, width, *, features=16):
    """A vector, tokens of which the second row lacks two, and maps of two channels."""
    mask = np.arange(4)[None] < np.resize([4, 2], batch)[:, None]
    tokens = TokenSequence(draw(6, batch, 4, 5), mask)
    return Ports(draw(5, batch, features), tokens, draw(7, batch, height, width, 2))


# --- By NumPy -------------------------------------------------------------------------


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def norm(x, kind, scale=1.0, bias=0.0):
    x = x - (x.mean(-1, keepdims=True) if kind == "layer" else 0)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def turned(x, place):
    """Each pair (i, i + D/2) of a head as a complex number, times e^(i angle)."""
    depth = len(x)
    pairs = x[: depth // 2] + 1j * x[depth // 2 :]
    for i in range(depth // 4):
        rate = 10000.0 ** (-i / (depth // 4))
        for axis in (0, 1):
            pairs[axis * (depth // 4) + i] *= np.exp(1j * rate * place[axis])
    return np.concatenate([pairs.real, pairs.imag])


def by_numpy(net, params, x, t, ports):
    """One image in float64: loops over blocks, heads and places."""
    height, width, _ = x.shape
    x = np.concatenate([x, ports.maps], axis=-1) if ports.maps is not None else x
    p, size = net.patch, net.width
    places = [(i, j) for i in range(height // p) for j in range(width // p)]
    h = []
    for i, j in places:
        patch = x[p * i : p * i + p, p * j : p * j + p].reshape(-1)
        if net.bottleneck:
            patch = dense(params["bottleneck"], patch)
        rates = 10000.0 ** (-np.arange(size // 4) / (size // 4))
        code = [f(place * rates) for place in (j, i) for f in (np.sin, np.cos)]
        h.append(dense(params["patch_in"], patch) + np.concatenate(code))
    h = np.stack(h)
    rates = 10000.0 ** (-np.arange(128) / 127)
    e = np.concatenate([np.sin(t * rates), np.cos(t * rates)])
    e = dense(params["time_1"], silu(dense(params["time_0"], e))) + ports.vector
    e = silu(e)
    text = ports.tokens.vectors[ports.tokens.mask]
    others = 0
    if net.tokens == "context":
        text = dense(params["text_in"], norm(text, "layer", **params["norm_text"]))
        others, h = len(text), np.concatenate([text, h])

    def attend(q, k, v, num_heads):
        found = []
        heads = (np.split(a, num_heads, axis=-1) for a in (q, k, v))
        for ask, key, value in zip(*heads, strict=True):
            weights = softmax(ask @ key.T / math.sqrt(ask.shape[-1]))
            found.append(weights @ value)
        return np.concatenate(found, axis=-1)

    def prepared(name, h, of):
        """Queries or keys, normalized and turned head by head."""
        heads = np.split(dense(of[name], h), net.num_heads, axis=-1)
        if net.qk_norm:
            heads = [norm(a, "rms", of[f"norm_{name}"]["scale"]) for a in heads]
        if net.rotary:
            heads = [
                np.stack([*a[:others], *map(turned, a[others:], places)]) for a in heads
            ]
        return np.concatenate(heads, axis=-1)

    for index in range(net.depth):
        of = params[f"block_{index}"]
        a, b, gate, c, d, gate_1 = np.split(dense(of["modulation"], e), 6)
        inner = norm(h, net.norm) * (1 + b) + a
        q, k = (prepared(name, inner, of) for name in ("query", "key"))
        mixed = attend(q, k, dense(of["value"], inner), net.num_heads)
        h = h + gate * dense(of["out"], mixed)
        if net.tokens == "cross":
            cross = of["text"]
            inner = norm(h, "layer", **cross["norm"])
            given = norm(text, "layer", **cross["norm_text"])
            k, v = (
                np.concatenate([cross[f"no_{n}"][None], dense(cross[n], given)])
                for n in ("key", "value")
            )
            mixed = attend(dense(cross["query"], inner), k, v, net.num_heads)
            h = h + dense(cross["out"], mixed)
        inner = norm(h, net.norm) * (1 + d) + c
        inner = dense(of["dense_0"], inner)
        if net.mlp == "gelu":
            inner = gelu(inner)
        else:
            inner, opened = np.split(inner, 2, axis=-1)
            inner = inner * silu(opened)
        h = h + gate_1 * dense(of["dense_1"], inner)
    shift, scale = np.split(dense(params["modulation_out"], e), 2)
    h = dense(params["out"], norm(h[others:], net.norm) * (1 + scale) + shift)
    out = np.zeros((height, width, net.out_channels))
    for (i, j), value in zip(places, h, strict=True):
        patch = value.reshape(p, p, net.out_channels)
        out[p * i : p * i + p, p * j : p * j + p] = patch
    return out


@pytest.mark.parametrize("options", [{}, MODERN, MODERN | {"mlp": "gelu"}])
@pytest.mark.parametrize("tokens", ["cross", "context"])
def test_each_row_is_what_numpy_makes_of_it_alone(options, tokens):
    """Wide images of three channels, all ports, some tokens missing, in float64."""
    net = DiT(**SMALL | options | {"out_channels": 2, "tokens": tokens})
    x, ports = draw(2, 3, 4, 6, 3), ports_of(3, 4, 6)
    params = randomised(net, x, T, ports)
    found = jax.jit(net.apply)({"params": params}, x, T, ports)
    assert found.shape == (3, 4, 6, 2) and found.dtype == jnp.float32
    exact, inputs = jax.tree.map(np.float64, (params, (x, T, ports)))
    for row in range(3):
        x_row, t_row, of_row = jax.tree.map(lambda a, row=row: a[row], inputs)
        mask = ports.tokens.mask[row]
        of_row = of_row._replace(tokens=of_row.tokens._replace(mask=mask))
        expected = by_numpy(net, exact, x_row, t_row, of_row)
        assert expected.std() > 0.1
        # In float32 the angle 999 of the timestep embedding is known to 3e-5.
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


# --- Sizes ----------------------------------------------------------------------------

# Millions in Peebles & Xie 2023, table 4, at patch 2 on latents of 32x32x4 with a
# learned variance and 1000 classes.
SIZES = {
    "S": (384, 12, 6, 33),
    "B": (768, 12, 12, 130),
    "L": (1024, 24, 16, 458),
    "XL": (1152, 28, 16, 675),
}


@pytest.mark.parametrize("name", SIZES)
def test_number_of_parameters(name):
    width, depth, heads, count = SIZES[name]
    net = DiT(8, width=width, depth=depth, num_heads=heads)
    net = Conditioned(net, {"label": Label(1000)})
    x = jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32)
    leaves = jax.tree.leaves(shapes_of(net, x, np.zeros(1)))
    found = sum(leaf.size for leaf in leaves)
    assert round(found / 1e6) == count
    if name == "XL":  # as their code prints it, with a table of positions, 16 x 16
        assert found + 16 * 16 * width == 675_129_632
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_its_cost_by_hand():
    """Multiply-adds: 119 GFLOPs of DiT-XL/2 in the paper's table 4 are half of ours."""
    net = DiT(8, width=1152, depth=28, num_heads=16)
    x, t = jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32), np.zeros(1)
    params = {"params": shapes_of(net, x, t)}
    tokens, width = 256, 1152
    block = tokens * 12 * width**2 + 2 * tokens**2 * width + 6 * width**2
    ends = tokens * width * (2 * 2 * 4 + 2 * 2 * 8) + 2 * width**2
    by_hand = 28 * block + ends + 256 * width + width**2
    assert count_flops(net.apply, params, x, t) == 2 * by_hand
    assert round(by_hand / 1e9) == 119


def test_recomputed_blocks_keep_their_inputs_alone():
    """[B, N, width] of each block at the least, as `least_numbers` says."""
    net = DiT(out_channels=3, width=32, depth=6, num_heads=2)
    x, t = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32), jnp.zeros(2)
    params = shapes_of(net, x, t)
    kept = {
        remat: saved_bytes(
            lambda p, *args, remat=remat: net.clone(remat=remat).apply(
                {"params": p}, *args
            ),
            *(params, x, t),
        )
        for remat in (False, True)
    }
    least = 4 * 2 * net.least_numbers((16, 16, 3))
    assert least == 4 * 2 * 64 * 32 * 6
    assert least <= kept[True] < 3 * least < kept[False]


# --- Positions ------------------------------------------------------------------------


def test_sines_by_hand():
    code = sine_positions(2, 3, 8)
    x, y = 2, 1  # the last place
    expected = [f(z * w) for z in (x, y) for f in (np.sin, np.cos) for w in (1, 0.01)]
    np.testing.assert_allclose(code[-1], expected, rtol=1e-6)


def test_turned_products_depend_on_differences_of_places_alone():
    depth, (height, width) = 8, (5, 7)
    q, k = draw(1, 2, depth)
    angles = rotary_angles(height, width, depth)

    def everywhere(x):
        places = np.broadcast_to(x, (1, height * width, 1, depth))
        return np.asarray(rotate(jnp.asarray(places), jnp.asarray(angles)))[0, :, 0]

    products = everywhere(q) @ everywhere(k).T
    by_shift = {}
    for a, b in np.ndindex(products.shape):
        apart = (a // width - b // width, a % width - b % width)
        by_shift.setdefault(apart, []).append(products[a, b])
    assert len(by_shift) == (2 * height - 1) * (2 * width - 1)
    for values in by_shift.values():
        assert np.ptp(values) < 1e-5
    assert by_shift[0, 0][0] == pytest.approx(q @ k, abs=1e-5)
    # Rows are not columns.
    swapped = [
        by_shift[i, j][0] - by_shift[j, i][0] for i in range(5) for j in range(i)
    ]
    assert np.abs(swapped).max() > 0.1


def test_without_sines_it_does_not_know_the_order_of_patches(monkeypatch):
    """The patches of an image in another order: so those of the output."""
    monkeypatch.setattr(
        "ddpm_jax.networks.dit.sine_positions",
        lambda rows, columns, width: np.zeros((rows * columns, width), np.float32),
    )
    net = DiT(**SMALL | {"patch": 4})
    x = draw(2, 3, 8, 4, 1)
    params = {"params": randomised(net, x, T)}
    upside_down = np.concatenate([x[:, 4:], x[:, :4]], axis=1)
    apply = jax.jit(net.apply)
    found, other = (apply(params, images, T) for images in (x, upside_down))
    np.testing.assert_allclose(found[:, 4:], other[:, :4], atol=1e-5)
    assert np.abs(found[:, :4] - other[:, :4]).max() > 0.1


# --- Behavior -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """A network, its parameters, and three images."""
    net = DiT(**SMALL)
    x = draw(2, 3, 4, 4, 1)
    return net, randomised(net, x, T), x


@pytest.mark.parametrize("options", [{}, MODERN | {"tokens": "context"}])
def test_it_starts_as_zero_and_learns_from_there(options):
    net, x, ports = DiT(**SMALL | options), draw(2, 3, 4, 4, 1), ports_of(3, 4, 4)
    key = jax.random.key(0, impl="rbg")  # quick to compile
    params = jax.jit(net.init)(key, x, T, ports)["params"]
    apply = jax.jit(net.apply)
    np.testing.assert_array_equal(apply({"params": params}, x, T, ports), 0)
    for name in ("modulation_out", "out"):
        np.testing.assert_array_equal(params[name]["kernel"], 0)
    # With another last layer: every block is the identity, whatever the conditions.
    params["out"]["kernel"] = draw(3, *params["out"]["kernel"].shape)
    there = apply({"params": params}, x, T, ports)
    others = ports._replace(vector=ports.vector + 1)
    np.testing.assert_array_equal(apply({"params": params}, x, T, others), there)
    assert np.std(there) > 0.1


def test_rows_are_independent_and_jit_equals_eager(small):
    net, params, x = small
    together = jax.jit(net.apply)({"params": params}, x, T)
    assert together.std() > 0.1
    np.testing.assert_allclose(net.apply({"params": params}, x, T), together, atol=1e-5)
    alone = jax.jit(net.apply)({"params": params}, x[2:], T[2:])
    np.testing.assert_allclose(together[2:], alone, atol=1e-5)


def test_labels(small):
    net, params, x = small
    conditioned = Conditioned(net, {"label": Label(3)})
    params = params | {"label": {"embedding": draw(4, 4, 16)}}
    apply = jax.jit(conditioned.apply)
    none = apply({"params": params}, x, T)
    null = apply({"params": params}, x, T, {"label": np.asarray([3, 3, 3])})
    np.testing.assert_array_equal(null, none)
    some = apply({"params": params}, x, T, {"label": np.asarray([3, 1, 0])})
    np.testing.assert_array_equal(some[0], none[0])
    assert np.abs(some[1:] - none[1:]).max() > 1e-2


@pytest.mark.parametrize("tokens", ["cross", "context"])
def test_what_stands_under_the_mask_changes_nothing(tokens):
    net, x, ports = DiT(**SMALL, tokens=tokens), draw(2, 3, 4, 4, 1), ports_of(3, 4, 4)
    params = randomised(net, x, T, ports)
    apply = jax.jit(net.apply)
    there = apply({"params": params}, x, T, ports)
    vectors, mask = ports.tokens
    masked = np.where(mask[..., None], vectors, 9.0)
    same = ports._replace(tokens=TokenSequence(masked, mask))
    np.testing.assert_allclose(apply({"params": params}, x, T, same), there, atol=1e-6)
    moved = ports._replace(tokens=TokenSequence(vectors[..., ::-1], mask))
    assert np.abs(apply({"params": params}, x, T, moved) - there).max() > 1e-3
    none = ports._replace(tokens=TokenSequence(vectors, np.zeros_like(mask)))
    assert np.isfinite(apply({"params": params}, x, T, none)).all()


@pytest.mark.parametrize("tokens", ["cross", "context"])
def test_fused_attention_is_called_as_what_it_computes(tokens, monkeypatch):
    """JAX's own function, of which cuDNN has one form, in the form for all devices."""
    net, x, ports = DiT(**SMALL, tokens=tokens), draw(2, 3, 4, 4, 1), ports_of(3, 4, 4)
    params = {"params": randomised(net, x, T, ports)}
    plain = jax.jit(net.apply)(params, x, T, ports)
    called = []

    def fused(q, k, v, **mask):
        called.append(mask)
        return jax.nn.dot_product_attention(q, k, v, **mask, implementation="xla")

    monkeypatch.setitem(ATTENTIONS, "cudnn", fused)
    found = jax.jit(net.clone(attention="cudnn").apply)(params, x, T, ports)
    np.testing.assert_allclose(found, plain, atol=1e-5)
    assert len(called) == net.depth


def test_remat_changes_neither_values_nor_gradients(small):
    net, params, x = small
    net = net.clone(dropout=0.2)  # the blocks must redraw the same mask

    def loss(params, net):
        rngs = {"dropout": jax.random.key(3)}
        out = net.apply({"params": params}, x, T, train=True, rngs=rngs)
        return jnp.mean(jnp.square(out))

    results = [
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(
            params, net.clone(remat=remat)
        )
        for remat in (False, True)
    ]
    assert results[0][0] > 0.01
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), *results
    )


def test_dropout_acts_only_while_training(small):
    net, params, x = small
    dropping = net.clone(dropout=0.5)
    still = net.apply({"params": params}, x, T)
    np.testing.assert_array_equal(dropping.apply({"params": params}, x, T), still)

    def trained(key):
        rngs = {"dropout": jax.random.key(key)}
        return dropping.apply({"params": params}, x, T, train=True, rngs=rngs)

    assert np.abs(trained(0) - still).max() > 1e-2
    assert np.abs(trained(0) - trained(1)).max() > 1e-2


@pytest.mark.parametrize("options", [{}, MODERN])
def test_bfloat16_is_close_and_leaves_as_float32(options):
    net, x, ports = DiT(**SMALL | options), draw(2, 3, 4, 4, 1), ports_of(3, 4, 4)
    params = randomised(net, x, T, ports)
    full = jax.jit(net.apply)({"params": params}, x, T, ports)
    half = jax.jit(net.clone(dtype="bfloat16").apply)({"params": params}, x, T, ports)
    assert half.dtype == jnp.float32
    error = np.sqrt(np.mean(np.square(half - full))) / full.std()
    assert 1e-4 < error < 0.05
    assert np.any(np.asarray(half) != half.astype(jnp.bfloat16).astype(jnp.float32))


def test_normalization_is_exact_far_from_zero():
    """In bfloat16 and with a mean of a thousand deviations: computed in float32."""
    x = 1000 + draw(0, 5, 64)
    expected = norm(np.float64(x), "layer")
    np.testing.assert_allclose(normalize(x, "layer"), expected, atol=2e-3)
    assert normalize(jnp.bfloat16(x), "rms").dtype == jnp.bfloat16


# --- Refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (9, 8, 3),
            {},
            "images of 9x8 do not divide into patches of 2x2; resize or pad to 8x8 or "
            "10x8 in the data config, or use another patch",
        ),
        ((8, 8, 3), {"patch": 0}, "patch=0 is too small"),
        ((8, 8, 3), {"width": 18, "num_heads": 3}, "width=18 is not a multiple of 4"),
        ((8, 8, 3), {"num_heads": 3}, "num_heads=3 does not divide width=16"),
        (
            (8, 8, 3),
            {"num_heads": 8, "rotary": True},
            "a head of 2 channels is not a multiple of 4",
        ),
        ((8, 8, 3), {"mlp_ratio": 0.01}, "mlp_ratio=0.01 makes 0 hidden features"),
        ((8, 8, 3), {"mlp_ratio": 65.0}, "mlp_ratio=65.0 .* at most 64"),
        ((8, 8, 3), {"dropout": 1.0}, "dropout=1.0 is not in"),
        ((8, 8, 3), {"attention": "cudnn"}, "attention='cudnn' with float32 on cpu"),
        ((4, 8, 8, 3), {}, "these are 4x8x8x3; use data of images"),
        ((2,), {}, "these are 2; use data of images"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(shape, options, message):
    with pytest.raises(UserError, match=message) as caught:
        DiT(**SMALL | options).check(shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        (Ports(vector=np.zeros((3, 8))), r"vector of shape .3, 8. .* in 16 features"),
        (Ports(maps=np.zeros((3, 2, 4, 1))), r"maps of shape .* all but the last axis"),
    ],
)
def test_ports_that_do_not_fit_are_refused(small, ports, message):
    net, params, x = small
    with pytest.raises(UserError, match=message):
        net.apply({"params": params}, x, T, ports)
