"""Costs against counts made by hand from the architecture, never from the jaxpr."""

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.networks.activation_memory import num_bytes, saved_bytes
from ddpm_jax.networks.cost import count_flops
from ddpm_jax.networks.unet import UNet


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def conv(x, kernel, *, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def test_products():
    assert count_flops(jnp.dot, struct(5, 7), struct(7, 3)) == 2 * 5 * 7 * 3
    attention = "bqhd,bkhd->bhqk"
    args = (struct(2, 9, 4, 8), struct(2, 11, 4, 8))
    count = count_flops(lambda q, k: jnp.einsum(attention, q, k), *args)
    assert count == 2 * (2 * 4 * 9 * 11) * 8
    assert count_flops(jnp.add, struct(5), struct(5)) == 0


def test_convolutions():
    args = struct(2, 8, 6, 4), struct(3, 3, 4, 10)
    assert count_flops(conv, *args) == 2 * (2 * 8 * 6 * 10) * 9 * 4
    half = count_flops(lambda *xs: conv(*xs, stride=2), *args)
    assert half == 2 * (2 * 4 * 3 * 10) * 9 * 4
    grouped = count_flops(
        lambda *xs: conv(*xs, groups=2), struct(2, 8, 6, 4), struct(3, 3, 2, 10)
    )
    assert grouped == 2 * (2 * 8 * 6 * 10) * 9 * 2


@pytest.mark.parametrize("stride", [1, 2])
def test_a_gradient_costs_twice_the_forward_pass(stride):
    # Each multiplication of the forward pass comes back in two: one for the gradient
    # of the input and one for that of the kernel.
    args = struct(2, 8, 8, 4), struct(3, 3, 4, 10)

    def loss(*xs):
        return conv(*xs, stride=stride).sum()

    forward = count_flops(lambda *xs: conv(*xs, stride=stride), *args)
    backward = count_flops(lambda *xs: jax.vjp(loss, *xs)[1](1.0), *args) - forward
    assert backward == 2 * forward


def test_loops_calls_branches_and_recomputation():
    x, w = struct(4, 4), struct(4, 4)
    one = 2 * 4**3

    def layer(x, w):
        return x @ w

    def repeated(x, w):
        return jax.lax.scan(lambda c, _: (layer(c, w), None), x, length=5)[0]

    assert count_flops(repeated, x, w) == 5 * one
    assert count_flops(jax.jit(jax.jit(layer)), x, w) == one
    assert count_flops(jax.vmap(layer), struct(3, 4, 4), struct(3, 4, 4)) == 3 * one
    branches = (lambda x, w: x, layer, lambda x, w: x @ w @ w)
    choice = jax.ShapeDtypeStruct((), jnp.int32)
    assert (
        count_flops(lambda i, x, w: jax.lax.switch(i, branches, x, w), choice, x, w)
        == 2 * one
    )

    def loss(x, w):
        return jax.checkpoint(lambda x, w: jnp.sin(x @ w) @ w)(x, w).sum()

    # Forward 2, once more 1 (only what the gradients need), backward 2 each.
    assert count_flops(jax.grad(loss, (0, 1)), x, w) == (2 + 1 + 4) * one


def test_a_loop_of_unknown_length_is_refused():
    def halve(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="unknown number of times"):
        count_flops(halve, struct(4, 4))


def unet_by_hand(side, *, channels, multipliers, num_res_blocks, attention, colours):
    """Multiply-adds of one image, added up layer by layer as Ho et al. describe it."""
    width = 4 * channels
    total = channels * width + width * width  # the embedding of the time

    def block(side, before, after):
        shortcut = side**2 * before * after if before != after else 0
        return side**2 * 9 * after * (before + after) + width * after + shortcut

    def attend(side, channels):
        return 4 * side**2 * channels**2 + 2 * side**4 * channels

    total += side**2 * 9 * colours * channels
    before, skips = channels, [channels]
    for level, multiplier in enumerate(multipliers):
        after = channels * multiplier
        for _ in range(num_res_blocks):
            total += block(side, before, after)
            total += attend(side, after) if side in attention else 0
            skips.append(after)
            before = after
        if level < len(multipliers) - 1:
            side //= 2
            total += side**2 * 9 * after * after
            skips.append(after)
    total += 2 * block(side, before, before) + attend(side, before)
    for level, multiplier in reversed(list(enumerate(multipliers))):
        after = channels * multiplier
        for _ in range(num_res_blocks + 1):
            total += block(side, before + skips.pop(), after)
            total += attend(side, after) if side in attention else 0
            before = after
        if level:
            side *= 2
            total += side**2 * 9 * after * after
    return total + side**2 * 9 * channels * colours


@pytest.mark.parametrize("batch", [1, 4])
def test_the_unet_of_cifar_by_hand(batch):
    unet = UNet(out_channels=3)
    x, t = struct(batch, 32, 32, 3), struct(batch)
    params = jax.eval_shape(unet.init, jax.random.key(0), x, t)
    by_hand = unet_by_hand(
        32,
        channels=128,
        multipliers=(1, 2, 2, 2),
        num_res_blocks=2,
        attention=(16,),
        colours=3,
    )
    assert count_flops(unet.apply, params, x, t) == 2 * batch * by_hand
    assert round(2 * by_hand / 1e9, 1) == 12.4


def test_patches_cost_what_a_network_of_their_channels_on_their_map_costs():
    unet = UNet(out_channels=3, channel_multipliers=(1, 2, 2), patch=2)
    x, t = struct(1, 32, 32, 3), struct(1)
    params = jax.eval_shape(unet.init, jax.random.key(0), x, t)
    by_hand = unet_by_hand(
        16,
        channels=128,
        multipliers=(1, 2, 2),
        num_res_blocks=2,
        attention=(16,),
        colours=12,
    )
    assert count_flops(unet.apply, params, x, t) == 2 * by_hand


def test_bytes_of_a_tree():
    tree = {"a": struct(2, 3), "b": (jax.ShapeDtypeStruct((5,), jnp.bfloat16),)}
    assert num_bytes(tree) == 4 * 6 + 2 * 5


def test_what_is_kept_for_a_gradient_by_hand():
    # sin(x w) v: x for the gradient of w, cos(x w) to come through the sine, sin(x w)
    # for the gradient of v; v itself is a parameter.
    def loss(params, x):
        return (jnp.sin(x @ params["w"]) @ params["v"]).sum()

    params = {"w": struct(10, 20), "v": struct(20, 3)}
    assert saved_bytes(loss, params, struct(5, 10)) == 4 * (5 * 10 + 2 * 5 * 20)
    recomputed = jax.checkpoint(loss)
    assert saved_bytes(recomputed, params, struct(5, 10)) == 4 * 5 * 10
