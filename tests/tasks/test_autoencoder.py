"""The losses of an autoencoder, and its step: by hand, in closed form, by autograd."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.tasks.autoencoder import (
    Networks,
    Weights,
    adaptive_weight,
    hinge_loss,
    init_autoencode_state,
    kl_divergence,
    make_autoencode_step,
    make_gradients,
    perceptual_distance,
)
from ddpm_jax.training.step import compile_step


def test_kl_is_the_closed_form_and_what_draws_estimate():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(0, 1.5, (2, 3, 2)), rng.normal(-1, 1, (2, 3, 2))
    found = kl_divergence(jnp.asarray(mean), jnp.asarray(log_variance))
    std = np.exp(log_variance / 2)
    exact = (np.log(1 / std) + (std**2 + mean**2) / 2 - 0.5).sum((1, 2))
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    z = mean + std * rng.standard_normal((100_000, 2, 3, 2))
    log_ratio = -np.log(std) - ((z - mean) / std) ** 2 / 2 + z**2 / 2
    drawn = log_ratio.sum((2, 3))
    error = drawn.std(0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - found) < 4 * error).all()


def test_kl_of_the_prior_is_zero():
    np.testing.assert_array_equal(
        kl_divergence(jnp.zeros((2, 4)), jnp.zeros((2, 4))), [0, 0]
    )


def test_the_hinge_by_hand():
    # ((1 - 0.5) + 0 + (1 + 1)) / 3 of the real, (0 + (1 + 0.25)) / 2 of the others.
    real, fake = jnp.array([0.5, 3.0, -1.0]), jnp.array([-2.0, 0.25])
    assert float(hinge_loss(real, fake)) == pytest.approx(0.5 * (2.5 / 3 + 1.25 / 2))


def test_the_adaptive_weight_by_hand():
    three_four = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    assert float(adaptive_weight(three_four, jnp.array([2.0]))) == pytest.approx(
        5 / 2.0001
    )
    assert float(adaptive_weight(three_four, jnp.zeros(2))) == 1e4  # of 5e4


def test_the_perceptual_distance_is_that_of_directions():
    # Of three vectors in the plane: 90 degrees apart, opposite, and alike but longer.
    a = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]).reshape(1, 1, 3, 2)
    b = jnp.array([[0.0, 5.0], [0.0, -1.0], [1.0, 1.0]]).reshape(1, 1, 3, 2)
    np.testing.assert_allclose(perceptual_distance([a], [b]), [(2 + 4 + 0) / 3])
    np.testing.assert_allclose(
        perceptual_distance([a, a], [b, a]), [(2 + 4 + 0) / 3 / 2], rtol=1e-6
    )


def test_weights_of_channels_are_those_of_lpips():
    """Each channel's share counts as often as its weight says; maps are summed."""
    a = jnp.array([[1.0, 0.0], [0.0, 2.0]]).reshape(1, 1, 2, 2)
    b = jnp.array([[0.0, 5.0], [0.0, -1.0]]).reshape(1, 1, 2, 2)
    # The first place differs by 1 in both channels, the second by 4 in one.
    found = perceptual_distance([a, a], [b, b], [jnp.array([3.0, 0.5]), jnp.ones(2)])
    np.testing.assert_allclose(
        found, [(3 + 0.5 + 0.5 * 4) / 2 + (2 + 4) / 2], rtol=1e-6
    )


def test_the_perceptual_distance_is_a_distance():
    rng = np.random.default_rng(0)
    a, b = (
        [rng.normal(size=(4, 3, 3, 5)), rng.normal(size=(4, 2, 2, 7))] for _ in "ab"
    )
    d = perceptual_distance(a, b)
    assert (d > 0.1).all()
    np.testing.assert_allclose(d, perceptual_distance(b, a), rtol=1e-6)
    np.testing.assert_array_equal(perceptual_distance(a, a), 0)
    slope = jax.grad(lambda a: perceptual_distance([a], [a]).sum())(
        jnp.zeros((1, 1, 1, 3))
    )
    assert np.isfinite(slope).all()  # also where a network sees nothing


# --- A network small enough to differentiate by hand ----------------------------------


def encode(params, x):
    return x @ params["in"], jnp.full((*x.shape[:3], 2), -2.0) + params["log_variance"]


def decode(params, z):
    return jnp.tanh(z @ params["middle"]) @ params["last"]


def sample(key, mean, log_variance):
    return mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)


def discriminate(params, x):
    return jnp.tanh(x @ params["v"])


def maps(x):
    kernel = np.random.default_rng(7).normal(size=(3, 4))
    return [jnp.sin(x @ kernel), x[:, ::2, ::2]]


NETWORKS = Networks(
    encode, decode, sample, lambda params: params["last"], discriminate, maps
)
WEIGHTS = Weights(kl=0.01, perceptual=0.3, discriminator=0.5)


@pytest.fixture
def params():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(0, 0.5, shape), jnp.float32)

    return {
        "autoencoder": {
            "in": draw(3, 2),
            "log_variance": draw(2),
            "middle": draw(2, 5),
            "last": draw(5, 3),
        },
        "discriminator": {"v": draw(3, 1)},
    }


