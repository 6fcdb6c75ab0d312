"""The bounds of a VAE: against probabilistic PCA, whose likelihood is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks.feed_forward import VectorAutoencoder
from ddpm_jax.networks.kl_autoencoder import KLAutoencoder
from ddpm_jax.recipe import VAE, Data, Fit
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.tasks.vae import (
    LOG_STD,
    Networks,
    bounds,
    evidence_bound,
    make_objective,
)

D, Q = 4, 2


def pca_of(seed):
    """Fit probabilistic PCA in closed form to data of a known shape.

    Source: Tipping & Bishop 1999, "Probabilistic Principal Component Analysis", eq. (7)
    and (8) for W and s^2, (6) for the posterior, (4) for the likelihood.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, D)) @ rng.normal(size=(D, D)) + rng.normal(size=D)
    center, sample = x.mean(0), np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(sample)
    values, vectors = values[::-1], vectors[:, ::-1]
    variance = values[Q:].mean()
    weights = vectors[:, :Q] * np.sqrt(values[:Q] - variance)  # with R = I
    inner = weights.T @ weights + variance * np.eye(Q)  # M, here diagonal
    cov = weights @ weights.T + variance * np.eye(D)
    offsets = x - center
    squares = np.einsum("nd,de,ne->n", offsets, np.linalg.inv(cov), offsets)
    log_p = -0.5 * (np.linalg.slogdet(2 * np.pi * cov)[1] + squares)
    return x, center, weights, inner, variance, log_p


