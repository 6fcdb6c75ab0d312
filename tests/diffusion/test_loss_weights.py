"""Weights by SNR: the papers' formulas, one weight in three outputs, finite ends.

Every expected number is float64 NumPy from the formulas as the papers print them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import loss_weights, losses, process, schedules
from ddpm_jax.diffusion.preconditioning import edm
from ddpm_jax.diffusion.process import EPS, FLOW, X0, V
from ddpm_jax.diffusion.schedules import Level, from_betas

BETAS = schedules.cosine_betas(1000)
KINDS = [EPS, X0, V, FLOW, edm(0.3)]
INDEX = np.array([0, 1, 30, 250, 499, 500, 501, 750, 990, 998])

# The weight of the squared x0-error as a function of SNR: Salimans and Ho 2022; Hang et
# al. 2023 with gamma = 5, Choi et al. 2022 with k = gamma = 1.
ON_X0 = {
    "even": (loss_weights.even, lambda snr: snr),
    "truncated": (loss_weights.truncated_snr, lambda snr: np.maximum(snr, 1)),
    "min-5": (loss_weights.min_snr(), lambda snr: np.minimum(snr, 5)),
    "min-1": (loss_weights.min_snr(1.0), lambda snr: np.minimum(snr, 1)),
    "p2": (loss_weights.p2(), lambda snr: snr / (1 + snr)),
    "sigmoid": (
        loss_weights.sigmoid_snr(-1.5),
        lambda snr: snr / (1 + np.exp(np.log(snr) + 1.5)),  # Hoogeboom et al. 2024
    ),
    # Li and He 2025: |v error| = |x0 error| / max(r, 0.05), r the share of noise.
    "velocity": (
        loss_weights.velocity(),
        lambda snr: 1 / np.maximum(1 / (1 + np.sqrt(snr)), 0.05) ** 2,
    ),
    "p2-half": (loss_weights.p2(0.1, 0.5), lambda snr: snr / (0.1 + snr) ** 0.5),
}


def noised(betas, index, dims=3):
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, len(index), dims)).astype(np.float32)
    schedule = from_betas(betas)
    t, s = schedule.at(jnp.asarray(index)), schedule.at(jnp.asarray(index) - 1)
    x_t = process.add_noise(x0, eps, t)
    return losses.Noised(x0, eps, x_t, t, s, jnp.asarray(index))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ON_X0)
def test_the_weight_is_that_of_the_paper_whatever_the_network_predicts(name, kind):
    """An output that errs by one everywhere: the x0-error is then sigma / alpha (eps),
    1 (x0), sigma (v), sigma / (alpha + sigma) (flow) or c_out (edm), and the loss its
    square times the paper's weight."""
    weight, on_x0 = ON_X0[name]
    draw = noised(BETAS, INDEX)
    output = kind.target(draw.x0, draw.eps, draw.t) + 1.0
    loss = jax.jit(loss_weights.snr_weighted_loss(kind, weight))(output, draw)
    bar = oracles.alpha_bars(BETAS)[INDEX + 1]
    snr = bar / (1 - bar)
    error = {
        "eps": 1 / snr,
        "x0": 1.0,
        "v": 1 - bar,
        "flow": 1 / (1 + np.sqrt(snr)) ** 2,
        "edm": 0.3**2 / snr / (1 / snr + 0.3**2),  # of r^2 = 1 / SNR
    }[kind.name]
    np.testing.assert_allclose(loss, on_x0(snr) * error, rtol=5e-5)


@pytest.mark.parametrize("name", ON_X0)
def test_the_outputs_of_one_prediction_have_one_loss(name):
    draw = noised(BETAS, np.array([100, 400, 600, 900]))
    x0 = draw.x0 + 0.1 * draw.eps[::-1]  # what three networks may agree on
    eps = process.eps_from_x0(x0, draw.x_t, draw.t)
    weight, _ = ON_X0[name]
    values = [
        loss_weights.snr_weighted_loss(kind, weight)(kind.target(x0, eps, draw.t), draw)
        for kind in KINDS
    ]
    for value in values[1:]:
        np.testing.assert_allclose(value, values[0], rtol=1e-3)


