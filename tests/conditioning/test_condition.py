"""What is told, and what "nothing" is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.conditioning.condition import hide, silence, tell
from ddpm_jax.conditioning.text import Encoded, Tokens

NUM, CLASSES, SHARE = 2000, 7, 0.2


def rows(kind):
    """Labels and texts of NUM rows, none of which says nothing."""
    rng = np.random.default_rng(0)
    mask = np.arange(5) < rng.integers(1, 6, NUM)[:, None]
    ids = rng.integers(1, 9, (NUM, 5)) * mask
    label = rng.integers(0, CLASSES, NUM).astype(np.int32)
    if kind is Tokens:
        return {"label": label, "text": Tokens(ids.astype(np.int32), mask)}
    sequence = rng.normal(size=(NUM, 5, 3)).astype(np.float32) * mask[..., None]
    pooled = rng.normal(size=(NUM, 2)).astype(np.float32)
    return {"label": label, "text": Encoded(sequence, mask, pooled)}


@pytest.mark.parametrize("kind", [Tokens, Encoded])
def test_a_row_is_told_all_or_nothing_at_the_rate_asked_for(kind):
    told = rows(kind)
    found = jax.tree.map(
        np.asarray,
        jax.jit(lambda told: hide(jax.random.key(0), told, SHARE, silence(CLASSES)))(
            told
        ),
    )
    gone = found["label"] == CLASSES
    assert abs(gone.sum() - SHARE * NUM) < 4 * np.sqrt(NUM * SHARE * (1 - SHARE))
    np.testing.assert_array_equal(~found["text"].mask.any(axis=1), gone)
    for leaf, before in zip(jax.tree.leaves(found), jax.tree.leaves(told), strict=True):
        np.testing.assert_array_equal(leaf[~gone], before[~gone])
    for leaf in found["text"]:
        assert not leaf[gone].any()


def test_a_model_of_classes_draws_what_it_drew_before_there_were_texts():
    """Algorithm 1 of Ho and Salimans with one coin per row, written out."""
    label = jnp.asarray(rows(Tokens)["label"])
    key = jax.random.key(3)
    told = tell(silence(CLASSES), SHARE)(key, {"label": label, "image": None}, None)
    coin = jax.random.bernoulli(key, SHARE, (NUM,))
    np.testing.assert_array_equal(told["label"], jnp.where(coin, CLASSES, label))
    assert set(told) == {"label"}


def test_a_negative_prompt_stands_where_nothing_stood():
    told = rows(Encoded)
    told["negative"] = jax.tree.map(lambda leaf: leaf[::-1].copy(), told["text"])
    told["picture"] = np.ones((NUM, 2, 2, 1))
    silent = silence(CLASSES)(told)
    for leaf, other in zip(silent["text"], told["text"], strict=True):
        np.testing.assert_array_equal(leaf, other[::-1])
    np.testing.assert_array_equal(silent["picture"], told["picture"])  # never taken
    assert (silent["label"] == CLASSES).all()
