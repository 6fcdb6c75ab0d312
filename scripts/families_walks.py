"""Draw walks between latents of four families, a row each.

    python -m scripts.families_walks runs/families/digits --image=data:7,data:8

The folder is that of benchmarks.families_images. VAE, flow and diffusion walk between
encodings of the same two items of the data, diffusion's by the deterministic chain
turned round; a GAN encodes nothing, and walks between two of its samples. All walk on a
great circle, with the command `edit interpolate`.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ddpm_jax.cli import main as program
from scripts.families_picture import FAMILIES

_POINTS = 11
_STRENGTH = 0.9


def walks(folder: Path, image: str, seed: int, steps: int, out: Path) -> None:
    """Walk with the first seed of each family, and draw what came of it.

    Args:
        folder: of the runs.
        image: the items to walk between, as `edit interpolate` has them.
        seed: of a GAN's samples.
        steps: of diffusion's chain.
        out: a PNG.
    """
    figure = Figure(figsize=(8.0, 0.8 * len(FAMILIES)))
    axes = figure.subplots(len(FAMILIES), 1, squeeze=False)[:, 0]
    for place, family in zip(axes, FAMILIES, strict=True):
        items = _walk(folder / f"{family.lower()}-0", family, image, seed, steps)
        line = np.concatenate([_framed(one) for one in items[:_POINTS]], axis=1)
        place.imshow(line, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        place.axis("off")
        place.set_title(family, fontsize=9, loc="left", pad=2)
    figure.tight_layout(pad=0.3)
    figure.savefig(out, dpi=110)


def _walk(run: Path, family: str, image: str, seed: int, steps: int) -> np.ndarray:
    target = run / "walk"
    words = [
        "edit",
        "interpolate",
        str(run),
        f"--out={target}",
        f"--num-points={_POINTS}",
    ]
    words.append(f"--seed={seed}" if family == "GAN" else f"--image={image}")
    if family == "diffusion":
        # Where hardly any signal is left, a short training has not learned the chain.
        words += [f"--strength={_STRENGTH}", f"--num-steps={steps}"]
    if program(words):
        raise SystemExit(f"{family} could not walk; see above")
    name = "images.npz" if family == "diffusion" else "samples.npz"
    with np.load(target / name) as stored:
        return stored["arr_0"]


def _framed(item: np.ndarray) -> np.ndarray:
    return np.pad(item[..., 0], ((0, 0), (0, 1)), constant_values=255)


def main(argv: list[str] | None = None) -> int:
    """Run the script.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--image", default="data:7,data:8", help="two items")
    parser.add_argument("--seed", type=int, default=0, help="of a GAN's samples")
    parser.add_argument("--num-steps", type=int, default=100, help="of diffusion")
    parser.add_argument("--out", type=Path, default=Path("docs/families-walks.png"))
    given = parser.parse_args(argv)
    walks(given.folder, given.image, given.seed, given.num_steps, given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