def test_an_even_weight_on_eps_is_the_simple_loss():
    draw = noised(BETAS, INDEX)
    output = draw.x_t**2
    even = loss_weights.snr_weighted_loss(EPS, loss_weights.even)(output, draw)
    np.testing.assert_array_equal(even, losses.simple_loss(EPS)(output, draw))


def test_the_velocity_of_a_predicted_x0_on_the_straight_path():
    """(x_t - x0) / max(sigma, floor), of the true x0 and of the predicted one."""
    straight = schedules.Straight(100).build()
    index = jnp.asarray([0, 2, 5, 40, 98])  # sigma = 0.01, 0.03, 0.06, 0.41, 0.99
    rng = np.random.default_rng(1)
    x0, eps, output = rng.standard_normal((3, 5, 7))
    level = straight.at(index)
    sigma = np.asarray(index + 1)[:, None] / 100
    x_t = (1 - sigma) * x0 + sigma * eps
    draw = losses.Noised(
        *map(jnp.float32, (x0, eps, x_t)), level, straight.at(index - 1), index
    )
    below = np.maximum(sigma, 0.05)
    expected = np.mean(((x_t - x0) / below - (x_t - output) / below) ** 2, axis=1)
    loss = loss_weights.snr_weighted_loss(X0, loss_weights.velocity(0.05))
    np.testing.assert_allclose(loss(jnp.float32(output), draw), expected, rtol=1e-4)


def test_the_velocity_without_a_floor_is_what_flow_matching_minimizes():
    draw = noised(BETAS, INDEX)
    output = draw.x_t**2
    loss = loss_weights.snr_weighted_loss(FLOW, loss_weights.velocity(0.0))
    simple = losses.simple_loss(FLOW)(output, draw)
    np.testing.assert_allclose(loss(output, draw), simple, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "at_noise", "at_data"),
    [
        ("truncated", (1, 1), (np.inf, 1)),
        ("min-5", (0, 0), (5, 0)),
        ("p2", (0, 0), (1, 0)),
        ("velocity", (1, 1), (400, 0)),
    ],
)
def test_weights_at_both_ends_are_the_limits_of_the_formulas(name, at_noise, at_data):
    """(x0, v) at SNR = 0 and at SNR = infinity, with an error of one in the output: the
    x0-weight times 1, and times sigma^2. Truncated SNR has no finite limit in x0."""
    weight, _ = ON_X0[name]
    level = Level(jnp.zeros(2), jnp.float32([0, 1]), jnp.float32([1, 0]))
    x0 = eps = jnp.ones((2, 3))
    draw = losses.Noised(x0, eps, x0, level, level, jnp.zeros(2))
    for kind, noise, data in zip((X0, V), at_noise, at_data, strict=True):

        def loss(output, kind=kind):
            return loss_weights.snr_weighted_loss(kind, weight)(output, draw)

        output = kind.target(x0, eps, level) + 1.0
        value = loss(output)
        assert np.isfinite(value).all()
        # The logarithm of an SNR of e^80 has a rounding error of 4e-6.
        assert value[0] == pytest.approx(noise, rel=1e-5, abs=1e-30)
        assert value[1] == pytest.approx(data, rel=1e-5, abs=1e-30) or value[1] > 1e34
        assert np.isfinite(jax.grad(lambda o: jnp.sum(loss(o)[:1]))(output)).all()


def test_truncated_snr_is_the_larger_of_two_errors():
    """max(|x0 - x0_hat|^2, |eps - eps_hat|^2), as Salimans and Ho first write it."""
    draw = noised(BETAS, INDEX)
    v = process.v_from_x0_eps(draw.x0, draw.eps, draw.t) + 0.3
    x0, eps = V.predict(v, draw.x_t, draw.t)[:2]
    errors = [np.mean((a - b) ** 2, -1) for a, b in ((x0, draw.x0), (eps, draw.eps))]
    loss = loss_weights.snr_weighted_loss(V, loss_weights.truncated_snr)(v, draw)
    np.testing.assert_allclose(loss, np.maximum(*errors), rtol=2e-3)