def linear_vae(center, weights, inner, variance):
    """Set a VAE of affine halves to this model and its exact posterior, by hand."""
    net = VectorAutoencoder(D, Q, depth=0)
    to_mean = weights @ np.linalg.inv(inner)  # M^-1 W^T, transposed
    log_var = np.log(variance / np.diag(inner))  # s^2 M^-1
    params = {
        "network": {
            "encoder": {
                "out": {
                    "kernel": np.concatenate([to_mean, np.zeros((D, Q))], axis=1),
                    "bias": np.concatenate([-center @ to_mean, log_var]),
                }
            },
            "decoder": {"out": {"kernel": weights.T, "bias": center}},
        },
        LOG_STD: 0.5 * np.log(variance),
    }
    return VAE().networks(net, "float32"), params


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_vae_at_its_optimum_is_probabilistic_pca(seed):
    """With the exact posterior every draw of p(x, z) / q(z|x) is p(x) itself."""
    with jax.enable_x64(True):
        x, *model, log_p = pca_of(seed)
        networks, params = linear_vae(*model)
        keys = jax.random.split(jax.random.key(seed), len(x))
        for num_samples in (1, 5):
            found = bounds(networks, params, keys, x, num_samples).importance
            np.testing.assert_allclose(found, log_p, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_of_the_optimum_is_the_likelihood_in_the_mean(seed):
    with jax.enable_x64(True):
        x, *model, log_p = pca_of(seed)
        networks, params = linear_vae(*model)
        keys = jax.random.split(jax.random.key(seed), 400)

        def bound(key):
            log_of_x, kl = evidence_bound(networks, params, key, x)
            return (log_of_x - kl).mean()

        found = np.asarray(jax.lax.map(bound, keys))
        error = found.std(ddof=1) / np.sqrt(len(keys))
        assert abs(found.mean() - log_p.mean()) < 4 * error
        assert error < 0.02  # nats: the agreement says something


@pytest.mark.parametrize("seed", range(3))
def test_of_another_encoder_the_bound_is_lower_and_rises_with_the_draws(seed):
    with jax.enable_x64(True):
        x, *model, log_p = pca_of(seed)
        networks, params = linear_vae(*model)
        params["network"]["encoder"]["out"]["bias"][-Q:] += np.log(4.0)  # too wide
        params["network"]["encoder"]["out"]["bias"][:Q] += 0.3  # and beside it
        keys = jax.random.split(jax.random.key(seed), len(x))

        def mean_bound(num_samples):
            found = [
                np.mean(bounds(networks, params, of, x, num_samples).importance)
                for of in (keys[::-1], keys, jnp.roll(keys, 7), jnp.roll(keys, 31))
            ]
            return np.mean(found)

        found = [mean_bound(k) for k in (1, 4, 16, 64)]
        assert found == sorted(found)
        assert found[0] < log_p.mean() - 0.3
        assert log_p.mean() - 0.1 < found[-1] < log_p.mean() + 0.02
        log_of_x, kl = evidence_bound(networks, params, keys[0], x)
        np.testing.assert_allclose((log_of_x - kl).mean(), found[0], atol=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_rate_and_distortion_are_the_terms_of_the_elbo(seed):
    """The rate is that of training, and the distortion its mean over draws."""
    with jax.enable_x64(True):
        x, *model, log_p = pca_of(seed)
        networks, params = linear_vae(*model)
        keys = jax.random.split(jax.random.key(seed), len(x))
        found = bounds(networks, params, keys, x, 200)
        _, kl = evidence_bound(networks, params, keys[0], x)
        np.testing.assert_allclose(found.rate, kl, rtol=1e-12)
        # With the exact posterior the ELBO is the likelihood itself, in the mean.
        off = np.asarray(found.rate + found.distortion) + log_p
        error = off.std(ddof=1) / np.sqrt(len(x))
        assert abs(off.mean()) < 4 * error and error < 0.02


@pytest.mark.parametrize("num_values", [17, 256])
def test_of_bytes_the_likelihood_is_a_probability(num_values):
    """Over all images of one pixel it sums to 1, which a density need not."""
    grid = jnp.linspace(-1.0, 1.0, num_values).reshape(-1, 1)
    networks = Networks(
        encode=lambda params, x: (jnp.zeros((len(x), 1)), jnp.zeros((len(x), 1))),
        decode=lambda params, z: jnp.full((len(z), 1), 0.3),
        log_std=lambda params: jnp.log(0.2),
        num_values=num_values,
    )
    keys = jax.random.split(jax.random.key(0), num_values)
    # q is the prior and the decoder knows no z: one draw is exact.
    found = bounds(networks, {}, keys, grid, 1).importance
    assert float(jnp.exp(found).sum()) == pytest.approx(1.0, abs=1e-5)


def test_the_weight_of_the_kl_rises_to_one():
    x, *model, _ = pca_of(0)
    networks, params = linear_vae(*model)
    objective = make_objective(
        networks, lambda key, items: items, kl_warmup=10, num_parts=2
    )
    batch = {"image": jnp.asarray(x, jnp.float32)}
    losses = {}
    for step in (0, 5, 10, 20):
        key = jax.random.key(0)
        loss, (metrics, memory) = objective(params, key, batch, jnp.float32(step))
        losses[step] = float(loss)
        assert float(memory) == step + 0.5  # two parts of a batch are a step
        kl, whole = float(metrics["kl"]) / D, float(metrics["loss"])
        expected = whole - kl * (1 - min(1.0, step / 10))
        assert losses[step] == pytest.approx(expected, rel=1e-4)
    assert losses[0] < losses[5] < losses[10] == losses[20]


def test_a_fixed_width_has_no_gradient():
    x, *model, _ = pca_of(0)
    _, params = linear_vae(*model)
    net = VectorAutoencoder(D, Q, depth=0)
    batch = {"image": jnp.asarray(x, jnp.float32)}
    for learn_std in (True, False):
        networks = VAE(learn_std=learn_std).networks(net, "float32")
        objective = make_objective(networks, lambda key, items: items, kl_warmup=0)
        slopes, _ = jax.grad(objective, has_aux=True)(
            jax.tree.map(jnp.float32, params),
            jax.random.key(1),
            batch,
            jnp.float32(0),
        )
        assert (float(slopes[LOG_STD]) != 0) == learn_std


def test_a_vae_of_digits_begins_at_the_bits_of_its_decoder():
    """At its start a network decodes about 0, so that the bits are those of N(0, 1)."""
    spec = VAE(
        data=Data(source="digits", flip=False),
        network=KLAutoencoder(
            channels=8, channel_multipliers=(1, 1), num_res_blocks=1, num_groups=4
        ),
        num_values=17,
    )
    source = spec.data.open()
    task = spec.build(source, Fit(), data_mesh())
    items = np.stack([source.source[i]["image"] for i in range(8)])
    _, metrics = jax.jit(task.step)(
        task.start(task.draw()), jax.random.key(0), {"image": jnp.asarray(items)}
    )
    assert 3.0 < float(metrics["bits_per_dim"]) < 8.0  # log2 17 = 4.1 of uniform ones
    grid = np.asarray(spec.on_grid(jnp.asarray(items / 127.5 - 1.0))) * 8
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-5)
