"""The linear probe: what is linear is found, what is not is not."""

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.linear_probe import linear_probe


def halves(features, classes):
    n = len(features) // 2
    return features[:n], classes[:n], features[n:], classes[n:]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_linear_is_found_and_noise_is_not(seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=2000)
    # Three directions of an 8-dimensional space, scaled and shifted.
    noise = rng.normal(size=(2000, 8))
    features = 0.01 * (5 + 10 * np.eye(8)[classes] + noise).astype(np.float32)
    found = linear_probe(*halves(features, classes))
    assert found.value > 0.98
    blind = linear_probe(*halves(noise, classes))
    assert abs(blind.value - 1 / 3) < 4 * np.sqrt(2 / 9 / 1000)
    assert blind.standard_error == pytest.approx(np.sqrt(2 / 9 / 1000), rel=0.1)


def test_an_exclusive_or_is_not_linear():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2000, 2))
    classes = (points[:, 0] * points[:, 1] > 0).astype(int)
    found = linear_probe(*halves(points, classes))
    assert found.value < 0.75  # a line leaves a quarter of the plane wrong, or more
    product = np.sign(points[:, 0] * points[:, 1])
    with_product = np.column_stack([points, product])
    assert linear_probe(*halves(with_product, classes)).value == 1.0


def test_what_has_no_class_is_left_out():
    rng = np.random.default_rng(0)
    classes = rng.integers(2, size=400)
    features = np.eye(2)[classes] + 0.1 * rng.normal(size=(400, 2))
    unknown = np.where(np.arange(400) % 2, classes, -1)
    mixed = np.where(unknown[:, None] < 0, rng.normal(size=(400, 2)) * 9, features)
    assert linear_probe(*halves(mixed, unknown)).value > 0.98
    with pytest.raises(UserError, match="no example with a class"):
        linear_probe(features, np.full(400, -1), features, classes)
