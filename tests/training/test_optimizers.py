"""Optimizers against their equations, computed in float64 with NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.training.optimizers import Adam, AdamW

GRADIENTS = np.random.default_rng(0).normal(size=(5, 3))
RATES = np.array([0.1, 0.2, 0.05, 0.3, 0.1])


def by_hand(b1, b2, eps, weight_decay=0.0):
    """Follow Kingma and Ba 2015, Algorithm 1, with decay as Loshchilov and Hutter."""
    x, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for k, (g, rate) in enumerate(zip(GRADIENTS, RATES, strict=True), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        step = m / (1 - b1**k) / (np.sqrt(v / (1 - b2**k)) + eps)
        x = x - rate * (step + weight_decay * x)
    return x


def followed(spec):
    made = spec.build(lambda step: jnp.asarray(RATES, jnp.float32)[step])
    x = jnp.ones(3)
    state = made.init(x)
    for gradient in GRADIENTS:
        update, state = made.update(jnp.asarray(gradient, jnp.float32), state, x)
        x = x + update
    return x


def test_adam():
    spec = Adam(b1=0.8, b2=0.95, eps=1e-3)
    np.testing.assert_allclose(followed(spec), by_hand(0.8, 0.95, 1e-3), rtol=1e-5)


def test_adamw_takes_a_share_of_the_parameters_off():
    spec = AdamW(0.5, 0.9, 1e-6, weight_decay=0.25)
    wanted = by_hand(0.5, 0.9, 1e-6, 0.25)
    np.testing.assert_allclose(followed(spec), wanted, rtol=1e-5)
    assert np.abs(wanted - by_hand(0.5, 0.9, 1e-6)).max() > 0.05


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"b1": 1.0}, r"b1=1.0 is not in \[0, 1\)"),
        ({"b2": -0.1}, r"b2=-0.1 is not in \[0, 1\)"),
        ({"eps": 0.0}, "eps=0.0 must be positive and finite; the paper's is 1e-8"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 is too small; use 0 or more"),
        ({"weight_decay": float("inf")}, "weight_decay=inf is not finite"),
    ],
)
def test_numbers_that_no_adam_has(fields, message):
    with pytest.raises(UserError, match=message):
        AdamW(**fields)
