"""Draw what each way of guidance samples in the plane; a figure for editing.md.

    python -m benchmarks.guidance_plane --out=docs/guidance-plane.png

No network is trained. The data are three classes, each a spiral arm of narrow
Gaussians, whose denoisers are exact. The model is the exact denoiser of wider
Gaussians, of twice the variance, so that it blurs as a network does that has too little
capacity; its worse version is one of four times. Under each law stand the sliced
Wasserstein distance of as many samples from the class, and their width: the root mean
square distance from the curve of the arm, over the deviation of the data.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import generate, grids, guidance, karras, schedules
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.evaluation.sliced_wasserstein import sliced_wasserstein

ARMS, CENTERS, STD = 3, 16, 0.04
NULL = ARMS
SCALE = 3.0
COLORS = ("#1f5fa8", "#c8c8c8")


def arms(count: int = CENTERS) -> np.ndarray:
    """Lay out the centers of the classes, or more points of their curves.

    Args:
        count: K, of each class.

    Returns:
        float64 [ARMS, K, 2].
    """
    along = np.linspace(0.25, 1.0, count)
    angles = 2.2 * along + 2 * np.pi / ARMS * np.arange(ARMS)[:, None]
    return along[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def points(count: int, seed: int) -> np.ndarray:
    """Sample the data: float64 [ARMS, N, 2]."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(CENTERS, size=(ARMS, count))
    places = np.take_along_axis(arms(), chosen[..., None], axis=1)
    return places + STD * rng.standard_normal(places.shape)


def model(blur: float) -> Denoiser:
    """Make the exact denoiser of the classes, and of all where the class is NULL.

    Args:
        blur: of which the variance of each Gaussian is a multiple.
    """
    std = STD * blur**0.5
    exact = [mixture_denoiser(arm, std) for arm in arms()]
    exact.append(mixture_denoiser(arms().reshape(-1, 2), std))

    def denoise(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        found = [of_class(x_t, level, None) for of_class in exact]
        row = jnp.arange(len(x_t))
        return jax.tree.map(lambda *leaf: jnp.stack(leaf)[cond["label"], row], *found)

    return denoise


def null(cond: Cond) -> Cond:
    """Take the class away."""
    return {"label": jnp.full_like(cond["label"], NULL)}


class Way(NamedTuple):
    """A way of guidance: its name, and the denoiser that it makes."""

    name: str
    denoise: Denoiser


def ways(num_steps: int, blur: float = 2.0) -> list[Way]:
    """List the ways of guidance that are compared.

    Args:
        num_steps: of the chain, the first of which stands still by zero-init.
        blur: of the model; its worse version has the square.
    """
    own, worse = model(blur), model(blur**2)
    levels = levels_of(num_steps)
    first = float(levels.sigma[1] / levels.alpha[1])
    optimized = guidance.optimized_scale(own, SCALE, null)
    return [
        Way("the model, scale 1", own),
        Way(f"classifier-free, {SCALE:g}", guidance.classifier_free(own, SCALE, null)),
        Way(f"projected (APG), {SCALE:g}", guidance.projected(own, SCALE, null)),
        Way(f"CFG-Zero*, {SCALE:g}", guidance.zero_init(optimized, 2 * first)),
        Way("autoguidance, 2", guidance.autoguidance(own, worse, 2.0)),
    ]


def levels_of(num_steps: int) -> Level:
    """Lay out a chain on the straight path, finer where there is little noise."""
    path = schedules.straight(1000)
    return grids.grid(path, num_steps, grids.quadratic_steps)


def sampler(
    denoise: Denoiser, count: int, num_steps: int
) -> Callable[[int], np.ndarray]:
    """Make what samples N points [N, 2] of the first class, given a seed.

    Args:
        denoise: guided.
        count: N.
        num_steps: of Euler's rule.
    """

    @jax.jit
    def run(key: jax.Array) -> jax.Array:
        keys = generate.image_keys(key, jnp.arange(count))
        x, _ = generate.generate(
            keys,
            karras.euler(),
            denoise,
            generate.initial_noise(keys, (2,)),
            levels_of(num_steps),
            cond={"label": jnp.zeros(count, jnp.int32)},
        )
        return x

    return lambda seed: np.asarray(run(jax.random.key(seed)))


class Law(NamedTuple):
    """Samples, their distances from the class, and their widths, one of each seed."""

    name: str
    x: np.ndarray  # [N, 2], of the first seed
    distances: np.ndarray  # [S]
    widths: np.ndarray  # [S]


def width(x: np.ndarray) -> float:
    """Measure how far points [N, 2] are from the first arm, over the data's STD."""
    curve = arms(10 * CENTERS)[0]
    square = ((x[:, None] - curve) ** 2).sum(-1).min(1)
    return float(np.sqrt(square.mean())) / STD


def laws(count: int, num_steps: int, num_seeds: int) -> list[Law]:
    """Sample by each way of guidance, after data that are held against data.

    Args:
        count: N, points of each.
        num_steps: of each chain.
        num_seeds: S.
    """
    seeds = range(num_seeds)
    real = [points(count, seed)[0] for seed in seeds]
    others = [points(count, num_seeds + seed)[0] for seed in seeds]
    made = [("data", others)]
    for name, denoise in ways(num_steps):
        made.append((name, list(map(sampler(denoise, count, num_steps), seeds))))
    return [
        Law(
            name,
            drawn[0],
            np.array(
                [sliced_wasserstein(*both) for both in zip(drawn, real, strict=True)]
            ),
            np.array(list(map(width, drawn))),
        )
        for name, drawn in made
    ]


def picture(path: str, found: Sequence[Law]) -> None:
    """Draw the laws side by side, the other classes in grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.1 * len(found), 2.5), dpi=110, layout="constrained")
    behind = points(1000, 0)[1:].reshape(-1, 2)
    axes: Any
    for axes, law in zip(figure.subplots(1, len(found)), found, strict=True):
        for x, color in ((behind, COLORS[1]), (law.x[:2000], COLORS[0])):
            axes.scatter(*x.T, s=1.5, linewidths=0, color=color)
        axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        axes.set(xticks=[], yticks=[])
        axes.set_title(law.name, fontsize=9)
        under = f"{law.distances.mean():.3f}, width {law.widths.mean():.2f}"
        axes.set_xlabel(under, fontsize=9)
    figure.savefig(path)


def table(found: Sequence[Law]) -> str:
    """Write the numbers: mean over the seeds, and least and largest."""
    lines = ["| | sliced Wasserstein distance | width |", "| --- | --- | --- |"]
    for law in found:
        both = (
            f"{of.mean():.{digits}f} ({of.min():.{digits}f} to {of.max():.{digits}f})"
            for of, digits in ((law.distances, 3), (law.widths, 2))
        )
        lines.append(f"| {law.name} | {' | '.join(both)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Write the picture, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="guidance-plane.png", help="the picture")
    parser.add_argument("--num-points", type=int, default=2000, help="of each law")
    parser.add_argument("--num-steps", type=int, default=100, help="of each chain")
    parser.add_argument("--num-seeds", type=int, default=4, help="of the table")
    asked = parser.parse_args(words)
    found = laws(asked.num_points, asked.num_steps, asked.num_seeds)
    picture(asked.out, found)
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
