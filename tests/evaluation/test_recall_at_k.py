"""How often a text is found again: against counting every choice of others."""

import itertools

import numpy as np
import pytest
from scipy.stats import hypergeom

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.recall_at_k import num_ranked_higher, recall_at_k


def directions(*degrees):
    angles = np.deg2rad(np.array(degrees, float))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_texts_nearer_than_the_own_are_counted_and_equals_with_them():
    texts = directions(0, 30, 60, 60.0, 90)
    images = directions(0, 50, 88)
    # From 50 degrees: 60, 60 and 30 are nearer than 90; from 88: 90 is its own.
    assert num_ranked_higher(images, texts, np.array([0, 4, 4])).tolist() == [0, 3, 0]
    # The two at 60 are as near as each other, and neither is found first.
    assert num_ranked_higher(directions(60, 60), texts, np.array([2, 3])).tolist() == [
        1,
        1,
    ]


def test_a_network_that_maps_all_alike_finds_nothing():
    alike = np.ones((120, 4)) / 2
    before = num_ranked_higher(alike, alike, np.arange(120))
    assert recall_at_k(before, 120).value == 0.0


def test_the_chance_is_that_over_all_choices_of_the_others():
    """Six texts, three shown: every pair of others, counted one by one."""
    num_texts, among, first = 6, 3, 2
    for before in range(num_texts):
        nearer = set(range(before))  # of the five others
        choices = list(itertools.combinations(range(num_texts - 1), among - 1))
        hits = [len(nearer & set(others)) < first for others in choices]
        found = recall_at_k(np.array([before]), num_texts, k=first, among=among)
        assert found.value == pytest.approx(np.mean(hits), abs=1e-15)


def test_it_agrees_with_the_hypergeometric_law():
    before = np.arange(190)
    for number in before:
        found = recall_at_k(np.array([number]), 190)
        expected = hypergeom.cdf(4, 189, number, 99)
        assert found.value == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_guesses_reach_five_of_a_hundred():
    """Every rank is as likely: then five of a hundred, whatever they are drawn from."""
    for num_texts in (100, 190, 1715):
        found = recall_at_k(np.arange(num_texts), num_texts)
        assert found.value == pytest.approx(0.05, abs=1e-12)


def test_the_error_is_that_of_a_mean():
    found = recall_at_k(np.array([0, 0, 0, 99]), 100)
    assert found.value == pytest.approx(0.75)
    assert found.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 4))


def test_too_few_texts_are_refused():
    with pytest.raises(UserError, match="R@5 among 100 cannot be computed with 99"):
        recall_at_k(np.zeros(4, int), 99)
    with pytest.raises(UserError, match="give 6 or more"):
        recall_at_k(np.zeros(4, int), 5, among=5)


def test_vectors_that_are_not_finite_are_refused():
    broken = directions(0, 30)
    broken[1, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        num_ranked_higher(broken, directions(0, 30), np.arange(2))
