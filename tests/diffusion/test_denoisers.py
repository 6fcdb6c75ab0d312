"""The seam to networks: what they are told, how their output is read, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.denoisers import clip_x0, from_network, split_output
from ddpm_jax.diffusion.preconditioning import edm
from ddpm_jax.diffusion.process import EPS, FLOW, X0, Prediction, V, add_noise

SCHEDULE = schedules.scale_time(schedules.from_betas(schedules.linear_betas(1000)), 0.5)


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("t", [7, [7, 300, 999]])
def test_network_is_told_the_time_of_each_row(t):
    """One level for all rows and a level for each both reach the network as [B]."""
    seen = {}

    def network(params, x_t, t, cond):
        seen.update(params=params, t=t, cond=cond)
        return jnp.zeros_like(x_t)

    denoise = from_network(network, "params", EPS)
    denoise(jnp.ones((3, 2, 2, 1)), SCHEDULE.at(jnp.array(t)), {"label": 5})
    expected = np.broadcast_to(np.array(t) * 0.5, 3)  # scaled by 0.5
    np.testing.assert_array_equal(seen["t"], expected)
    assert seen["t"].shape == (3,)  # assert_array_equal would broadcast
    assert (seen["params"], seen["cond"]) == ("params", {"label": 5})


@pytest.mark.parametrize("kind", [EPS, X0, V, FLOW, edm()], ids=lambda kind: kind.name)
def test_network_of_each_kind_is_read_as_what_it_predicts(kind):
    """A network that knows the answer gives back the x_0 and eps that were mixed."""
    level = SCHEDULE.at(jnp.array([20, 600]))
    x0, eps = normal(0, (2, 3, 3, 2)), normal(1, (2, 3, 3, 2))

    def network(params, x_t, t, cond):
        return kind.target(x0, eps, level)

    denoise = jax.jit(from_network(network, None, kind))
    prediction = denoise(add_noise(x0, eps, level), level)
    np.testing.assert_allclose(prediction.x0, x0, atol=1e-5)
    np.testing.assert_allclose(prediction.eps, eps, atol=1e-5)
    assert prediction.fraction is None


def test_output_of_twice_the_channels_is_split_in_halves():
    """w = -1, 0, 1 become 0, 1/2, 1: a last layer of zeros starts halfway."""
    output = jnp.array([[10.0, 20.0, 30.0, -1.0, 0.0, 1.0]])
    prediction, fraction = split_output(output, learns_variance=True)
    assert prediction.tolist() == [[10, 20, 30]]
    assert fraction.tolist() == [[0, 0.5, 1]]
    whole, none = split_output(output, learns_variance=False)
    assert whole is output and none is None
    level = SCHEDULE.at(jnp.array(100))
    x_t = jnp.zeros((1, 3))
    denoise = from_network(lambda *args: output, None, X0, learns_variance=True)
    said = denoise(x_t, level, None)
    assert said.x0.tolist() == [[10, 20, 30]]
    assert said.fraction.tolist() == [[0, 0.5, 1]]


def test_clipping_bounds_x0_and_keeps_the_equation():
    """x_t = alpha x_0 + sigma eps holds before and after; the fraction passes."""
    level = SCHEDULE.at(jnp.array([3, 500, 990]))
    inner = oracles.gaussian(np.zeros(8), np.full(8, 4.0))

    def with_fraction(x_t, level, cond):
        return inner(x_t, level, cond)._replace(fraction=x_t)

    x_t = 3 * normal(2, (3, 8))
    plain = inner(x_t, level)
    for low, high in ((-1.0, 1.0), (0.0, 0.5)):
        clipped = clip_x0(with_fraction, low, high)(x_t, level, None)
        np.testing.assert_array_equal(clipped.x0, np.clip(plain.x0, low, high))
        assert np.any(clipped.x0 != plain.x0)
        np.testing.assert_allclose(
            add_noise(clipped.x0, clipped.eps, level), x_t, atol=2e-6
        )
        np.testing.assert_array_equal(clipped.fraction, x_t)


def test_clipping_leaves_predictions_inside_the_range_alone():
    def inside(x_t, level, cond):
        return Prediction(jnp.full_like(x_t, 0.25), (x_t - level.alpha / 4))

    level = schedules.Level(jnp.float32(0), jnp.float32(0.8), jnp.float32(1.0))
    x_t = normal(3, (2, 5))
    said = clip_x0(inside)(x_t, level, None)
    np.testing.assert_array_equal(said.x0, np.full((2, 5), 0.25, np.float32))
    np.testing.assert_allclose(said.eps, x_t - 0.2, atol=1e-6)
