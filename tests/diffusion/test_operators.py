"""Degradations, against the matrices they stand for and NumPy's pseudo-inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.operators import average_pool, grey_operator, mask_operator
from ddpm_jax.errors import UserError

SHAPE = (4, 6, 3)
MASK = (np.random.default_rng(0).random(SHAPE) < 0.4).astype(np.float32)


def pooling(factor, size):
    """The matrix of a mean over neighbours on a line."""
    return np.kron(np.eye(size // factor), np.full((1, factor), 1 / factor))


EXPECTED = {
    "mask": np.diag(MASK.ravel()),
    "grey": np.kron(np.eye(24), np.full((1, 3), 1 / 3)),
    "luma": np.kron(np.eye(24), [[0.299, 0.587, 0.114]]),
    "pool": np.kron(np.kron(pooling(2, 4), pooling(2, 6)), np.eye(3)),
    "last": np.kron(np.eye(24), pooling(3, 3)),
}
OPERATORS = {
    "mask": mask_operator(MASK),
    "grey": grey_operator(3),
    "luma": grey_operator(3, (0.299, 0.587, 0.114)),
    "pool": average_pool(2),
    "last": average_pool(3, axes=(-1,)),
}


def matrix_of(function, shape):
    """The matrix of a linear map, column by column, all columns as one batch."""
    size = int(np.prod(shape))
    columns = jax.jit(function)(jnp.eye(size).reshape(size, *shape))
    return np.asarray(columns, np.float64).reshape(size, -1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_the_map_and_its_pseudo_inverse(name):
    operator, expected = OPERATORS[name], EXPECTED[name]
    np.testing.assert_allclose(matrix_of(operator.apply, SHAPE), expected, atol=1e-6)
    measured = operator.apply(jnp.zeros((1, *SHAPE))).shape[1:]
    np.testing.assert_allclose(
        matrix_of(operator.pinv, measured), np.linalg.pinv(expected), atol=1e-6
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_leading_axes_are_free(name):
    x = np.random.default_rng(1).normal(size=(2, 5, *SHAPE)).astype(np.float32)
    operator = OPERATORS[name]
    rows = [operator.pinv(operator.apply(jnp.asarray(row))) for row in x]
    np.testing.assert_allclose(operator.pinv(operator.apply(x)), rows, atol=1e-6)


def test_what_a_mask_hides_cannot_spoil_it():
    x = jnp.array([1.0, jnp.nan, jnp.inf])
    assert mask_operator(jnp.array([1, 0, 0])).apply(x).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grey_operator(3, (0.5, 0.5)), "for 3 channels; give 3 numbers"),
        (lambda: grey_operator(2, (0, 0)), "not all zero"),
        (lambda: average_pool(0), "factor=0"),
        (lambda: average_pool(2, axes=(1, 2)), "axes counted from the last"),
        (lambda: average_pool(4).apply(jnp.zeros((1, 8, 6, 1))), "an axis of 6 is no"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
