"""Random masks: each of the shape its name says, and drawn as evenly as it says."""

import jax
import numpy as np
import pytest

from ddpm_jax.conditioning import masks

SHAPE = (8, 12)
KEYS = jax.random.split(jax.random.key(2), 2000)


def drawn(kind, shape=SHAPE):
    """Many masks of a kind: what each hides, bool [N, H, W]."""
    made = np.asarray(jax.jit(jax.vmap(lambda key: kind(key, shape)))(KEYS))
    assert made.dtype == np.float32 and set(np.unique(made)) <= {0, 1}
    return made == 0


@pytest.mark.parametrize("shape", [SHAPE, (4, 4), (7, 5)])
def test_rectangles_are_rectangles_of_the_sizes_said_in_every_place(shape):
    hidden = drawn(masks.rectangle_mask, shape)
    for axis, size in ((2, shape[0]), (1, shape[1])):
        inside = hidden.any(axis=axis)  # [N, size]
        lengths = inside.sum(axis=1)
        assert set(lengths) == set(range(max(1, size // 4), 3 * size // 4 + 1))
        # A run has one beginning: what it covers is as long as from first to last.
        first, last = inside.argmax(axis=1), size - 1 - inside[:, ::-1].argmax(axis=1)
        np.testing.assert_array_equal(last - first + 1, lengths)
        assert first.min() == 0 and last.max() == size - 1
    rows, columns = hidden.any(axis=2), hidden.any(axis=1)
    np.testing.assert_array_equal(hidden, rows[:, :, None] & columns[:, None, :])


@pytest.mark.parametrize("shape", [SHAPE, (7, 5)])
def test_halves_are_the_four_halves_each_as_often(shape):
    hidden = drawn(masks.half_mask, shape)
    height, width = shape
    halves = []
    for cut in (np.s_[: height // 2], np.s_[height // 2 :]):
        halves.append(np.zeros(shape, bool))
        halves[-1][cut] = True
    for cut in (np.s_[:, : width // 2], np.s_[:, width // 2 :]):
        halves.append(np.zeros(shape, bool))
        halves[-1][cut] = True
    counts = [(hidden == half).all(axis=(1, 2)).sum() for half in halves]
    assert sum(counts) == 2000
    assert np.abs(np.asarray(counts) - 500).max() < 4 * (2000 * 3 / 16) ** 0.5


@pytest.mark.parametrize("shape", [(16, 24), (4, 4)])
def test_strokes_hide_one_connected_part(shape):
    hidden = drawn(masks.stroke_mask, shape)[:300]
    for mask in hidden:
        reached = np.zeros_like(mask)
        reached[tuple(np.argwhere(mask)[0])] = True
        for _ in range(mask.size):
            grown = np.pad(reached, 1)
            near = np.zeros_like(mask)
            for i in range(3):  # a diagonal neighbour is one too
                for j in range(3):
                    near |= grown[i : i + mask.shape[0], j : j + mask.shape[1]]
            near &= mask
            if (near == reached).all():
                break
            reached = near
        np.testing.assert_array_equal(reached, mask)
    share = hidden.mean(axis=(1, 2))
    assert share.min() > 0 and share.mean() < 0.5
    assert hidden.any(axis=0).all()  # every place is painted over at times


def test_a_stroke_is_what_lies_within_its_radius():
    """A piece of a line by hand: from (1, 1) to (1, 4), distances in pixels."""
    a, b = np.float32([1, 1]), np.float32([1, 4])
    distance = np.asarray(masks._distance(a, b, (3, 6)))
    root = 2**0.5
    expected = [
        [root, 1, 1, 1, 1, root],
        [1, 0, 0, 0, 0, 1],
        [root, 1, 1, 1, 1, root],
    ]
    np.testing.assert_allclose(distance, expected, rtol=1e-6)
    # Two ends in one place are a point.
    np.testing.assert_allclose(
        masks._distance(a, a, (2, 2)), [[root, 1], [1, 0]], rtol=1e-6
    )


def test_the_three_kinds_are_each_as_often():
    hidden = drawn(masks.random_mask)
    keys = jax.vmap(jax.random.split)(KEYS)  # which kind, and the mask itself
    of_kind = {
        kind: np.asarray(
            jax.jit(jax.vmap(lambda key, k=kind: k(key, SHAPE)))(keys[:, 1])
        )
        == 0
        for kind in (masks.rectangle_mask, masks.half_mask, masks.stroke_mask)
    }
    matches = np.stack([(hidden == made).all(axis=(1, 2)) for made in of_kind.values()])
    assert matches.any(axis=0).all()
    # A half can be a rectangle too; a bound with room for the few that are both.
    assert np.abs(matches.sum(axis=1) - 2000 / 3).max() < 4 * (2000 * 2 / 9) ** 0.5 + 10
    assert (hidden.any(axis=(1, 2)) & ~hidden.all(axis=(1, 2))).all()
