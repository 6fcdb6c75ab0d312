"""What a latent model is given is checked before JAX fails at it: one line each."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.tasks.latent_model import LatentModel, Maps

KEY = jax.random.key(0)
ITEMS = np.zeros((2, 3), np.float32)


def model(dtype="float32", **maps):
    """A model of vectors [3] whose latents [2] are their first two numbers."""
    known = {
        "decode": lambda params, keys, z: jnp.pad(z, ((0, 0), (0, 1))),
        "encode": lambda params, x: x[:, :2],
        "likelihood": lambda params, keys, x, num: {"log_likelihood": num * x.sum(1)},
        "is_bound": True,
    }
    facts = {"item_shape": [3], "dtype": dtype}
    return LatentModel("toy", {}, Maps(**{**known, **maps}), (2,), facts)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("sample", (0, 4), "key is a int, and no random key; give jax.random.key(0)"),
        ("sample", (None, 4), "key is None, and no random key"),
        ("sample", (np.zeros(2, np.uint32), 4), "key is a ndarray, and no random key"),
        ("sample", (jax.random.split(KEY), 4), "key is [2] keys; give one"),
        ("sample", (KEY, 0), "num_items=0 is too small; use 1 or more"),
        ("sample", (KEY, -3), "num_items=-3 is too small; use 1 or more"),
        ("sample", (KEY, 2.5), "num_items=2.5 is not a whole number"),
        ("sample", (KEY, True), "num_items=True is not a whole number"),
        ("sample", (KEY, "4"), "num_items='4' is not a whole number"),
        ("sample", (KEY, 10**30), "num_items is out of range"),
        ("sample", (KEY, 4, -1), "first=-1 is too small; use 0 or more"),
        ("latents", (3, 4), "no random key"),
        ("latents", (KEY, 0), "num_items=0 is too small"),
        ("decode", (np.zeros((2, 3)),), "z is of shape [2, 3]; want [N, 2]"),
        ("decode", (np.zeros(2),), "z is of shape [2]; want [N, 2]"),
        ("decode", (None,), "z is None, of which no array of numbers can be made"),
        ("decode", ([[1, 2], [3]],), "z is a list, of which no array"),
        ("decode", ([["a", "b"]],), "z is a list, of which no array"),
        ("decode", (np.zeros((2, 2), bool),), "z is of type bool; want floating point"),
        ("decode", (np.zeros((2, 2)), 7), "no random key"),
        ("encode", (np.zeros(3),), "this model is of [3], and an axis for them"),
        ("encode", (3.0,), "this model is of [3]"),
        ("encode", (None,), "items is None, of which no array"),
        ("encode", (np.zeros((2, 3), np.int32),), "items are int32; want floating"),
        ("encode", (np.zeros((2, 3), np.uint8),), "items are uint8; want floating"),
        ("interpolate", (np.zeros((1, 2)), np.zeros((1, 2)), 1), "num_points=1 is too"),
        ("interpolate", (np.zeros((1, 2)), np.zeros((1, 2)), "3"), "num_points='3' is"),
        ("interpolate", (np.zeros((1, 2)), np.zeros((2, 2)), 3), "as many of each"),
        ("interpolate", (np.zeros((1, 2)), None, 3), "end is None"),
        ("log_likelihood", (0, ITEMS), "no random key"),
        ("log_likelihood", (KEY, ITEMS, 0), "num_samples=0 is too small"),
        ("log_likelihood", (KEY, ITEMS, "two"), "num_samples='two' is not a whole"),
        ("likelihood_terms", (KEY, ITEMS, 1, -1), "first=-1 is too small"),
        ("bits_per_dim", (KEY, ITEMS[:, :2]), "this model is of [3]"),
        ("store", (ITEMS[:, :2],), "items of shape [2, 2]; this model is of [3]"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(method, given, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        getattr(model(), method)(*given)
    assert "\n" not in str(caught.value)


def test_what_can_be_is_taken_as_before():
    made = model()
    many = made.sample(KEY, 5)
    for three in (3, np.int64(3), jnp.asarray(3)):
        np.testing.assert_array_equal(made.sample(KEY, three, 2), many[2:])
    from_two = jax.jit(lambda key, first: made.sample(key, 3, first))
    np.testing.assert_array_equal(from_two(KEY, 2), many[2:])
    np.testing.assert_array_equal(made.decode([[1, 2]]), [[1, 2, 0]])
    np.testing.assert_array_equal(made.log_likelihood(KEY, [[1.0, 2, 3]], 2), [12])
    assert made.encode(np.zeros((0, 3))).shape == (0, 2)


def test_bytes_are_of_a_model_of_bytes():
    made = model("uint8")
    white = made.encode(np.full((1, 3), 255, np.uint8))
    np.testing.assert_array_equal(white, [[1, 1]])
    with pytest.raises(UserError, match="items are int32; want uint8, or floating"):
        made.encode(np.zeros((1, 3), np.int32))
    white = np.ones((4, 2, 3), np.float32)  # walks
    np.testing.assert_array_equal(made.store(white), np.full((4, 2, 3), 255, np.uint8))
    with pytest.raises(UserError, match=r"items: .*(NaN|finite)"):
        made.store(np.full((1, 3), np.nan))
