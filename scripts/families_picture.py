"""Draw several models' samples of points side by side, each with its number under it.

    python scripts/families_picture.py --out=docs/families.png NAME=FILE NAME=FILE

A FILE is what the command `sample`, or benchmarks.families --samples, wrote.
The number is the share within 3 standard deviations of a mode, and the modes hit. The
first panel is of the data.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ddpm_jax import data
from ddpm_jax.evaluation.modes import count_modes

_SHOWN = 2000
_COLUMNS = 4


def picture(source: str, named: list[tuple[str, Path]], out: Path) -> None:
    """Draw the panels.

    Args:
        source: of the data, points:ring or points:grid.
        named: what each panel is called, and its file.
        out: a PNG.
    """
    real = data.load(source)
    panels = [("data", np.asarray(data.in_memory(real)[0]))]
    panels += [(name, np.load(path)["arr_0"]) for name, path in named]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(2.4 * _COLUMNS, 2.8 * rows))
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    mixture = real.mixture
    assert mixture is not None, f"{source} is no mixture"
    for place in axes.flat:
        place.axis("off")
    for place, (name, points) in zip(axes.flat, panels, strict=False):
        found = count_modes(points, mixture.centers, mixture.std)
        place.scatter(*points[:_SHOWN].T, s=1.5, linewidths=0, alpha=0.6)
        place.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
        place.set_title(name, fontsize=9)
        place.text(
            *(0.5, -0.02),
            f"{100 * found.good:.1f}% good, {found.hit} of {len(mixture.centers)}",
            transform=place.transAxes,
            ha="center",
            va="top",
            fontsize=8,
        )
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Run the script.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("named", nargs="+", help="NAME=FILE of samples")
    parser.add_argument("--data", default="points:ring")
    parser.add_argument("--out", type=Path, default=Path("docs/families.png"))
    given = parser.parse_args(argv)
    named = [word.partition("=") for word in given.named]
    picture(given.data, [(name, Path(path)) for name, _, path in named], given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