IMAGES = np.random.default_rng(1).integers(0, 256, (4, 6, 6, 3), np.uint8)
X = (IMAGES.astype(np.float32) - 127.5) / 127.5
KEY = jax.random.key(3)


def terms(autoencoder, discriminator):
    """Equations (1), (2) and the generator's part of (3), spelt out once more."""
    mean, log_variance = encode(autoencoder, X)
    fake = decode(autoencoder, sample(KEY, mean, log_variance))
    error = jnp.abs(X - fake).sum((1, 2, 3)).mean()
    seen = perceptual_distance(maps(X), maps(fake)).mean() * 6 * 6 * 3
    kl = (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum((1, 2, 3)).mean() / 2
    return error + 0.3 * seen, kl, -discriminate(discriminator, fake).mean(), fake


def test_gradients_are_those_of_the_loss_as_written(params):
    auto, judge = params["autoencoder"], params["discriminator"]

    def of_last(index):
        return jax.grad(lambda last: terms(auto | {"last": last}, judge)[index])(
            auto["last"]
        )

    norms = [float(np.linalg.norm(of_last(index))) for index in (0, 2)]
    adaptive = norms[0] / (norms[1] + 1e-4)
    assert 1 < adaptive < 1e4  # neither end

    def whole(auto):
        nll, kl, generator, _ = terms(auto, judge)
        return nll + 0.01 * kl + 0.5 * adaptive * generator

    found, metrics = make_gradients(NETWORKS, WEIGHTS, adversarial=True)(params, KEY, X)
    assert float(metrics["adaptive_weight"]) == pytest.approx(adaptive, rel=1e-4)
    expected = jax.grad(whole)(auto)
    for name, gradient in expected.items():
        np.testing.assert_allclose(
            found["autoencoder"][name], gradient, rtol=1e-3, atol=1e-3
        )
    fake = terms(auto, judge)[3]
    of_judge = jax.grad(
        lambda p: hinge_loss(discriminate(p, X), discriminate(p, fake))
    )(judge)
    np.testing.assert_allclose(found["discriminator"]["v"], of_judge["v"], rtol=1e-4)
    assert np.abs(of_judge["v"]).max() > 1e-3


@pytest.mark.parametrize("without", ["weight", "maps"])
def test_without_adversary_and_perceptual_term(params, without):
    networks, weights = NETWORKS, WEIGHTS
    if without == "weight":
        weights = WEIGHTS._replace(perceptual=0.0)
    else:
        networks = NETWORKS._replace(maps=None, discriminate=None)
    found, metrics = make_gradients(networks, weights, adversarial=False)(
        params, KEY, X
    )

    def whole(auto):
        mean, log_variance = encode(auto, X)
        fake = decode(auto, sample(KEY, mean, log_variance))
        kl = terms(auto, params["discriminator"])[1]
        return jnp.abs(X - fake).sum() / 4 + 0.01 * kl

    loss, expected = jax.value_and_grad(whole)(params["autoencoder"])
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert "perceptual" not in metrics and found["discriminator"] is None
    for name, gradient in expected.items():
        np.testing.assert_allclose(
            found["autoencoder"][name], gradient, rtol=1e-3, atol=1e-3
        )


# --- The step -------------------------------------------------------------------------


def run(params, kinds, flip=False):
    """Take a step of each kind, adversarial or not; return the states after each."""
    optimizers = (optax.sgd(1e-3), optax.adam(1e-2))
    copied = jax.tree.map(jnp.copy, params)
    state = init_autoencode_state(
        copied["autoencoder"], copied["discriminator"], optimizers
    )
    states = [jax.device_get(state)]
    steps = {
        kind: compile_step(
            make_autoencode_step(
                NETWORKS,
                optimizers,
                WEIGHTS,
                adversarial=kind,
                ema_target=0.9,
                flip=flip,
            ),
            data_mesh(),
        )
        for kind in set(kinds)
    }
    for kind in kinds:
        state, _ = steps[kind](state, KEY, {"image": IMAGES})
        states.append(jax.device_get(state))
    return states


def test_the_discriminator_is_as_it_was_until_it_takes_part(params):
    states = run(params, [False, False, True])
    before, after = states[2], states[3]
    for tree in ("params", "opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(before, tree)["discriminator"],
            getattr(states[0], tree)["discriminator"],
        )
    changed = np.abs(
        after.params["discriminator"]["v"] - before.params["discriminator"]["v"]
    )
    # The first step of Adam is the learning rate, whatever the gradient: its own count
    # begins when it does.
    np.testing.assert_allclose(changed, 1e-2, rtol=1e-3)


def test_the_average_is_of_the_autoencoder_and_warms_up(params):
    states = run(params, [False, False])
    average = params["autoencoder"]["in"]
    for step, state in enumerate(states[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        new = state.params["autoencoder"]["in"]
        assert np.abs(new - average).max() > 1e-6
        average = decay * average + (1 - decay) * new
        np.testing.assert_allclose(state.ema_params["in"], average, rtol=1e-5)


def test_equal_runs_are_equal_and_flips_change_them(params):
    whole = run(params, [False, True])[-1]
    again = run(params, [False, True])[-1]
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    flipped = run(params, [False, True], flip=True)[-1]
    assert np.abs(flipped.ema_params["in"] - whole.ema_params["in"]).max() > 1e-6
