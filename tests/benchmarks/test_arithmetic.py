"""Medians, ratios, smoothing: with times that are made up."""

import numpy as np
import pytest

from benchmarks import precision, timing


def test_a_drift_of_the_machine_drops_out_of_the_ratio():
    """One side takes 1.5 times the other, on a machine that gets slower and slower."""
    pace = 2.0 ** np.arange(11)
    found = timing.ratios(1.5 * pace, pace)
    assert found["median"] == found["least"] == found["greatest"] == 1.5
    assert found["count"] == 11


def test_the_ratio_is_taken_pair_by_pair():
    found = timing.ratios([2.0, 12.0, 3.0], [1.0, 4.0, 6.0])  # 2, 3, 0.5
    assert (found["least"], found["median"], found["greatest"]) == (0.5, 2.0, 3.0)
    assert (found["quartile_1"], found["quartile_3"]) == (1.25, 2.5)
    with pytest.raises(ValueError, match="3 values against 2"):
        timing.ratios([1.0, 2.0, 3.0], [1.0, 2.0])


def test_turns_alternate():
    order = []

    def named(name):
        return lambda: order.append(name) or len(order)

    taken = timing.take_turns({"a": named("a"), "b": named("b")}, 3)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_smoothing_averages_neighbours():
    curve = np.array([1.0, 3.0, 5.0, 11.0])
    np.testing.assert_allclose(precision.smoothed(curve, 2), [2.0, 4.0, 8.0])
    np.testing.assert_allclose(precision.smoothed(curve, 4), [5.0])
    assert precision.distance_between(
        np.array([1.1, 1.8]), np.array([1.0, 2.0])
    ) == pytest.approx(0.1)
