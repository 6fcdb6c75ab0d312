"""The game of a GAN: its losses by hand, and how it moves beside its equilibrium."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from ddpm_jax.networks.adversarial import ImageDiscriminator, VectorDiscriminator
from ddpm_jax.tasks.gan import (
    Game,
    discriminator_loss,
    discriminator_objective,
    generator_loss,
    generator_objective,
    gradient_penalty,
)

LOSSES = ("non_saturating", "relativistic")


def test_at_equilibrium_the_losses_are_logarithms_of_two():
    zero = jnp.zeros(5)
    two = math.log(2.0)
    assert float(discriminator_loss(zero, zero, LOSSES[0])) == pytest.approx(2 * two)
    assert float(discriminator_loss(zero, zero, LOSSES[1])) == pytest.approx(two)
    for loss in LOSSES:
        assert float(generator_loss(zero, zero, loss)) == pytest.approx(two)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_discriminator_reaches_the_divergence(seed):
    """2 log 2 - 2 JSD(p, q), at D = log p / q: Goodfellow et al. 2014, theorem 1."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(4), 2)

    def loss(logits):
        terms = [
            p_i * discriminator_loss(d[None], jnp.full(1, -1e9), LOSSES[0])
            + q_i * discriminator_loss(jnp.full(1, 1e9), d[None], LOSSES[0])
            for p_i, q_i, d in zip(p, q, logits, strict=True)
        ]
        return sum(terms)

    with jax.enable_x64(True):
        found = scipy.optimize.minimize(
            jax.jit(jax.value_and_grad(loss)), np.zeros(4), jac=True, tol=1e-12
        )
    np.testing.assert_allclose(found.x, np.log(p / q), atol=1e-4)
    middle = (p + q) / 2
    jsd = 0.5 * (p * np.log(p / middle) + q * np.log(q / middle)).sum()
    assert found.fun == pytest.approx(2 * math.log(2) - 2 * jsd, abs=1e-8)
    assert found.fun < 2 * math.log(2)


def test_losses_by_hand():
    real, fake = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])

    def soft(t):
        return math.log1p(math.exp(t))

    expected = (soft(-1) + soft(2)) / 2 + (soft(0.5) + soft(3)) / 2
    assert float(discriminator_loss(real, fake, LOSSES[0])) == pytest.approx(expected)
    expected = (soft(-0.5) + soft(5)) / 2
    assert float(discriminator_loss(real, fake, LOSSES[1])) == pytest.approx(expected)
    expected = (soft(-0.5) + soft(-3)) / 2
    assert float(generator_loss(real, fake, LOSSES[0])) == pytest.approx(expected)
    expected = (soft(0.5) + soft(-5)) / 2
    assert float(generator_loss(real, fake, LOSSES[1])) == pytest.approx(expected)


def test_the_penalty_of_a_linear_discriminator_is_the_square_of_its_slope():
    w = np.array([[0.5, -2.0], [1.0, 0.0]])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 2, 2)), jnp.float32)
    found = gradient_penalty(lambda rows: (rows * w).sum((1, 2)) + 3.0, x)
    assert float(found) == pytest.approx((w**2).sum())


@pytest.mark.parametrize("shape", [(2,), (8, 8, 1)], ids=str)
def test_a_logit_is_of_its_own_item(shape):
    """Which the penalty relies on: it differentiates the sum of all logits."""
    net = (
        VectorDiscriminator(width=8, depth=2)
        if len(shape) == 1
        else ImageDiscriminator(channels=8, channel_multipliers=(1, 1), num_groups=4)
    ).for_items(shape)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, *shape)), jnp.float32)
    params = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    slopes = jax.jacobian(lambda rows: net.apply(params, rows))(x)  # [B, B, ...]
    norms = np.square(np.asarray(slopes)).reshape(3, 3, -1).sum(-1)
    assert (norms[~np.eye(3, dtype=bool)] == 0).all() and (np.diag(norms) > 0).all()
    found = gradient_penalty(lambda rows: net.apply(params, rows), x)
    assert float(found) == pytest.approx(np.diag(norms).mean(), rel=1e-4)


def dirac(loss, gamma):
    """Return the velocity of the Dirac-GAN: data at 0, G(z) = theta, D(x) = psi x.

    Source: Mescheder, Geiger, Nowozin 2018, definition 2.1.
    """
    game = Game(
        generate=lambda theta, z: jnp.full_like(z, theta),
        discriminate=lambda psi, x: psi * x,
        loss=loss,
        gamma=gamma,
    )
    real = jnp.zeros(1)

    def velocity(state):
        theta, psi = state
        of_d = jax.grad(
            lambda p: discriminator_objective(game, p, real, jnp.full(1, theta))[0]
        )(psi)
        of_g = jax.grad(
            lambda t: generator_objective(
                game, {"generator": t, "discriminator": psi}, real, real
            )
        )(theta)
        return -jnp.stack([of_g, of_d])

    return velocity


def radii(velocity, start, rate, num_steps):
    def step(state, _):
        state = state + rate * velocity(state)
        return state, jnp.linalg.norm(state)

    _, found = jax.lax.scan(step, jnp.asarray(start), None, num_steps)
    return np.asarray(found)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", [(0.05, 0.0), (0.02, 0.05), (-0.08, 0.04)], ids=str)
def test_without_a_penalty_the_game_circles(loss, start):
    with jax.enable_x64(True):
        found = radii(dirac(loss, 0.0), start, 0.005, 1000)
    # Its linearization turns by 1/2 per unit of time: here two fifths of a turn.
    np.testing.assert_allclose(found, np.linalg.norm(start), rtol=0.01)


@pytest.mark.parametrize(
    ("loss", "gamma", "linear"),
    [
        # psi' = -theta/2 - gamma psi: of the eigenvalues the real part is -gamma / 2.
        ("non_saturating", 0.1, 0.05),
        ("non_saturating", 0.3, 0.15),
        # R1 and R2 are the same here, and add up.
        ("relativistic", 0.1, 0.1),
        ("relativistic", 0.2, 0.2),
    ],
)
def test_with_it_the_game_contracts_at_the_rate_of_its_linearization(
    loss, gamma, linear
):
    """Source: Mescheder et al. 2018, lemma D.2, with f'(0) = 1/2 and no factor 1/2."""
    decay = gamma * (2 if loss == "relativistic" else 1)
    with jax.enable_x64(True):
        slopes = np.asarray(jax.jacobian(dirac(loss, gamma))(jnp.zeros(2)))
        np.testing.assert_allclose(slopes, [[0, 0.5], [-0.5, -decay]], atol=1e-12)
        values = np.linalg.eigvals(slopes)
        assert values.real == pytest.approx([-linear, -linear])
        turn = 2 * math.pi / abs(values.imag[0])
        rate = turn / 2000
        found = radii(dirac(loss, gamma), (0.02, 0.0), rate, 6000)
    # After whole turns the linear game has shrunk by e^(-linear turn) each time.
    shrunk = np.log(found[1999::2000] / np.concatenate([[0.02], found[1999:-1:2000]]))
    np.testing.assert_allclose(shrunk / turn, -linear, rtol=0.02)
