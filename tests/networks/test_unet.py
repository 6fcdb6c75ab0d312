"""The U-Net as a whole: its size, its symmetries and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.label import Label
from ddpm_jax.errors import UserError
from ddpm_jax.networks import Ports, UNet, check_geometry

SMALL = {
    "channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "num_groups": 4,
}


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shapes_of(net, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    t = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    return jax.eval_shape(net.init, jax.random.key(0), x, t)["params"]


def randomised(net, *shape):
    """Parameters of `net` with every leaf, zeros included, drawn at random."""
    rng = np.random.default_rng(1)

    def fill(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25.0
        return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    def fill_named(path, leaf):
        return fill(leaf) + np.float32(path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(fill_named, shapes_of(net, *shape))


# One level: enough, and quick to compile, where nothing depends on resampling.
TINY = SMALL | {"channel_multipliers": (1,), "attention_resolutions": ()}


@pytest.fixture(scope="module")
def tiny():
    """A network of one level, its parameters, and three images and times."""
    net = UNet(out_channels=1, **TINY)
    params = randomised(net, 3, 4, 4, 1)
    return net, params, draw(2, 3, 4, 4, 1), np.asarray([0, 7, 999], np.int32)


# The counts of the published TensorFlow and PyTorch networks.
CIFAR10 = UNet(3)
IMPROVED = UNet(
    6, num_res_blocks=3, attention_resolutions=(16, 8), num_heads=4, scale_shift=True
)
LSUN = UNet(3, channel_multipliers=(1, 1, 2, 2, 4, 4))


@pytest.mark.parametrize(
    ("net", "side", "count"),
    [(CIFAR10, 32, 35_746_307), (IMPROVED, 32, 52_546_438), (LSUN, 256, 113_673_219)],
    ids=["cifar10", "improved", "256"],
)
def test_number_of_parameters(net, side, count):
    leaves = jax.tree.leaves(shapes_of(net, 1, side, side, 3))
    assert sum(leaf.size for leaf in leaves) == count
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_every_branch_starts_at_zero(tiny):
    net, _, x, t = tiny
    key = jax.random.key(0, impl="rbg")  # quick to compile
    params = jax.jit(net.init)(key, x, t)["params"]
    last = [params[f"{name}_block_0"]["conv_1"] for name in ("down_0", "mid", "up_0")]
    for layer in [*last, params["mid_attention"]["out"], params["conv_out"]]:
        np.testing.assert_array_equal(layer["kernel"], 0)
    assert np.abs(params["conv_in"]["kernel"]).min() > 0


def test_rows_are_independent_and_jit_equals_eager(tiny):
    net, params, x, t = tiny
    together = jax.jit(net.apply)({"params": params}, x, t)
    assert together.std() > 0.1
    eager = net.apply({"params": params}, x, t)
    np.testing.assert_allclose(together, eager, atol=1e-5)
    alone = jax.jit(net.apply)({"params": params}, x[2:], t[2:])
    np.testing.assert_allclose(together[2:], alone, atol=1e-5)


def test_whole_and_real_times_agree_and_time_matters(tiny):
    net, params, x, t = tiny
    apply = jax.jit(net.apply)
    whole, real = (apply({"params": params}, x, t.astype(d)) for d in ("int32", "f4"))
    np.testing.assert_array_equal(whole, real)
    assert np.abs(apply({"params": params}, x, t + 100) - whole).max() > 1e-2


def test_remat_changes_neither_values_nor_gradients(tiny):
    net, params, x, t = tiny
    net = net.clone(dropout=0.2)  # the blocks must redraw the same mask

    def loss(params, net):
        rngs = {"dropout": jax.random.key(3)}
        return jnp.mean(
            jnp.square(net.apply({"params": params}, x, t, train=True, rngs=rngs))
        )

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


def test_bfloat16_is_close_and_leaves_as_float32(tiny):
    net, params, x, t = tiny
    full = jax.jit(net.apply)({"params": params}, x, t)
    half = jax.jit(net.clone(dtype=jnp.bfloat16).apply)({"params": params}, x, t)
    assert half.dtype == jnp.float32
    # bfloat16 keeps 8 bits: a few per cent after a dozen layers, but not equal.
    error = np.sqrt(np.mean(np.square(half - full))) / full.std()
    assert 1e-4 < error < 0.05
    # A rounded output would sit on the coarse grid of bfloat16.
    assert np.any(np.asarray(half) != half.astype(jnp.bfloat16).astype(jnp.float32))


def test_dropout_acts_only_while_training(tiny):
    net, params, x, t = tiny
    dropping = net.clone(dropout=0.5)
    still = jax.jit(net.apply)({"params": params}, x, t)
    resting = jax.jit(dropping.apply)({"params": params}, x, t)
    np.testing.assert_array_equal(resting, still)

    @jax.jit
    def trained(key):
        rngs = {"dropout": jax.random.key(key)}
        return dropping.apply({"params": params}, x, t, train=True, rngs=rngs)

    assert np.abs(trained(0) - still).max() > 1e-2
    assert np.abs(trained(0) - trained(1)).max() > 1e-2


def test_labels():
    net = Conditioned(UNet(out_channels=1, **TINY), {"label": Label(3)})
    params = randomised(net, 2, 4, 4, 1)
    assert params["label"]["embedding"].shape == (4, 32)  # three classes and none
    x, t = draw(2, 2, 4, 4, 1), np.asarray([5, 5])
    apply = jax.jit(net.apply)

    unlabelled = apply({"params": params}, x, t)
    null = apply({"params": params}, x, t, {"label": np.asarray([3, 3])})
    np.testing.assert_array_equal(null, unlabelled)
    mixed = apply({"params": params}, x, t, {"label": np.asarray([3, 1])})
    np.testing.assert_array_equal(mixed[0], unlabelled[0])
    assert np.abs(mixed[1] - unlabelled[1]).max() > 1e-2

    # A row of zeros is no class at all: the unconditional network.
    params["label"]["embedding"][1] = 0
    without = {name: value for name, value in params.items() if name != "label"}
    plain = UNet(out_channels=1, **TINY).apply({"params": without}, x, t)
    zero_row = apply({"params": params}, x, t, {"label": np.asarray([1, 1])})
    np.testing.assert_allclose(zero_row, plain, atol=1e-5)


def test_mirrored_kernels_on_mirrored_wide_images_of_five_channels():
    # Swapping rows and columns of both the images and the kernels swaps the output.
    net = UNet(out_channels=2, **SMALL)
    params = randomised(net, 1, 4, 6, 5)
    x, t = draw(2, 1, 4, 6, 5), np.asarray([12])
    swapped = jax.tree.map(lambda p: p.swapaxes(0, 1) if p.ndim == 4 else p, params)
    wide = jax.jit(net.apply)({"params": params}, x, t)
    tall = jax.jit(net.apply)({"params": swapped}, x.swapaxes(1, 2), t)
    assert wide.shape == (1, 4, 6, 2)
    assert np.abs(wide).max() > 0.1
    np.testing.assert_allclose(tall.swapaxes(1, 2), wide, atol=1e-5)


def test_attention_follows_the_shorter_side():
    net = UNet(3, channel_multipliers=(1, 1, 1), attention_resolutions=(8,))
    names = set(shapes_of(net, 1, 16, 64, 3))
    expected = {"down_1_attention_0", "down_1_attention_1", "mid_attention"}
    expected |= {f"up_1_attention_{i}" for i in range(3)}
    assert {name for name in names if "attention" in name} == expected


def test_heads_are_counted_by_their_width_at_each_level():
    """8 and 16 channels: heads of 8 are 1 there and 2 here, so no one number fits."""
    net = UNet(1, **SMALL | {"head_channels": 8, "attention_resolutions": (4,)})
    same = UNet(1, **SMALL | {"attention_resolutions": ()}, num_heads=2)
    x, t = draw(0, 2, 4, 4, 1), np.asarray([3, 500], np.int32)
    params = randomised(net, *x.shape)
    assert {"down_0_attention_0", "mid_attention"} <= set(params)
    for name in [name for name in params if "0_attention" in name]:
        params[name]["out"] = jax.tree.map(np.zeros_like, params[name]["out"])
    reduced = {name: leaf for name, leaf in params.items() if "0_attention" not in name}
    np.testing.assert_allclose(
        net.apply({"params": params}, x, t),
        same.apply({"params": reduced}, x, t),
        atol=1e-6,
    )
    with pytest.raises(UserError, match="head_channels=3 does not divide the 8 chan"):
        net.clone(head_channels=3).apply({"params": params}, x, t)


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        (Ports(vector=np.zeros((3, 8))), r"vector of shape .3, 8. .* in 32 features"),
        (Ports(maps=np.zeros((3, 2, 4, 1))), r"maps of shape .* all but the last axis"),
    ],
)
def test_ports_that_do_not_fit_are_refused(tiny, ports, message):
    net, params, x, t = tiny
    with pytest.raises(UserError, match=message):
        net.apply({"params": params}, x, t, ports)


GOOD = {"channels": 64, "channel_multipliers": (1, 2, 4), "num_groups": 32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 30}, "images of 30x32 do not halve 2 times"),
        ({"height": 30}, "multiples of 4: resize or pad to 28x32 or 32x32 in"),
        ({"height": 2, "width": 2}, "resize or pad to 4x4 in"),
        ({"channels": 48}, "num_groups=32 does not divide the 48 channels of level 0"),
        ({"num_groups": 48}, "num_groups=48 does not divide the 64 channels"),
        ({"channels": 2, "num_groups": 2}, "channels=2 is too narrow"),
        (
            {"channel_multipliers": ()},
            r"channel_multipliers=\(\); give one whole number of 1 or more",
        ),
        ({"num_heads": 3}, "num_heads=3 does not divide the 256 channels of level 2"),
        (
            {"num_heads": 128, "attention_resolutions": (32,)},
            "num_heads=128 does not divide the 64 channels of level 0",
        ),
    ],
)
def test_geometry_that_cannot_be_built_is_refused_in_one_line(change, message):
    arguments = {"height": 32, "width": 32} | GOOD | change
    with pytest.raises(UserError, match=message) as caught:
        check_geometry(**arguments)
    assert "\n" not in str(caught.value)


def test_geometry_that_can_be_built_passes():
    check_geometry(32, 20, **GOOD)
    # 128 heads divide the only level with attention, the last.
    check_geometry(32, 32, num_heads=128, **GOOD)


def test_the_network_itself_refuses_sizes_that_do_not_fit():
    with pytest.raises(UserError, match="images of 28x28 do not halve 3 times"):
        shapes_of(UNet(1), 1, 28, 28, 1)
