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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_left_out_is_in_neither_softmax(seed):
    """By NumPy in float64, a term for each image and each text, texts repeating."""
    rng = np.random.default_rng(seed)
    same = np.asarray(same_rows(jnp.asarray(rng.integers(4, size=(B, 1)))))
    left_out = ~same & (rng.random((B, B)) < 0.4)
    images, texts, scale = vectors(seed), vectors(seed + 10), 5.0
    logits = scale * np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T
    total = 0.0
    for i in range(B):
        for row, kept, right in (
            (logits[i], ~left_out[i], same[i]),
            (logits[:, i], ~left_out[:, i], same[:, i]),
        ):
            log_sum = np.log(np.exp(row[kept]).sum())
            total += np.mean([log_sum - row[j] for j in np.flatnonzero(right)])
    loss = contrastive_loss(
        images, texts, jnp.array(scale), jnp.asarray(same), jnp.asarray(left_out)
    )
    assert loss == pytest.approx(total / (2 * B), rel=1e-5)
    plain = contrastive_loss(images, texts, jnp.array(scale), jnp.asarray(same))
    assert loss < plain  # fewer that are taken for wrong
    gradient = jax.grad(contrastive_loss, argnums=(0, 1))(
        images, texts, jnp.array(100.0), jnp.asarray(same), jnp.asarray(left_out)
    )
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)


def test_the_objective_leaves_out_what_the_rule_says_is_true():
    """Text 1 is true of image 0 as well, and nearer to it than its own."""
    ids = jnp.arange(3)[:, None]
    facts = jnp.array([[0], [1], [2]], jnp.int8)

    def holds(images, captions):
        own = images == captions.T
        return own | ((images == 0) & (captions.T == 1))

    def network(params, images, text):
        del params, images, text
        images, texts = jnp.eye(3), jnp.eye(3).at[0, 1].set(0.5).at[1, 0].set(2.0)
        return images, texts, jnp.array(3.0)

    batch = {
        "image": jnp.zeros((3, 4, 4, 1), jnp.uint8),
        "text": Tokens(ids, ids >= 0),
        "facts": facts,
    }

    def run(holds):
        objective = make_contrastive_objective(
            network, max_shift=0, flip=False, holds=holds
        )
        return objective(None, jax.random.key(0), batch, None)[1][0]

    ruled, plain = run(holds), run(None)
    assert ruled["accuracy"] == 1.0 and plain["accuracy"] == pytest.approx(2 / 3)
    assert ruled["loss"] < plain["loss"] - 0.3


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
