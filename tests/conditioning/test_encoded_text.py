"""Finding equal captions, and the way from one prompt to another."""

import jax
import numpy as np
import pytest

from ddpm_jax.conditioning import Encoded, Tokens
from ddpm_jax.conditioning.encoded_text import distinct, interpolate
from ddpm_jax.errors import UserError


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def prompt(seed, length, *, unit=True):
    """One prompt of some tokens, of 5 that fit."""
    mask = np.arange(5)[None] < length
    pooled = draw(seed + 1, 1, 4)
    if unit:
        pooled /= np.linalg.norm(pooled)
    return Encoded(draw(seed, 1, 5, 3) * mask[..., None], mask, pooled)


def test_distinct_texts_and_their_places():
    listed, places = distinct(["b", "a", "b", "c", "a"])
    assert listed == ["b", "a", "c"]
    np.testing.assert_array_equal(places, [0, 1, 0, 2, 1])


@pytest.mark.parametrize("unit", [True, False])
def test_the_ends_are_the_prompts_exactly(unit):
    a, b = prompt(0, 2, unit=unit), prompt(5, 4, unit=unit)
    way = interpolate(a, b, [0.0, 1.0, 0.0])
    for place, end in enumerate((a, b, a)):
        for leaf, expected in zip(way, end, strict=True):
            np.testing.assert_array_equal(leaf[place], expected[0])


def test_between_places_fade_and_the_mask_is_the_union():
    a, b = prompt(0, 2), prompt(5, 4)
    way = interpolate(a, b, [0.25])
    np.testing.assert_array_equal(way.mask, b.mask)  # the longer one's, and so is
    np.testing.assert_array_equal(interpolate(b, a, [0.25]).mask, b.mask)  # this
    np.testing.assert_allclose(way.sequence[0, 2:4], b.sequence[0, 2:4] / 4)
    np.testing.assert_allclose(
        way.sequence[0, :2], (3 * a.sequence + b.sequence)[0, :2] / 4, rtol=1e-6
    )
    assert not way.sequence[0, 4].any()


def test_unit_vectors_turn_at_constant_speed():
    """A third of the way is a third of the angle, in the plane of the two."""
    a, b = prompt(0, 2), prompt(5, 2)
    weights = np.linspace(0, 1, 4)
    way = interpolate(a, b, weights).pooled.astype(np.float64)
    angle = np.arccos(np.vdot(a.pooled, b.pooled))
    assert 0.5 < angle < 2.6
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        np.arccos(np.clip(way @ a.pooled[0], -1, 1)), weights * angle, atol=1e-3
    )
    np.testing.assert_allclose(
        np.arccos(np.clip(way @ b.pooled[0], -1, 1)), weights[::-1] * angle, atol=1e-3
    )


def test_a_right_angle_by_hand():
    mask, sequence = np.ones((1, 1), bool), np.zeros((1, 1, 1), np.float32)
    a, b = (
        Encoded(sequence, mask, np.array([v], np.float32)) for v in ([1, 0], [0, 1])
    )
    half = interpolate(a, b, [0.5]).pooled
    np.testing.assert_allclose(half, [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_other_vectors_go_straight_and_equal_ones_stay():
    a, b = prompt(0, 2, unit=False), prompt(5, 2, unit=False)
    way = interpolate(a, b, [0.3])
    np.testing.assert_allclose(way.pooled, 0.7 * a.pooled + 0.3 * b.pooled, rtol=1e-5)
    same = prompt(0, 2)
    for leaf, expected in zip(interpolate(same, same, [0.3]), same, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)


def test_what_cannot_be_mixed_is_refused():
    a, b = prompt(0, 2), prompt(5, 2)
    with pytest.raises(UserError, match="from 0 to 1"):
        interpolate(a, b, [0.5, 1.5])
    two = Encoded(*(np.concatenate([leaf, leaf]) for leaf in b))
    for pair in [(a, two), (two, two), (a, Encoded(b.sequence[:, :3], *b[1:]))]:
        with pytest.raises(UserError, match="cannot be mixed"):
            interpolate(*pair, [0.5])


def test_they_are_trees_of_arrays():
    tokens = Tokens(np.arange(6).reshape(3, 2), np.ones((3, 2), bool))
    rows = jax.tree.map(lambda leaf: leaf[np.array([2, 0])], tokens)
    assert isinstance(rows, Tokens)
    np.testing.assert_array_equal(rows.ids, [[4, 5], [0, 1]])
