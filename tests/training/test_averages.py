"""Power-function averages against the paper's numbers and sums done by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.training.ema import (
    MAX_STD,
    Profile,
    gamma_from_std,
    inner_product,
    posthoc_weights,
    reconstruct,
    std_from_gamma,
    update_average,
)


def profile(step, std, length=None):
    """What the recursion makes of one-hot parameters: the weight of each step."""
    gamma, weights = gamma_from_std(std), np.zeros(length or step)
    for t in range(1, step + 1):
        beta = (1 - 1 / t) ** (gamma + 1)
        weights *= beta
        weights[t - 1] += 1 - beta
    return weights


# Karras et al. 2024, section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94. The
# mean over the run, gamma 0, has the standard deviation of a uniform distribution.
@pytest.mark.parametrize(
    ("std", "gamma", "tolerance"),
    [(0.05, 16.97, 0.005), (0.10, 6.94, 0.005), (MAX_STD, 0.0, 1e-9)],
)
def test_lengths_are_the_papers(std, gamma, tolerance):
    assert gamma_from_std(std) == pytest.approx(gamma, abs=tolerance)


@pytest.mark.parametrize("std", [0.003, 0.01, 0.05, 0.10, 0.2, 0.28])
def test_std_is_the_standard_deviation_of_the_profile(std):
    gamma = gamma_from_std(std)
    assert std_from_gamma(gamma) == pytest.approx(std, rel=1e-10)
    steps = 4000
    weights = profile(steps, std)
    # Each weight sits evenly on (k-1, k]: the midpoint, and a spread of 1/12.
    place = np.arange(steps) + 0.5
    mean = weights @ place
    spread = np.sqrt(weights @ (place - mean) ** 2 + 1 / 12) / steps
    # Within a step it is not quite even: that moves its mean by gamma / (12 k), below
    # 0.01 steps where the weight is, and the spread by no more.
    assert spread == pytest.approx(std, abs=0.01 / steps)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.29, float("nan")])
def test_a_length_that_no_profile_has_is_refused(std):
    with pytest.raises(ValueError, match=r"not in \(0, 0.2887\]"):
        gamma_from_std(std)


def test_the_recursion_gives_the_integrals_of_the_power_function():
    for std in (0.02, 0.05, 0.25):
        power = gamma_from_std(std) + 1
        edges = (np.arange(301) / 300) ** power
        np.testing.assert_allclose(profile(300, std), np.diff(edges), rtol=1e-10)


def test_tracks_in_float32_follow_the_recursion_in_float64():
    """With row k of the identity as parameters, entry k is the weight of step k.

    The tracks start from 1, of which nothing may be left.
    """
    steps, stds = 60, (0.05, 0.10, MAX_STD)
    rows = jnp.eye(steps, dtype=jnp.float32)
    tracks = tuple(jnp.ones(steps) for _ in stds)
    update = jax.jit(update_average, static_argnums=3)
    for step in range(steps):
        tracks = tuple(
            update(track, rows[step], jnp.int32(step), gamma_from_std(std))
            for track, std in zip(tracks, stds, strict=True)
        )
    for track, std in zip(tracks, stds, strict=True):
        # Rounding of 60 sums of numbers up to 1, each half of float32's 1.2e-7.
        np.testing.assert_allclose(track, profile(steps, std), atol=60 * 6e-8)


def test_after_a_million_steps_the_share_of_the_newest_keeps_its_digits():
    for std in (0.05, 0.10):
        gamma = gamma_from_std(std)
        got = update_average(jnp.float32(0), jnp.float32(1), jnp.int32(999_999), gamma)
        exact = -np.expm1((gamma + 1) * np.log1p(-1e-6))
        assert float(got) == pytest.approx(exact, rel=1e-6)


def test_inner_products_are_the_integrals():
    """Against sums over a fine grid of tau, by the midpoint rule."""
    grid = (np.arange(200_000) + 0.5) / 200_000 * 90

    def density(step, gamma):
        return np.where(grid < step, (gamma + 1) / step * (grid / step) ** gamma, 0.0)

    cases = [(90, 17.0, 90, 7.0), (90, 17.0, 40, 7.0), (40, 17.0, 90, 7.0)]
    for case in cases:
        integral = np.mean(density(*case[:2]) * density(*case[2:])) * 90
        # The rule errs most at the jump: half a cell times its height, 1e-4 of it.
        assert inner_product(*map(np.float64, case)) == pytest.approx(
            integral, rel=5e-4
        )


STORED = [Profile(step, std) for step in range(50, 801, 50) for std in (0.05, 0.10)]


@pytest.mark.parametrize("std", [0.03, 0.07, 0.13])
def test_weights_are_the_best_that_sum_to_one(std):
    """The same least squares over 800 numbers, with no closed form in it."""
    weights, error = posthoc_weights(STORED, Profile(800, std))
    columns = np.stack([profile(*p, length=800) for p in STORED], axis=1)
    wanted = profile(800, std)
    # The constraint by elimination: the last weight is 1 less the others.
    reduced = columns[:, :-1] - columns[:, -1:]
    best = np.linalg.lstsq(reduced, wanted - columns[:, -1], rcond=None)[0]
    best = np.append(best, 1 - best.sum())
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    norm = np.linalg.norm(wanted)
    distance = np.linalg.norm(columns @ weights - wanted) / norm
    least = np.linalg.norm(columns @ best - wanted) / norm
    # Sums over steps for integrals over time differ by (gamma / 800)^2: 0.1 per cent
    # of the profile's norm at gamma 30, of which the best choice makes the most.
    assert least <= distance <= 1.02 * least
    assert error == pytest.approx(distance, rel=0.02)


def test_a_stored_average_comes_back_as_it_is():
    weights, error = posthoc_weights(STORED, Profile(800, 0.10))
    assert error == 0
    np.testing.assert_array_equal(weights, np.eye(len(STORED))[-1])
    kept = {"w": np.float32([0.1, -3e-8, 7.25])}
    np.testing.assert_array_equal(reconstruct([kept], [1.0])["w"], kept["w"])


def walk(steps, width):
    """Parameters that wander from 5, each on its own: float32 [steps, width]."""
    noise = np.random.default_rng(3).normal(size=(steps, width))
    return (5 + 0.1 * np.cumsum(noise, axis=0)).astype(np.float32)


@pytest.mark.parametrize("std", [0.07, 0.13])
def test_an_average_nobody_tracked_is_rebuilt_from_snapshots(std):
    """Two tracks, 16 snapshots of each, and a third length that was tracked as well.

    For increments d_j the error of an average is the sum of d_j C_j, where C_j sums the
    difference of the profiles from j on: its variance is that of d times |C|^2. From
    profiles made by brute force this gives the errors to expect, here 484 (std 0.07)
    and 654 times (std 0.13) below that of the nearer track; what is measured may differ
    by 4 standard errors, 14 per cent of each, and the quotient by 30: 300 it must be.
    """
    steps, width, stds = 800, 400, (0.05, 0.10, std)
    theta = jnp.asarray(walk(steps, width))
    update = jax.jit(
        lambda tracks, params, step: tuple(
            update_average(track, params, step, gamma_from_std(s))
            for track, s in zip(tracks, stds, strict=True)
        )
    )
    tracks, kept, read = (jnp.zeros(width),) * 3, {}, []
    for step in range(steps):
        tracks = update(tracks, theta[step], step)
        for s, track in zip(stds, tracks, strict=True):
            kept[Profile(step + 1, s)] = np.asarray(track)
    wanted = Profile(steps, std)

    weights, _ = posthoc_weights(STORED, wanted)
    rebuilt = reconstruct((read.append(p) or kept[p] for p in STORED), weights)
    assert read == STORED and rebuilt.dtype == np.float32
    direct = kept[wanted].astype(np.float64)
    columns = np.stack([profile(*p, length=steps) for p in STORED], axis=1)
    averages = {
        "rebuilt": (rebuilt, columns @ weights),
        **{s: (kept[Profile(steps, s)], profile(steps, s)) for s in (0.05, 0.10)},
    }
    errors, expected = {}, {}
    for name, (average, its_profile) in averages.items():
        errors[name] = np.sqrt(np.mean((average - direct) ** 2))
        rest = np.cumsum((its_profile - profile(*wanted))[::-1])
        expected[name] = 0.1 * np.linalg.norm(rest)
    # A standard deviation from 400 numbers has a standard error of 1/sqrt(800); and the
    # float32 tracks round: 800 steps, at random, of half of 4.8e-7 for numbers near 5.
    rounding = np.sqrt(800) * 2.4e-7
    for name, measured in errors.items():
        slack = 4 / np.sqrt(2 * width) * expected[name] + rounding
        assert measured == pytest.approx(expected[name], abs=slack), name
    assert errors["rebuilt"] < min(errors[0.05], errors[0.10]) / 300


def test_equal_parameters_stay_equal_however_few_the_snapshots():
    """Without the sum of 1 two snapshots would shrink these by several per cent."""
    stored = [Profile(400, 0.10), Profile(800, 0.10)]
    weights, error = posthoc_weights(stored, Profile(800, 0.2))
    assert error > 0.1  # far from what was asked for, and it says so
    rebuilt = reconstruct([{"w": np.full(3, 7.0, np.float32)}] * 2, weights)
    np.testing.assert_allclose(rebuilt["w"], 7.0, rtol=1e-6)


def test_hundreds_of_nearly_dependent_snapshots_are_no_trouble():
    stds = (0.05, 0.07, 0.10, 0.14, 0.20)
    stored = [Profile(t, s) for t in range(8000, 800_001, 8000) for s in stds]
    weights, error = posthoc_weights(stored, Profile(800_000, 0.085))
    assert error < 1e-5
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    assert np.abs(weights).sum() < 100  # else float32's rounding would be amplified
