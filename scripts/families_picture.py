"""Draw samples of four families side by side, each with its number under it.

    python -m scripts.families_picture --out=docs/families.png \
        --textbook GAN=FILE VAE=FILE flow=FILE \
        --today GAN=FILE VAE=FILE flow=FILE diffusion=FILE --images=runs/families/digits

A FILE of points is what the command `sample`, or benchmarks.families --samples, wrote;
under it stands the share within 3 standard deviations of a mode, and the modes hit. The
folder of images is that of benchmarks.families_images; under them stands the Frechet
distance. The first column is of the data.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddpm_jax import data
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.evaluation.modes import count_modes

FAMILIES = ("GAN", "VAE", "flow", "diffusion")
_SHOWN = 2000
_SIDE = 6  # images along an edge
_ENLARGED, _GAP = 6, 6  # pixels for each of theirs, and between images
_SIZE = 2.1  # inches of a panel


def _scatter(axes: Any, points: np.ndarray, mixture: Any, name: str) -> None:
    found = count_modes(points, mixture.centers, mixture.std)
    axes.scatter(*points[:_SHOWN].T, s=1.2, linewidths=0, alpha=0.6, color="#1f5fa8")
    axes.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), aspect="equal")
    axes.set_title(name, fontsize=9)
    good = f"{100 * found.good:.1f}% good"
    _below(axes, f"{good}, {found.hit} of {len(mixture.centers)} modes")


def _below(axes: Any, text: str) -> None:
    axes.text(
        *(0.5, -0.03), text, transform=axes.transAxes, ha="center", va="top", fontsize=8
    )


def _sheet(items: np.ndarray) -> np.ndarray:
    """Lay images [N, H, W, 1] on a square, enlarged, with gaps."""
    large = np.kron(items[..., 0], np.ones((1, _ENLARGED, _ENLARGED), np.uint8))
    framed = np.pad(large, ((0, 0), (0, _GAP), (0, _GAP)), constant_values=255)
    side = min(_SIDE, int(len(items) ** 0.5))
    lines = [np.concatenate(framed[i * side :][:side], axis=1) for i in range(side)]
    return np.concatenate(lines)[:-_GAP, :-_GAP]


def _images_of(folder: Path, family: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the samples of a family's first seed that were scored, and its scores."""
    name = f"{family.lower()}-0"
    for path in sorted((folder / name / "evaluation").glob("*/request.json")):
        if json.loads(path.read_text())["images"] == "samples":
            with np.load(path.parent / "samples.npz") as stored:
                found = json.loads((folder / f"{name}.json").read_text())
                return stored["arr_0"], found
    raise SystemExit(f"{folder / name} has no samples that were scored")


def _real_images(folder: Path) -> np.ndarray:
    """Read images of the data that the runs of a folder are of."""
    source = trained_recipe(folder / "features").task.data.open()
    return np.stack([source.source[i]["image"] for i in range(_SIDE**2)])


def picture(
    source: str,
    rows: list[dict[str, Path]],
    images: Path | None,
    out: Path,
) -> None:
    """Draw the panels.

    Args:
        source: of the points, points:ring or points:grid.
        rows: name -> file, of each row of points.
        images: folder of benchmarks.families_images; None draws none.
        out: a PNG.
    """
    real = data.load(source)
    mixture = real.mixture
    assert mixture is not None, f"{source} is no mixture"
    count = len(rows) + (images is not None)
    columns = 1 + len(FAMILIES)
    figure = Figure(figsize=(_SIZE * columns, 1.22 * _SIZE * count))
    grid = figure.add_gridspec(count, columns, wspace=0.08, hspace=0.28)
    first = figure.add_subplot(grid[: len(rows), 0])
    _scatter(first, np.asarray(data.in_memory(real)[0]), mixture, "data")
    first.axis("off")
    for row, named in enumerate(rows):
        for name, path in named.items():
            family = name.partition(",")[0]
            axes = figure.add_subplot(grid[row, 1 + FAMILIES.index(family)])
            _scatter(axes, np.load(path)["arr_0"], mixture, name)
            axes.axis("off")
    if images is not None:
        axes = figure.add_subplot(grid[-1, 0])
        _show(axes, _real_images(images), "data", "")
        for column, family in enumerate(FAMILIES, 1):
            items, found = _images_of(images, family)
            axes = figure.add_subplot(grid[-1, column])
            text = f"FD {found['frechet_distance']:.2f}"
            _show(axes, items, family, text)
    figure.savefig(out, dpi=110, bbox_inches="tight", pad_inches=0.1)


def _show(axes: Any, items: np.ndarray, name: str, text: str) -> None:
    axes.imshow(
        _sheet(items), cmap="gray", vmin=0, vmax=255, interpolation="antialiased"
    )
    axes.set_title(name, fontsize=9)
    axes.axis("off")
    _below(axes, text)


def _named(words: list[str]) -> dict[str, Path]:
    return {w.partition("=")[0]: Path(w.partition("=")[2]) for w in words}


def main(argv: list[str] | None = None) -> int:
    """Run the script.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = "NAME=FILE of points; a NAME begins with GAN, VAE, flow or diffusion"
    parser.add_argument("--textbook", nargs="*", default=[], help=what)
    parser.add_argument("--today", nargs="*", default=[], help=what)
    parser.add_argument("--data", default="points:ring")
    parser.add_argument("--images", type=Path, help="a folder of runs")
    parser.add_argument("--out", type=Path, default=Path("docs/families.png"))
    given = parser.parse_args(argv)
    rows = [_named(words) for words in (given.textbook, given.today) if words]
    picture(given.data, rows, given.images, given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
