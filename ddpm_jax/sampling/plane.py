"""The plane: the density and the score of a model of points, at each place.

    density = density_map(model_density(denoise, schedule), square, near=points)
    density.integral                        # 1, as of any density
    scores(denoise, level, places)          # grad log p_t, [N, 2]

Density is that of the probability-flow ODE, exact for the model (`ode_likelihood`), in
two dimensions with the exact trace. Most of the plane has none, so that the map is
refined where there is some.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.denoisers import Denoiser, predict
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.diffusion.ode_likelihood import exact_probes, follow_flow, runge_kutta
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError

Density = Callable[[np.ndarray], np.ndarray]
"""Places [N, 2] -> density [N]."""

_BATCH = 2048  # places at a time, in one compiled program
_NUM_STEPS = 48  # of Runge-Kutta
_COARSE = 4  # pixels of a cell of the map, each way
_HOLDS = 1e-5  # share of the whole, above which a cell and its neighbors are refined
_SHARP = 5e-3  # of the largest density, by which a divided pixel differs from its four
_PARTS = 4  # of such a pixel, each way
_BANDWIDTH = 0.05  # of the kernel estimate; coordinates have unit variance


class Square(NamedTuple):
    """The part of the plane that is shown, the same on both axes.

    Attributes:
        low: where both axes begin.
        high: where they end.
    """

    low: float
    high: float

    def places(self, num: int) -> np.ndarray:
        """Lay out the centers of num x num pixels: [num, num, 2], by x and then y."""
        line = self.low + (np.arange(num) + 0.5) * (self.high - self.low) / num
        return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)


def square_around(points: np.ndarray, margin: float = 0.15) -> Square:
    """Choose the square that holds points [N, 2] and a margin, a share of its side."""
    low, high = float(points.min()), float(points.max())
    room = margin * (high - low)
    return Square(low - room, high + room)


class DensityMap(NamedTuple):
    """A density over a square.

    Attributes:
        values: at the centers of its pixels, or means over those in which it bends
            sharply, [R, R], by x and then y.
        integral: over the square, by the midpoint rule.
        num_places: at which the density was evaluated.
    """

    values: np.ndarray
    integral: float
    num_places: int


def density_map(
    density: Density, square: Square, near: np.ndarray, num_pixels: int = 192
) -> DensityMap:
    """Evaluate a density over a square, finely where there is some.

    Cells of 4 x 4 pixels are evaluated at their middle, and refined to pixels where
    they hold points or more than 1e-5 of the whole; so are the neighbors of a refined
    cell that does, until no more are found: a model's thin bridges between modes, which
    the middles of cells miss, are followed from their ends. Where pixels differ much
    from those around them, they and their neighbors are means of 4 x 4 places. The
    midpoint rule of places no further apart than the deviation of the narrowest
    Gaussian errs by less than 1e-8 of it (Poisson summation: 2 exp(-2 pi^2), relative),
    since errors of pixels cancel; where places of two distances meet within a mode they
    would not, hence the neighbors. Learned densities are rougher than their data:
    within a mode of deviation 0.018 sums over places 0.0067 apart differed by 2%.

    Args:
        density: of the model, whose integral over the plane is 1.
        square: what is shown.
        near: points [N, 2] of the model or its data, to know where to look.
        num_pixels: R, a multiple of 4.
    """
    num_cells = num_pixels // _COARSE
    side = square.high - square.low
    middle = density(square.places(num_cells).reshape(-1, 2))
    middle = middle.reshape(num_cells, num_cells)
    values = np.kron(middle, np.ones((_COARSE, _COARSE)))
    place = np.floor((np.asarray(near) - square.low) / side * num_cells).astype(int)
    place = place[((place >= 0) & (place < num_cells)).all(axis=1)]
    cell = (side / num_cells) ** 2
    asked = middle * cell > _HOLDS
    asked[place[:, 0], place[:, 1]] = True
    pixels = square.places(num_pixels)
    fine, num_places = np.zeros_like(asked), middle.size
    while asked.any():
        mask = np.kron(asked, np.ones((_COARSE, _COARSE), bool))
        values[mask] = density(pixels[mask])
        num_places += int(mask.sum())
        fine |= asked
        blocks = values.reshape(num_cells, _COARSE, num_cells, _COARSE)
        holds = blocks.mean(axis=(1, 3)) * cell > _HOLDS
        asked = _with_neighbors(fine & holds) & ~fine
    sharp = _with_neighbors(_bend_of(values) > _SHARP * values.max())
    if sharp.any():
        values[sharp] = (
            density(_parts_of(pixels[sharp], side / num_pixels))
            .reshape(-1, _PARTS**2)
            .mean(axis=1)
        )
        num_places += int(sharp.sum()) * _PARTS**2
    return DensityMap(values, float(values.mean() * side**2), num_places)


def _bend_of(values: np.ndarray) -> np.ndarray:
    """Return by how much each pixel differs from the mean of the four around it."""
    padded = np.pad(values, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.abs(values - around / 4)


def _parts_of(centers: np.ndarray, width: float) -> np.ndarray:
    """Divide pixels of a width about centers [N, 2]: places [N * 16, 2]."""
    line = ((np.arange(_PARTS) + 0.5) / _PARTS - 0.5) * width
    offsets = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return (centers[:, None] + offsets).reshape(-1, 2)


def _with_neighbors(cells: np.ndarray) -> np.ndarray:
    """Add the eight around each cell or pixel that is set: bool [R, R]."""
    padded = np.pad(cells, 1)
    rows, columns = cells.shape
    moves = [(i, j) for i in range(3) for j in range(3)]
    found = [padded[i : i + rows, j : j + columns] for i, j in moves]
    return np.any(found, axis=0)


def model_density(
    denoise: Denoiser, schedule: Schedule, num_steps: int = _NUM_STEPS
) -> Density:
    """Return the density of a model of points, by the probability-flow ODE.

    Args:
        denoise: the model, neither clipped nor guided, conditioned on nothing.
        schedule: its noise schedule.
        num_steps: of Runge-Kutta, four calls each.
    """
    start = schedule.at(jnp.asarray(0))
    T = schedule.num_levels
    end = schedule.at(jnp.asarray(T - 1))
    if float(end.alpha) == 0:  # pure noise lies infinitely far away
        end = schedule.at(jnp.asarray(T - 2))
    solve = runge_kutta(num_steps, bend=0.03)

    @jax.jit
    def log_density(places: jax.Array) -> jax.Array:
        probes = exact_probes(places)
        flow = follow_flow(
            denoise, places, start, end, schedule=schedule, probes=probes, solve=solve
        )
        return places.shape[-1] * flow.log_density  # it is per dimension

    def density(places: np.ndarray) -> np.ndarray:
        return np.exp(_in_batches(log_density, places))

    return density


def _in_batches(
    function: Callable[[jax.Array], jax.Array], places: np.ndarray
) -> np.ndarray:
    """Apply a compiled function to places [N, ...], in batches of one size."""
    found = []
    for first in range(0, len(places), _BATCH):
        batch = np.asarray(places[first : first + _BATCH], np.float32)
        missing = _BATCH - len(batch)
        padded = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
        found.append(
            np.asarray(function(jnp.asarray(padded)), np.float64)[: len(batch)]
        )
    return np.concatenate(found) if found else np.zeros(0)


def kernel_density(points: np.ndarray, bandwidth: float = _BANDWIDTH) -> Density:
    """Estimate the density of points [N, 2] by Gaussians around each of them.

    Source: Parzen 1962, "On Estimation of a Probability Density Function and Mode".
    """
    centers = np.asarray(points, np.float64)
    normal = 2 * np.pi * bandwidth**2 * len(centers)

    def density(places: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(places), 512):
            some = np.asarray(places[first : first + 512], np.float64)
            square = np.square(some).sum(1)[:, None] + np.square(centers).sum(1)
            square = square - 2 * some @ centers.T
            found.append(np.exp(-0.5 * square / bandwidth**2).sum(1) / normal)
        return np.concatenate(found)

    return density


# --- The field ------------------------------------------------------------------------


def scores(denoise: Denoiser, level: Level, places: np.ndarray) -> np.ndarray:
    """Return grad log p_t(x) = -eps / sigma at places [N, 2] of a level: [N, 2].

    Args:
        denoise: a model, or an exact denoiser; conditioned on nothing.
        level: leaves [].
        places: [N, 2].
    """
    jitted = jax.jit(lambda x: -predict(denoise, x, level, None).eps / level.sigma)
    return _in_batches(jitted, places)


def levels_by_noise(schedule: Schedule, ratios: tuple[float, ...]) -> list[Level]:
    """Return the levels of a schedule at which sigma / alpha has these values.

    Args:
        schedule: of a model.
        ratios: above 0.

    Raises:
        UserError: a ratio is not above 0.
    """
    if not min(ratios) > 0:
        raise UserError(f"sigma / alpha of {ratios} is not above 0; give noise levels.")
    return [schedule.at_logsnr(jnp.float32(-2 * np.log(ratio))) for ratio in ratios]


def field_error(
    denoise: Denoiser, centers: np.ndarray, std: float, level: Level, points: np.ndarray
) -> float:
    """Compare a model's score with that of a mixture, where its noised points lie.

    Args:
        denoise: the model.
        centers: of the mixture, [K, 2].
        std: of each coordinate around its center.
        level: leaves [].
        points: of the mixture, [N, 2].

    Returns:
        The relative error sqrt(E |s - s*|^2 / E |s*|^2) over x_t ~ p_t.
    """
    clean = jnp.asarray(points, jnp.float32)
    eps = jax.random.normal(jax.random.key(0), clean.shape)
    x_t = np.asarray(add_noise(clean, eps, level))
    exact = scores(mixture_denoiser(centers, std), level, x_t)
    off = scores(denoise, level, x_t) - exact
    return float(np.sqrt(np.mean(off**2) / np.mean(exact**2)))
