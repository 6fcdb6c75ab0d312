"""Flows are inverted, and their determinants and densities are the true ones."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.networks.flow import (
    ActNorm,
    AffineCoupling,
    Flow,
    InvertibleDense,
    ReverseChannels,
    squeeze,
    unsqueeze,
)

LAYERS = {
    "actnorm": ActNorm(),
    "lu": InvertibleDense(3),
    "reverse": ReverseChannels(),
    "coupling": AffineCoupling(8, 1, 2),
    "unbounded": AffineCoupling(8, 1, bound=0.0),
}
FLOWS = {
    "realnvp": (Flow(num_steps=4, width=8, depth=1, mixing="reverse"), (2,)),
    "odd": (Flow(num_steps=3, width=8, depth=1, num_frequencies=1), (3,)),
    "glow": (Flow(num_scales=2, num_steps=2, width=4), (4, 8, 1)),
    "channels": (Flow(num_scales=1, num_steps=2, width=4, mixing="reverse"), (2, 2, 3)),
}


def shaken(net, x, seed=0, scale=0.3):
    """Initialize on x, and move all parameters from where couplings are the identity.

    In float64, so that nothing but the mathematics is tested.
    """
    params = net.init(jax.random.key(seed), x).get("params", {})
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    moved = [np.float64(leaf) + scale * rng.normal(size=leaf.shape) for leaf in leaves]
    return {"params": jax.tree.unflatten(tree, moved)}


def jacobian_log_dets(apply, x):
    """Return log |det| of the Jacobian of each row's own map, by the whole matrix."""

    def flat(numbers):
        return apply(numbers.reshape(1, *x.shape[1:]))[0].reshape(-1)

    jacobians = jax.jit(jax.vmap(jax.jacfwd(flat)))(x.reshape(len(x), -1))
    return np.linalg.slogdet(jacobians)[1]


@contextlib.contextmanager
def float64():
    """Compute in float64; JAX 0.10 would find the programs again outside of it."""
    with jax.enable_x64(True):
        yield
    jax.clear_caches()


@functools.partial(jax.jit, static_argnames=("net", "inverse"))
def run(net, params, x, inverse=False):
    """Apply a network, compiled: op by op it would be hundreds of programs."""
    return net.apply(params, x, inverse=inverse)


@pytest.mark.parametrize("shape", [(2,), (5,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_inverted_and_its_determinant_is_that_of_its_jacobian(name, shape):
    with float64():
        net = LAYERS[name]
        if len(shape) == 3 and getattr(net, "num_frequencies", 0):
            net = net.clone(num_frequencies=0)
        x = np.random.default_rng(1).normal(size=(3, *shape))
        params = shaken(net, x)
        y, log_det = run(net, params, x)
        back, same = run(net, params, y, inverse=True)
        np.testing.assert_allclose(back, x, atol=1e-10)
        np.testing.assert_allclose(same, log_det, atol=1e-10)
        found = jacobian_log_dets(lambda rows: net.apply(params, rows), x)
        np.testing.assert_allclose(log_det, found, atol=1e-10)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_inverted_and_its_determinant_is_that_of_its_jacobian(name):
    with float64():
        net, shape = FLOWS[name]
        net = net.for_items(shape)
        x = np.random.default_rng(2).normal(size=(3, *shape))
        params = shaken(net, x, scale=0.1)
        z, log_det = run(net, params, x)
        assert z.shape == (3, *net.latent_shape(shape))
        back, same = run(net, params, z, inverse=True)
        np.testing.assert_allclose(back, x, atol=1e-9)
        np.testing.assert_allclose(same, log_det, atol=1e-9)
        found = jacobian_log_dets(lambda rows: net.apply(params, rows), x)
        np.testing.assert_allclose(log_det, found, atol=1e-9)
        # And not of nothing: the couplings do something.
        still, _ = run(net, net.init(jax.random.key(0), x), x)
        assert np.abs(still - z).max() > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_a_flow_is_inverted_in_single_precision(seed):
    net, shape = FLOWS["glow"]
    net = net.for_items(shape)
    x = np.random.default_rng(seed).normal(size=(64, *shape)).astype(np.float32)
    params = jax.tree.map(jnp.float32, shaken(net, x, seed, scale=0.1))
    z, _ = net.apply(params, x)
    back, _ = net.apply(params, z, inverse=True)
    assert float(np.abs(back - x).max()) <= 1e-4


@pytest.mark.parametrize("name", ["realnvp", "lu"])
@pytest.mark.parametrize("seed", range(3))
def test_the_density_of_a_flow_in_the_plane_integrates_to_one(name, seed):
    with float64():
        net = FLOWS["realnvp"][0].clone(mixing="lu" if name == "lu" else "reverse")
        start = np.random.default_rng(seed).normal(size=(64, 2))
        params = shaken(net, start, seed, scale=0.1)
        side = np.linspace(-12, 12, 801)
        plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        z, log_det = run(net, params, plane)
        log_p = -0.5 * np.square(z).sum(1) - np.log(2 * np.pi) + log_det
        total = np.exp(log_p).sum() * (side[1] - side[0]) ** 2
        assert total == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("shape", [(3,), (4, 4, 3)], ids=str)
def test_actnorm_makes_of_its_first_batch_mean_0_and_deviation_1(shape):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, *shape)) * [0.01, 3, 50] + [-2, 0, 7]).astype(np.float32)
    net = ActNorm()
    y, _ = net.apply(net.init(jax.random.key(0), x), x)
    axes = tuple(range(y.ndim - 1))
    np.testing.assert_allclose(y.mean(axes), np.zeros(3), atol=1e-3)  # 2/0.01 ulps
    np.testing.assert_allclose(y.std(axes), np.ones(3), atol=1e-3)


