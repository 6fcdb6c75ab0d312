"""Neighbours and balls against an exhaustive search in NumPy, and by hand."""

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import precision_recall as precision_recall_module
from ddpm_jax.evaluation.precision_recall import (
    density_coverage,
    nearest,
    precision_recall,
)


def distances(a, b):
    return np.sqrt(((a[:, None].astype(float) - b[None]) ** 2).sum(-1))


def by_hand(real, fake, k):
    """All four scores, by their definitions."""
    radius = {
        name: np.sort(distances(x, x), axis=1)[:, k]
        for name, x in (("real", real), ("fake", fake))
    }
    across = distances(real, fake)
    in_real = across <= radius["real"][:, None]
    in_fake = across <= radius["fake"][None]
    return (
        in_real.any(0).mean(),
        in_fake.any(1).mean(),
        in_real.sum(0).mean() / k,
        in_real.any(1).mean(),
    )


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((150, 3)).astype(np.float32),
        (0.8 * rng.standard_normal((130, 3)) + 0.7).astype(np.float32),
    )


@pytest.mark.parametrize("block", [512, 40])
def test_scores_are_their_definitions_in_one_block_or_several(
    clouds, monkeypatch, block
):
    monkeypatch.setattr(precision_recall_module, "_BLOCK", block)
    found = (*precision_recall(*clouds, k=3), *density_coverage(*clouds, k=3))
    np.testing.assert_allclose(found, by_hand(*clouds, 3), rtol=1e-12)


def test_points_on_a_line_by_hand():
    """Balls of 0, 1, 2, 10 with k = 1 have radii 1, 1, 1, 8."""
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    fake = np.array([[2.5], [-1.5], [30.0], [31.0], [1.5]])
    # 2.5 lies in the balls of 2 and 10, 1.5 in those of 1 and 2; the others in none.
    precision, recall = precision_recall(real, fake, k=1)
    assert precision == 2 / 5
    # Balls of the fake: 2.5 +- 1, -1.5 +- 3, 30 +- 1, 31 +- 1, 1.5 +- 1.
    assert recall == 3 / 4  # 0, 1 and 2, but not 10
    density, coverage = density_coverage(real, fake, k=1)
    assert density == 4 / 5
    assert coverage == 3 / 4  # of 1, 2 and 10: the ball of 0 ends at 1


def test_a_set_covers_itself_also_with_equal_images(clouds):
    real = np.concatenate([clouds[0], clouds[0][:40]])
    assert precision_recall(real, real) == (1.0, 1.0)
    assert density_coverage(real, real).coverage == 1.0


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("size", [3, 2048])
def test_copies_lie_on_the_spheres_they_are_copies_of(monkeypatch, size, offset):
    """Each score by an exhaustive search, where many a distance is a radius exactly.

    Half of the samples are copies of data and some are drawn twice; the data are two
    clusters, so that the two sets have centres far apart. Blocks of several sizes round
    one distance in several ways.
    """
    monkeypatch.setattr(precision_recall_module, "_BLOCK", 7)
    rng = np.random.default_rng(3)
    real = rng.standard_normal((120, size)).astype(np.float32)
    real[60:] += np.float32(1000.0)
    fake = np.concatenate([real[:40], real[10:20], real[:30] + np.float32(0.3)])
    real, fake = real + np.float32(offset), fake + np.float32(offset)
    # Differences of float32 are exact in float64: these distances have no other error.
    found = (*precision_recall(real, fake, k=3), *density_coverage(real, fake, k=3))
    np.testing.assert_allclose(found, by_hand(real, fake, 3), rtol=1e-12)


@pytest.mark.parametrize("score", [precision_recall, density_coverage, nearest])
def test_features_that_are_not_finite_are_refused(clouds, score):
    broken = clouds[1].copy()
    broken[7, 0] = np.nan
    for pair in ((clouds[0], broken), (broken, clouds[0])):
        with pytest.raises(UserError, match=r"1 of 130 images .* image 7;"):
            score(*pair, k=3)


def test_sets_far_apart_share_nothing(clouds):
    assert precision_recall(clouds[0], clouds[1] + 100) == (0.0, 0.0)
    assert density_coverage(clouds[0], clouds[1] + 100) == (0.0, 0.0)


def test_the_density_of_the_same_law_is_one():
    rng = np.random.default_rng(1)
    found = [density_coverage(*rng.standard_normal((2, 300, 2))) for _ in range(10)]
    density = np.array([one.density for one in found])
    assert abs(density.mean() - 1) < 4 * density.std() / 10**0.5
    # A ball of the k-th of N neighbors misses N draws with chance 2^-k: 1 - 1/32.
    coverage = np.array([one.coverage for one in found])
    assert abs(coverage.mean() - (1 - 2**-5)) < 0.01


def test_neighbors_near_each_other_and_far_from_zero_are_told_apart():
    """In float32 the squares, 1e8, would drown the distances, 1e-1."""
    rng = np.random.default_rng(2)
    references = (1e4 + 0.1 * rng.standard_normal((700, 16))).astype(np.float32)
    queries = references[5:25] + np.float32(0.01)
    found, places = nearest(queries, references, k=4)
    every = distances(queries, references)
    np.testing.assert_array_equal(places, np.argsort(every, axis=1)[:, :4])
    np.testing.assert_allclose(found, np.sort(every, axis=1)[:, :4], rtol=1e-6)


def test_an_image_is_its_own_neighbor_at_no_distance(clouds):
    found, places = nearest(clouds[0], clouds[0], k=1)
    np.testing.assert_array_equal(places[:, 0], np.arange(150))
    assert not found.any()


def test_too_few_images_are_refused():
    few = np.zeros((3, 2))
    with pytest.raises(UserError, match="score 4 or more"):
        precision_recall(few, np.zeros((9, 2)))
    with pytest.raises(UserError, match="no 4 neighbors"):
        nearest(few, few, k=4)
