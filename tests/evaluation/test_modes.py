"""Modes of a mixture: exact draws, dropped modes, samples between modes."""

import math

import numpy as np
import pytest

from ddpm_jax.data.points import MIXTURES
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.modes import count_modes


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("seed", range(3))
def test_exact_draws_hit_all_modes_evenly(name, seed):
    mixture, count = MIXTURES[name], 10_000
    points, _ = mixture.draw(np.random.default_rng(seed), count)
    found, num_modes = (
        count_modes(points, mixture.centers, mixture.std),
        len(mixture.centers),
    )
    assert found.hit == found.at_half == num_modes
    # Beyond 3 deviations of a Gaussian of the plane lies exp(-9 / 2).
    good = 1 - math.exp(-4.5)
    error = math.sqrt(good * (1 - good) / count)
    assert found.good == pytest.approx(good, abs=4 * error)
    # 2 N KL is chi-squared with K - 1 degrees of freedom.
    degrees = num_modes - 1
    most = degrees + 4 * math.sqrt(2 * degrees)
    assert 0 < found.kl < most / (2 * count)


@pytest.mark.parametrize("name", MIXTURES)
def test_one_mode_is_good_and_uneven(name):
    mixture = MIXTURES[name]
    num_modes = len(mixture.centers)
    one = np.repeat(mixture.centers[:1], 10, axis=0)
    found = count_modes(one, mixture.centers, mixture.std)
    assert found == (1, 1, 1.0, pytest.approx(math.log(num_modes)))


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_between_modes_are_even_and_not_good(name):
    mixture = MIXTURES[name]
    off = mixture.std * np.array([3.01, 0.0])
    found = count_modes(mixture.centers + off, mixture.centers, mixture.std)
    assert found == (0, 0, 0.0, pytest.approx(0, abs=1e-12))
    near = mixture.std * np.array([2.99, 0.0])
    found = count_modes(mixture.centers + near, mixture.centers, mixture.std)
    assert found.hit == found.at_half == len(mixture.centers) and found.good == 1


def test_shares_by_hand():
    centers = np.array([[0.0], [10.0], [20.0]])
    # 6 samples: shares 4/6, 1/6, 1/6; good 3, 1, 0. Half a share is one sample.
    samples = np.array([[0.0], [1.0], [-1.0], [4.0], [10.0], [24.0]])
    found = count_modes(samples, centers, 1.0)
    kl = 2 / 3 * math.log(2) + 2 * (1 / 6) * math.log(0.5)
    assert found == (2, 2, pytest.approx(4 / 6), pytest.approx(kl))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((0, 2)), "draw some"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.zeros((2, 3)), "2 and 3 features"),
    ],
)
def test_what_has_no_modes_is_one_line(samples, message):
    with pytest.raises(UserError, match=message) as caught:
        count_modes(samples, np.zeros((1, 2)), 1.0)
    assert "\n" not in str(caught.value)