def test_a_flow_that_begins_normalizes_every_layer():
    """As the couplings are the identity, z has mean 0; and it has deviations of 1."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 2)) @ [[3, 1], [0, 0.1]] + [5, -5]).astype(np.float32)
    net = Flow(num_steps=5, width=8, depth=1, mixing="reverse")
    z, _ = net.apply(net.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(z.mean(0), [0, 0], atol=1e-3)
    np.testing.assert_allclose(z.std(0), [1, 1], atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_flow_reaches_the_entropy_of_a_gaussian(seed):
    """At the maximum of the likelihood it is -1/2 log |2 pi e S|, S of the sample."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(3, 3))
    x = rng.normal(size=(2000, 3)) @ factor + rng.normal(size=3)
    x = jnp.asarray(x, jnp.float32)
    layers = [ActNorm(), InvertibleDense(seed)]

    def log_density(params, x):
        total = 0.0
        for layer, own in zip(layers, params, strict=True):
            x, log_det = layer.apply(own, x)
            total = total + log_det
        return (-0.5 * jnp.square(x) - 0.5 * jnp.log(2 * jnp.pi)).sum(1) + total

    params = []
    h = x
    for layer in layers:
        params.append(layer.init(jax.random.key(0), h))
        h, _ = layer.apply(params[-1], h)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 600))

    def step(_, carry):
        params, state = carry
        slopes = jax.grad(lambda p: -log_density(p, x).mean())(params)
        updates, state = optimizer.update(slopes, state)
        return optax.apply_updates(params, updates), state

    begun = (params, optimizer.init(params))
    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, 600, step, carry))(begun)
    exact = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(x.T, bias=True))[1]
    assert float(-log_density(params, x).mean()) == pytest.approx(exact, abs=0.01)


def test_squares_become_channels_and_come_back():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    y = squeeze(jnp.asarray(x))
    assert y.shape == (2, 2, 3, 12)
    # Source: Dinh et al. 2017, section 3.6: each 2x2xc square becomes 1x1x4c.
    square = {int(v) for v in y[1, 1, 2]}
    assert square == set(x[1, 2:4, 4:6].ravel().tolist())
    np.testing.assert_array_equal(unsqueeze(y), x)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (Flow(), (1,), "have one number"),
        (Flow(num_scales=2), (2,), "use 1"),
        (Flow(num_scales=2), (6, 6, 1), "use fewer"),
        (Flow(), (4, 4), "vectors or images"),
        (Flow(num_frequencies=2), (4, 4, 1), "leave it out"),
        (Flow(num_steps=0), (2,), "num_steps=0"),
    ],
)
def test_what_a_flow_cannot_be_built_for_is_said(net, shape, message):
    with pytest.raises(UserError, match=message):
        net.for_items(shape)
