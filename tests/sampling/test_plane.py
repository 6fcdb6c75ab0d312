"""Density and score over the plane, with exact denoisers in the place of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.stats import norm

from ddpm_jax.data.points import MIXTURES, load_points
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.diffusion.schedules import Level, cosine_logsnr
from ddpm_jax.errors import UserError
from ddpm_jax.sampling import plane

SCHEDULE = cosine_logsnr(1000)
WIDE = np.array([[-1.0, 0.5], [0.8, -0.6]])  # of deviation 0.4
STD = 0.4


def wide_density(places):
    weights, variances = [0.5, 0.5], [STD**2, STD**2]
    found = oracles.mixture_log_density(places, weights, WIDE, variances, 1.0, 0.0)
    return np.exp(found)


@pytest.mark.parametrize("std", [0.0, 0.3])
@pytest.mark.parametrize("rows", [False, True])
def test_the_exact_denoiser_is_that_of_the_oracle(std, rows):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(5, 2))
    x_t = jnp.asarray(rng.normal(size=(7, 2)), jnp.float32)
    t = np.linspace(0.2, 1.2, 7) if rows else np.float64(0.8)
    level = Level(*(jnp.asarray(v, jnp.float32) for v in (t, np.cos(t), np.sin(t))))
    found = mixture_denoiser(centers, std)(x_t, level, None)
    wanted = oracles.mixture(np.full(5, 0.2), centers, np.full(5, std**2))
    for mine, other in zip(found[:2], wanted(x_t, level)[:2], strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)
    back = level.alpha * found.x0.T + level.sigma * found.eps.T
    np.testing.assert_allclose(back.T, x_t, atol=2e-5)


@pytest.mark.parametrize(
    ("centers", "std"), [(np.zeros(2), 0.1), (np.zeros((0, 2)), 0.1), (WIDE, -1.0)]
)
def test_what_is_no_mixture_is_refused(centers, std):
    with pytest.raises(UserError, match="want"):
        mixture_denoiser(centers, std)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_map_of_an_exact_density_integrates_to_one(name):
    """With points of half of the modes alone, the others are found by their density."""
    mixture, source = MIXTURES[name], load_points(name, split="train").source
    near = source.items[source.labels < len(mixture.centers) // 2][:500]
    square = plane.square_around(source.items)

    def density(places):
        return np.exp(mixture.log_density(places))

    found = plane.density_map(density, square, near)
    assert found.integral == pytest.approx(1, abs=1e-4)
    places = square.places(192)
    row, column = np.unravel_index(found.values.argmax(), found.values.shape)
    nearest = np.linalg.norm(places[row, column] - mixture.centers, axis=1).min()
    assert nearest < places[1, 0, 0] - places[0, 0, 0]  # within a pixel
    assert found.num_places < 1.1 * 192**2  # of 16 such, were all of them divided


@pytest.mark.parametrize("shift", [0.0, 0.013, 0.03])
@pytest.mark.parametrize("width", [0.015, 0.02, 0.03])
def test_thin_bridges_between_the_modes_are_found(width, shift):
    """Learned models have them, and no point of the data lies on one.

    Here 3% of the grid lie along its rows and columns, a quarter of a cell wide.
    """
    mixture, share = MIXTURES["grid"], 0.03
    items = load_points("grid", split="train").source.items
    square = plane.square_around(items)
    lines = np.unique(mixture.centers[:, 0])

    def across(x, centers, std):
        return norm.pdf(x[:, None], centers, std).mean(1)

    def along(x):
        ends = norm.cdf((x - lines[0]) / 0.03) - norm.cdf((x - lines[-1]) / 0.03)
        return ends / (lines[-1] - lines[0])

    def density(places):
        x, y = places.T
        rows = along(x) * across(y, lines + shift, width)
        columns = along(y) * across(x, lines + shift, width)
        modes = np.exp(mixture.log_density(places))
        return (1 - share) * modes + share * (rows + columns) / 2

    found = plane.density_map(density, square, items[:2000])
    assert found.integral == pytest.approx(1, abs=1e-4)
    assert found.num_places < 1.5 * 192**2


def test_the_density_of_a_model_is_that_of_its_data_and_integrates_to_one():
    """Of the exact denoiser; float32 and Runge-Kutta leave 1e-3."""
    density = plane.model_density(mixture_denoiser(WIDE, STD), SCHEDULE, num_steps=32)
    square = plane.Square(-3.2, 3.2)
    found = plane.density_map(density, square, WIDE, num_pixels=32)
    assert found.integral == pytest.approx(1, abs=1e-3)
    places = square.places(32).reshape(-1, 2)
    wanted = wide_density(places)
    np.testing.assert_allclose(density(places), wanted, atol=2e-3 * wanted.max())


def test_a_narrow_mode_of_the_grid_has_its_share(monkeypatch):
    """By the exact denoiser: solver and pixels of the size of its deviation suffice."""
    monkeypatch.setattr(plane, "_BATCH", 256)  # as many places as there are
    mixture = MIXTURES["grid"]
    exact = mixture_denoiser(mixture.centers, mixture.std)
    density = plane.model_density(exact, SCHEDULE)
    square = plane.Square(-0.15, 0.15)  # about the middle one alone, of 25
    found = plane.density_map(density, square, np.zeros((1, 2)), num_pixels=16)
    assert 25 * found.integral == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0])
def test_scores_are_gradients_of_the_log_density(ratio):
    (level,) = plane.levels_by_noise(SCHEDULE, (ratio,))
    assert float(level.sigma / level.alpha) == pytest.approx(ratio, rel=1e-4)
    places = np.random.default_rng(1).normal(size=(5, 2))
    found = plane.scores(mixture_denoiser(WIDE, STD), level, places)
    step, weights, variances = 1e-4, [0.5, 0.5], [STD**2, STD**2]

    def log_density(at):
        return oracles.mixture_log_density(
            at, weights, WIDE, variances, float(level.alpha), float(level.sigma)
        )

    for axis in range(2):
        move = step * np.eye(2)[axis]
        slope = (log_density(places + move) - log_density(places - move)) / (2 * step)
        np.testing.assert_allclose(found[:, axis], slope, rtol=1e-3, atol=1e-3)


def test_the_error_of_a_field_is_relative_and_zero_of_the_exact_one():
    (level,) = plane.levels_by_noise(SCHEDULE, (0.5,))
    points = WIDE[np.arange(200) % 2]
    exact = mixture_denoiser(WIDE, STD)

    def halved(x_t, level, cond=None):
        return jax.tree.map(lambda leaf: 0.5 * leaf, exact(x_t, level, cond))

    given = (WIDE, STD, level, points)
    assert plane.field_error(exact, *given) == pytest.approx(0, abs=1e-6)
    assert plane.field_error(halved, *given) == pytest.approx(0.5, rel=1e-5)


def test_a_kernel_estimate_is_the_mixture_of_its_points():
    places = np.random.default_rng(2).normal(size=(600, 2))
    found = plane.kernel_density(WIDE, bandwidth=STD)(places)
    np.testing.assert_allclose(found, wide_density(places), rtol=1e-10)


def test_a_level_without_noise_is_refused():
    with pytest.raises(UserError, match="not above 0"):
        plane.levels_by_noise(SCHEDULE, (0.0, 1.0))
