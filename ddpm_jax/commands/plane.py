"""A model of points in the plane, shown: trajectories, density, score, and its figures.

workdir/
    density.png         the density of the model, by the probability-flow ODE
    field.png           its score at several levels, and the exact one where it is known
    plane.json          the density's integral, the score's relative errors
    samples/0001/
        trajectories.gif    the chain over the contours of the data's density
        figures.json        modes hit, share of good samples, distance to the data

What is of the model alone is made once for each checkpoint.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.commands.model import Trained
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.data.spec import Data
from ddpm_jax.diffusion.denoisers import Denoiser
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.modes import count_modes
from ddpm_jax.evaluation.sliced_wasserstein import sliced_wasserstein
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Sample
from ddpm_jax.runtime import files, images, plots
from ddpm_jax.sampling import plane
from ddpm_jax.sampling.plan import Trajectory

RATIOS = (0.1, 0.3, 1.0, 3.0)
"""sigma / alpha of the levels at which the score is shown."""

_CONTOUR_PIXELS = 128
_ARROWS = 20  # along an axis
_MOST_KERNELS = 4000
_MOST_COMPARED = 10_000


def portray_points(
    spec: Diffusion,
    asked: Sample,
    trained: Trained,
    workdir: Path,
    folder: Path,
    drawn: np.ndarray,
    trajectory: Trajectory,
) -> None:
    """Write what shows a model of points beside its samples, and print its figures.

    Args:
        spec: of the model.
        asked: which parameters.
        trained: the model.
        workdir: of the model.
        folder: of the samples.
        drawn: [N, 2].
        trajectory: of the first of them.
    """
    try:
        source = spec.data.open()
    except UserError as error:
        files.note(f"no density, field and figures, for want of the data: {error}")
        return
    points, _ = data.in_memory(source)
    square = plane.square_around(points)
    _write_trajectories(folder, source, points, square, trajectory)
    write_figures(spec.data, source, folder, drawn)
    if all(one.droppable for one in trained.unet.conditioners.values()):
        _write_model(
            spec, parameters_name(asked), trained, workdir, source, points, square
        )


def _write_trajectories(
    folder: Path,
    source: data.Dataset,
    points: np.ndarray,
    square: plane.Square,
    trajectory: Trajectory,
) -> None:
    places = square.places(_CONTOUR_PIXELS).reshape(-1, 2)
    if source.mixture is not None:
        values = np.exp(source.mixture.log_density(places))
    else:
        values = plane.kernel_density(points[:_MOST_KERNELS])(places)
    frames = plots.draw_trajectories(
        np.asarray(trajectory.x_t, np.float64),
        values.reshape(_CONTOUR_PIXELS, _CONTOUR_PIXELS),
        *square,
    )
    images.save_gif(folder / "trajectories.gif", frames, fps=10, hold_last=2.0)


# --- Figures --------------------------------------------------------------------------


def write_figures(
    of: Data, source: data.Dataset, folder: Path, drawn: np.ndarray
) -> None:
    """Compare samples with the data, whatever drew them: figures.json, and a line.

    Args:
        of: the data of a model.
        source: the same, opened: points in the plane.
        folder: of the samples.
        drawn: [N, 2].
    """
    points, _ = data.in_memory(source)
    figures = _figures(of, source, points, drawn)
    files.write_json(folder / "figures.json", figures)
    print(_format(figures))


def _figures(
    of: Data, source: data.Dataset, points: np.ndarray, drawn: np.ndarray
) -> dict[str, Any]:
    """Compare samples with the modes of the data, and with real draws."""
    found: dict[str, Any] = {"num_samples": len(drawn)}
    if source.mixture is not None:
        centers, std = source.mixture.centers, source.mixture.std
        found |= count_modes(drawn, centers, std)._asdict()
        found["num_modes"] = len(centers)
    try:
        other, _ = data.in_memory(of.open("test"))
    except UserError:  # a file of points without any held out
        return found
    count = min(len(drawn), len(points), len(other), _MOST_COMPARED)
    found["sliced_wasserstein"] = sliced_wasserstein(drawn[:count], other[:count])
    found["sliced_wasserstein_of_real"] = sliced_wasserstein(
        points[:count], other[:count]
    )
    return found


def _format(found: dict[str, Any]) -> str:
    parts = [f"{found['num_samples']:,} points"]
    if "hit" in found:
        parts.append(f"{found['hit']} of {found['num_modes']} modes hit")
        parts.append(f"{100 * found['good']:.1f}% within 3 std")
        parts.append(f"KL to even shares {found['kl']:.4f}")
    if "sliced_wasserstein" in found:
        real = found["sliced_wasserstein_of_real"]
        parts.append(
            f"sliced Wasserstein {found['sliced_wasserstein']:.4f} (two real draws "
            f"{real:.4f})"
        )
    return f"{', '.join(parts)}."


# --- The model ------------------------------------------------------------------------


def _write_model(
    spec: Diffusion,
    parameters: str,
    trained: Trained,
    workdir: Path,
    source: data.Dataset,
    points: np.ndarray,
    square: plane.Square,
) -> None:
    """Write density and field, unless those of these parameters are there."""
    of = {"checkpoint_step": trained.step, "parameters": parameters}
    path = workdir / "plane.json"
    if path.exists() and of.items() <= files.read_json(path).items():
        return
    plain, network = Sample(clip=False), trained.params.network
    denoise = assembly.denoiser(spec, plain, trained.unet, network)
    schedule = spec.schedule.build()
    density = plane.model_density(denoise, schedule)
    found = plane.density_map(density, square, points[:2000])
    said = f"{found.integral:.4f} over the square"
    images.save_png(
        workdir / "density.png",
        plots.draw_density(found.values, *square, title=f"density, {said}"),
    )
    print(f"The density of the model integrates to {said}: {workdir}/density.png")
    errors = _write_field(workdir, denoise, source, points, square, schedule)
    files.write_json(path, of | {"integral": found.integral, "score_errors": errors})


def _write_field(
    workdir: Path,
    denoise: Denoiser,
    source: data.Dataset,
    points: np.ndarray,
    square: plane.Square,
    schedule: Any,
) -> dict[str, float]:
    """Draw the score by level; return its relative errors where they are known."""
    places = square.places(_ARROWS)
    levels = dict(zip(RATIOS, plane.levels_by_noise(schedule, RATIOS), strict=True))

    def field(denoiser: Denoiser, level: Any) -> np.ndarray:
        # At x_t = alpha y, so that all levels show the same part of the plane.
        x_t = (places * float(level.alpha)).reshape(-1, 2)
        return plane.scores(denoiser, level, x_t).reshape(places.shape)

    rows, errors = [], {}
    for ratio, level in levels.items():
        learned = field(denoise, level)
        row = [plots.Field(f"score, sigma/alpha {ratio:g}", learned)]
        if source.mixture is not None:
            centers, std = source.mixture.centers, source.mixture.std
            exact = field(mixture_denoiser(centers, std), level)
            error = plane.field_error(denoise, centers, std, level, points[:4096])
            errors[f"{ratio:g}"] = error
            row.append(plots.Field("exact", exact))
            row.append(plots.Field(f"difference; {100 * error:.1f}%", learned - exact))
        rows.append(row)
    if source.mixture is None:  # one row
        rows = [[field for row in rows for field in row]]
    images.save_png(workdir / "field.png", plots.draw_fields(rows, *square))
    listed = ", ".join(f"{100 * e:.1f}% at {ratio}" for ratio, e in errors.items())
    if listed:
        print(f"Relative error of the score by sigma / alpha: {listed}.")
    return errors
