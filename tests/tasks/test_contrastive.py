"""The contrastive loss: where it is known, and where texts repeat."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.conditioning import Encoded, Tokens
from ddpm_jax.tasks.contrastive import (
    contrastive_loss,
    make_contrastive_objective,
    same_rows,
)

B, D = 6, 8
ALL_DIFFER = jnp.eye(B, dtype=bool)


def vectors(seed):
    drawn = jax.random.normal(jax.random.key(seed), (B, D))
    return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)


def test_it_is_two_cross_entropies_with_the_own_place_as_the_label():
    images, texts, scale = vectors(0), vectors(1), jnp.array(7.0)
    logits, labels = scale * images @ texts.T, jnp.arange(B)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    expected = (entropy(logits, labels).mean() + entropy(logits.T, labels).mean()) / 2
    loss = contrastive_loss(images, texts, scale, ALL_DIFFER)
    assert loss == pytest.approx(float(expected), rel=1e-6)


def test_it_is_log_b_where_nothing_is_told_apart_and_0_where_all_is():
    alike = jnp.ones((B, D)) / np.sqrt(D)
    loss = contrastive_loss(alike, alike, jnp.array(9.0), ALL_DIFFER)
    assert loss == pytest.approx(np.log(B), rel=1e-6)
    apart = jnp.eye(B)
    loss = contrastive_loss(apart, apart, jnp.array(100.0), ALL_DIFFER)
    assert loss == pytest.approx(0.0, abs=1e-6)


def test_places_of_one_text_share_the_target():
    """Where three rows have one text the best is log 3 for each, and not to choose."""
    same = same_rows(jnp.array([[1, 2], [1, 2], [1, 2], [3, 4], [5, 6], [7, 8]]))
    assert same.sum(axis=1).tolist() == [3, 3, 3, 1, 1, 1]
    apart = jnp.eye(B)[jnp.array([0, 0, 0, 3, 4, 5])]
    best = contrastive_loss(apart, apart, jnp.array(100.0), same)
    assert best == pytest.approx(3 * np.log(3) / B, rel=1e-5)
    chosen = contrastive_loss(jnp.eye(B), jnp.eye(B), jnp.array(100.0), same)
    assert chosen > best


@pytest.mark.parametrize("encoded", [False, True])
def test_the_objective_knows_equal_texts_however_they_come(encoded):
    """Rows 0 and 1 have the same text: with their vectors swapped all is right."""
    ids = jnp.array([[1, 2], [1, 2], [3, 0]])
    text = Tokens(ids, ids > 0)
    if encoded:
        text = Encoded(jnp.zeros((3, 2, 4)), ids > 0, ids.astype(jnp.float32))

    def network(params, images, text):
        del params, images, text
        return jnp.eye(3), jnp.eye(3)[jnp.array([1, 0, 2])], jnp.array(100.0)

    objective = make_contrastive_objective(network, max_shift=0, flip=False)
    batch = {"image": jnp.zeros((3, 4, 4, 1), jnp.uint8), "text": text}
    _, (metrics, _) = objective(None, jax.random.key(0), batch, None)
    assert metrics["accuracy"] == 1.0
