"""What is compared with what: scores of sets that are not of one size."""

import numpy as np
import pytest

from ddpm_jax.evaluation.feature_extractor import Outputs
from ddpm_jax.evaluation.precision_recall import density_coverage, precision_recall
from ddpm_jax.evaluation.scores import reference_of, score


def clusters_and_their_middle(num_middle):
    """Four tight clusters of six at the corners of a regular simplex, and its middle.

    The corners are sqrt(2) apart and sqrt(3) / 2 from the middle. Of all 24 vectors
    each has five neighbors within 0.01, so that no ball reaches the middle. Of any
    seven of them a cluster has at most three, or one has six and another one: their
    third neighbor, and so their ball, is a whole edge away and holds the middle.
    """
    rng = np.random.default_rng(0)
    corners = np.repeat(np.eye(4), 6, axis=0)
    middle = np.full((num_middle, 4), 0.25)
    noise = rng.uniform(-1e-3, 1e-3, (24 + num_middle, 4))
    rows = (np.concatenate([corners, middle]) + noise).astype(np.float32)
    return rows[:24], rows[24:]


@pytest.mark.parametrize("seed", range(3))
def test_manifolds_are_of_equally_many_images(seed):
    """Which seven of the 24 are drawn does not matter; that it is not all of them
    does."""
    many, few = clusters_and_their_middle(7)
    names = ("precision_recall", "density_coverage")
    assert precision_recall(many, few).precision == 0.0
    assert precision_recall(few, many).recall == 0.0
    assert density_coverage(many, few) == (0.0, 0.0)
    found = score(
        Outputs(few, None), reference_of(Outputs(many, None)), names=names, seed=seed
    )
    found = {name: estimate.value for name, estimate in found.items()}
    assert found["precision"] == 1.0
    assert found["density"] > 0.19 and found["coverage"] > 0.14  # a ball of the seven
    found = score(
        Outputs(many, None), reference_of(Outputs(few, None)), names=names, seed=seed
    )
    assert found["recall"].value == 1.0
