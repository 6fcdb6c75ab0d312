"""The perceptron: its features, its ports, images, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import with_noise

from ddpm_jax.errors import UserError
from ddpm_jax.networks.mlp import MLP, fourier_features
from ddpm_jax.networks.ports import Ports, TokenSequence


def made(net, x, t, ports=None):
    params = net.init(jax.random.key(0), x, t, ports)["params"]
    return with_noise(params)


def test_fourier_features():
    x = np.array([[0.25, -0.125]], np.float32)
    found = np.asarray(fourier_features(jnp.asarray(x), 2))[0]
    angles = np.pi * np.array([0.25, 0.5, -0.125, -0.25])
    np.testing.assert_allclose(found, [*np.sin(angles), *np.cos(angles)], atol=1e-6)


def test_it_begins_at_zero_and_sees_all_it_is_given():
    net = MLP(out_channels=2, width=8, depth=2)
    rng = np.random.default_rng(1)
    x, t = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), jnp.arange(3.0)
    ports = Ports(vector=jnp.ones((3, 8)), maps=jnp.ones((3, 1)))
    start = net.init(jax.random.key(0), x, t, ports)
    np.testing.assert_array_equal(net.apply(start, x, t, ports), np.zeros((3, 2)))
    params = {"params": made(net, x, t, ports)}
    one = net.apply(params, x, t, ports)
    assert one.dtype == jnp.float32
    for others in (
        (x + 0.1, t, ports),
        (x, t + 1, ports),
        (x, t, ports._replace(vector=jnp.zeros((3, 8)))),
        (x, t, ports._replace(maps=jnp.zeros((3, 1)))),
    ):
        assert np.abs(net.apply(params, *others) - one).min() > 1e-4
    # Rows do not see each other.
    np.testing.assert_allclose(
        net.apply(params, x[:1], t[:1], Ports(ports.vector[:1], None, ports.maps[:1])),
        one[:1],
        rtol=1e-5,
        atol=1e-6,
    )


def test_an_image_is_the_vector_of_its_numbers():
    """One network on [B, 12] and, its numbers in their order, on [B, 2, 3, 2]."""
    rng = np.random.default_rng(2)
    x, maps = (jnp.asarray(rng.normal(size=(3, n)), jnp.float32) for n in (12, 6))
    t = jnp.arange(3.0)
    flat = MLP(out_channels=12, width=8, depth=1)
    params = made(flat, x, t, Ports(maps=maps))
    expected = flat.apply({"params": params}, x, t, Ports(maps=maps))
    image = flat.clone(out_channels=2).apply(
        {"params": params},
        x.reshape(3, 2, 3, 2),
        t,
        Ports(maps=maps.reshape(3, 2, 3, 1)),
    )
    np.testing.assert_array_equal(image, expected.reshape(3, 2, 3, 2))
    # Every number of the output depends on every number of the input.
    ports = Ports(maps=maps)
    jacobian = jax.jacobian(lambda x: flat.apply({"params": params}, x, t, ports))(x)
    each = jacobian[jnp.arange(3), :, jnp.arange(3)]
    assert jnp.abs(each).min() > 1e-7


def test_fourier_features_learn_what_varies_quickly():
    """Least squares on the sign of a wave of 8 periods: with and without features."""
    x = jnp.linspace(-1, 1, 512)[:, None]
    wanted, t = jnp.sign(jnp.sin(8 * np.pi * x)), jnp.zeros(512)
    losses = []
    for num_frequencies in (0, 4):
        net = MLP(1, width=32, depth=2, num_frequencies=num_frequencies)
        params = net.init(jax.random.key(0), x, t)["params"]

        def loss(params, net=net):
            return jnp.mean((net.apply({"params": params}, x, t) - wanted) ** 2)

        @jax.jit
        def train(params, loss=loss):
            def step(state, _):
                params, moment = state
                gradient = jax.grad(loss)(params)
                moment = jax.tree.map(lambda m, g: 0.9 * m + g, moment, gradient)
                params = jax.tree.map(lambda p, m: p - 0.01 * m, params, moment)
                return (params, moment), None

            start = (params, jax.tree.map(jnp.zeros_like, params))
            return jax.lax.scan(step, start, None, 200)[0][0]

        losses.append(float(loss(train(params))))
    assert losses[1] < 0.5 * losses[0]


def test_what_it_is_not_for():
    net = MLP()
    net.check((64, 64, 1))
    with pytest.raises(UserError, match=r"at most 4,096 .* 64x64x3; use"):
        net.check((64, 64, 3))
    with pytest.raises(UserError, match="width=2 is too small"):
        MLP(width=2).check((2,))
    x, t = jnp.zeros((1, 2)), jnp.zeros(1)
    tokens = TokenSequence(jnp.zeros((1, 3, 4)), jnp.ones((1, 3), bool))
    with pytest.raises(UserError, match="no attention for tokens"):
        net.init(jax.random.key(0), x, t, Ports(tokens=tokens))
