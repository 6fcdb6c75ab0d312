import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.accuracy import class_accuracy
from ddpm_jax.evaluation.inception_score import inception_score


def test_sure_and_evenly_spread_is_the_number_of_classes():
    logits = np.tile(1e4 * np.eye(5), (8, 1))  # exp would overflow
    found = inception_score(logits, splits=4)
    np.testing.assert_allclose(found, (5.0, 0.0), atol=1e-12)


@pytest.mark.parametrize("row", [[0.0, 0, 0], [9.0, -2, 0]])
def test_the_same_answer_to_all_is_one(row):
    np.testing.assert_allclose(inception_score(np.tile(row, (20, 1)))[0], 1.0)


def test_two_answers_by_hand():
    p = np.array([[0.9, 0.1], [0.4, 0.6]])
    marginal = p.mean(0)
    divergence = (p * np.log(p / marginal)).sum(1)
    logits = np.log(p) + 7.0
    found = inception_score(logits, splits=1)
    np.testing.assert_allclose(found.value, np.exp(divergence.mean()))
    assert found.standard_error is None


def test_splits_are_consecutive_and_cover_all():
    """Six of one answer, then four of the other: in halves, 1 and that of 1 and 4."""
    logits = np.repeat(50 * np.eye(2), [6, 5], axis=0)
    mixed = np.exp(0.2 * np.log(5) + 0.8 * np.log(5 / 4))
    found = inception_score(logits[:10], splits=2)
    np.testing.assert_allclose(found.value, (1 + mixed) / 2)
    np.testing.assert_allclose(found.standard_error, (mixed - 1) / 2)
    assert inception_score(logits, splits=1).value > 1.9
    with pytest.raises(UserError, match="no 20 splits"):
        inception_score(logits, splits=20)


def test_accuracy_and_its_error():
    logits = np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3, 0, 0]]
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3, 1, 2])
    found = class_accuracy(logits, labels)
    np.testing.assert_allclose(found, (0.8, (0.8 * 0.2 / 10) ** 0.5))
    with pytest.raises(UserError, match="has 0 to 3"):
        class_accuracy(logits, labels + 1)
    with pytest.raises(UserError, match="one label for each"):
        class_accuracy(logits, labels[:3])
