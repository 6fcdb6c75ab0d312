"""Counted operations against counts by hand, and against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops, parts, start
from ddpm_jax.models import UNet


def arrays(*shapes):
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def conv(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def attention_logits(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


@pytest.mark.parametrize(
    ("function", "shapes", "by_hand"),
    [
        (jnp.matmul, [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
        (jnp.matmul, [(4, 3, 5), (4, 5, 7)], 2 * 4 * 3 * 5 * 7),
        (attention_logits, [(2, 6, 3, 4)] * 2, 2 * 2 * 3 * 6 * 6 * 4),
        (conv, [(2, 8, 8, 3), (3, 3, 3, 5)], 2 * 2 * 64 * 9 * 3 * 5),
        (
            lambda x, k: conv(x, k, window_strides=(2, 2)),
            [(2, 8, 8, 3), (3, 3, 3, 5)],
            2 * 2 * 16 * 9 * 3 * 5,
        ),
        (
            lambda x, k: conv(x, k, feature_group_count=2),
            [(1, 8, 8, 4), (3, 3, 2, 6)],
            2 * 64 * 9 * 2 * 6,
        ),
        (lambda a: a + jnp.sum(a), [(9, 9)], 0),
    ],
)  # fmt: skip
def test_products_are_counted_as_by_hand(function, shapes, by_hand):
    assert flops.count(function, *arrays(*shapes)) == by_hand


@pytest.mark.parametrize("stride", [1, 2])
def test_each_gradient_of_a_convolution_costs_as_much_as_it(stride):
    """Not so if the zeros that a stride leaves between pixels were counted."""
    given = arrays((2, 8, 8, 3), (3, 3, 3, 5))

    def loss(x, kernel):
        padding = [(2 - stride, 1)] * 2  # as in the network
        y = conv(x, kernel, window_strides=(stride, stride), padding=padding)
        return jnp.sum(jnp.square(y))

    once = flops.count(loss, *given)
    assert flops.count(jax.grad(loss, argnums=0), *given) == 2 * once
    assert flops.count(jax.grad(loss, argnums=1), *given) == 2 * once
    assert flops.count(jax.grad(loss, argnums=(0, 1)), *given) == 3 * once


def test_what_lies_within_is_counted_as_often_as_it_runs():
    given = arrays((4, 4), (4, 4))
    once = 2 * 4**3

    def scanned(a, b):
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, b), None), a, length=7)

    def chosen(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b)

    def again(a, b):  # the product within, in the backward pass, and once more
        return jax.grad(lambda a: jnp.sum(jax.checkpoint(lambda a: jnp.sin(a @ b))(a)))(
            a
        )

    assert flops.count(scanned, *given) == 7 * once
    assert flops.count(chosen, *given) == 2 * once
    assert flops.count(again, *given) == 3 * once
    with pytest.raises(ValueError, match="while"):
        flops.count(
            lambda a, b: jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ b, a),
            *given,
        )


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (jnp.matmul, [(8, 16), (16, 32)]),
        # Without a border: of its zeros XLA counts none.
        (lambda x, k: conv(x, k, padding="VALID"), [(2, 9, 9, 3), (3, 3, 3, 5)]),
    ],
)
def test_xla_counts_the_same(function, shapes):
    given = arrays(*shapes)
    by_xla = jax.jit(function).lower(*given).cost_analysis()["flops"]
    assert flops.count(function, *given) == by_xla


# --- The U-Net of CIFAR-10, layer by layer --------------------------------------------


def conv3(side, channels_in, channels_out):
    return side**2 * 9 * channels_in * channels_out


def block(side, channels_in, channels_out):
    shortcut = channels_in * channels_out * side**2 * (channels_in != channels_out)
    told = 512 * channels_out
    convs = conv3(side, channels_in, channels_out) + conv3(
        side, channels_out, channels_out
    )
    return convs + told + shortcut


def attention(side, channels):
    return 4 * side**2 * channels**2 + 2 * side**4 * channels


MULTIPLY_ADDS = {
    "time_0": 128 * 512,
    "time_1": 512 * 512,
    "conv_in": conv3(32, 3, 128),
    "down_0": 2 * block(32, 128, 128) + conv3(16, 128, 128),
    "down_1": block(16, 128, 256) + block(16, 256, 256) + 2 * attention(16, 256)
    + conv3(8, 256, 256),
    "down_2": 2 * block(8, 256, 256) + conv3(4, 256, 256),
    "down_3": 2 * block(4, 256, 256),
    "mid": 2 * block(4, 256, 256) + attention(4, 256),
    "up_3": 3 * block(4, 512, 256) + conv3(8, 256, 256),
    "up_2": 3 * block(8, 512, 256) + conv3(16, 256, 256),
    "up_1": 2 * block(16, 512, 256) + block(16, 384, 256) + 3 * attention(16, 256)
    + conv3(32, 256, 256),
    "up_0": block(32, 384, 128) + 2 * block(32, 256, 128),
    "conv_out": conv3(32, 128, 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def cifar():
    """The network, its parameters as shapes, and the input of one image."""
    given = arrays((1, 32, 32, 3), (1,))
    net = UNet(3)
    return net, jax.eval_shape(net.init, jax.random.key(0), *given), given


def test_a_forward_pass_of_the_cifar10_network(cifar):
    net, params, given = cifar
    by_hand = 2 * sum(MULTIPLY_ADDS.values())
    assert 11e9 < by_hand < 13e9
    assert flops.count(net.apply, params, *given) == by_hand


def test_its_gradient_costs_two_more_but_for_the_ends_that_need_none(cifar):
    net, params, given = cifar

    def loss(params):
        return jnp.sum(
            jnp.square(net.apply(params, *[jnp.ones(a.shape) for a in given]))
        )

    # Nobody asks for the gradient with respect to the image or the time.
    ends = MULTIPLY_ADDS["conv_in"] + MULTIPLY_ADDS["time_0"]
    expected = 2 * (3 * sum(MULTIPLY_ADDS.values()) - ends)
    assert flops.count(jax.grad(loss), params) == expected


def test_the_recipe_builds_that_network():
    cfg = start.load("configs/cifar.py", [], 1)
    of = parts.make_parts(cfg)
    params = jax.eval_shape(
        of.unet.init, jax.random.key(0), *arrays((1, 32, 32, 3), (1,))
    )["params"]
    counted = flops.count(parts.forward(of), params, *parts.forward_inputs(of, 1))
    assert counted == 2 * sum(MULTIPLY_ADDS.values())
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 35_746_307
