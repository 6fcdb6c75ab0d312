"""The control of score distillation: a scene by the exact denoiser of a solid's images.

    python -m benchmarks.scene_control --solid=snowman --num-seeds=3

No network is trained. The prior is the exact denoiser of a finite set, renders of a
known solid, so that what is lost is lost by score distillation and by the scene, and
not by a network that learned badly. It is conditioned on the nearest of 8 azimuths, or
on nothing, when every view may become any side of the thing. Beside it the same field
is fitted to true images by squared errors: what field, optimizer and steps can reach.

PSNR is the mean over 16 held-out views; bins are the views among 8 that are nearest to
another's truth (Janus). All seeds are printed. `--picture=FILE` shows the scenes of the
first seed from 8 sides, a row each, below the solid.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from ddpm_jax.diffusion import distillation
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.process import Prediction, like
from ddpm_jax.diffusion.schedules import Cosine, Level
from ddpm_jax.runtime.keys import root_key
from ddpm_jax.scenes import cameras, measures, volume
from ddpm_jax.scenes.cameras import Camera, CameraRange
from ddpm_jax.scenes.fields import VoxelGrid
from ddpm_jax.scenes.solids import SOLIDS, render

KINDS = ("conditional", "blind", "fitted")
RANGES = CameraRange(
    elevation=(0.0, 30.0), distance=(3.0, 3.0), field_of_view=(40.0, 40.0)
)
NUM_BINS = measures.NUM_BINS
VIEWS_PER_STEP = 4
NUM_SAMPLES = 32  # along a ray
_SHOWN = 96  # pixels of a picture's images


class Renders(NamedTuple):
    """Images of a solid by the bin of the azimuth that they are seen from.

    Attributes:
        camera: leaves [K, N].
        image: in [-1, 1], [K, N, H, W, 3].
    """

    camera: Camera
    image: np.ndarray


def renders_of(solid: str, size: int, per_bin: int, seed: int) -> Renders:
    """Render a solid from random places, as many in each bin of azimuths.

    Args:
        solid: its name.
        size: of the images, in pixels.
        per_bin: N.
        seed: of the cameras.
    """
    shape = (NUM_BINS, per_bin)
    drawn = cameras.sample_cameras(root_key(seed), NUM_BINS * per_bin, RANGES)
    width = 2 * np.pi / NUM_BINS
    within = np.asarray(drawn.azimuth).reshape(shape) / NUM_BINS - width / 2
    azimuth = within + width * np.arange(NUM_BINS)[:, None]
    others = (np.asarray(leaf).reshape(shape) for leaf in drawn[1:])
    camera = Camera(jnp.asarray(azimuth), *(jnp.asarray(leaf) for leaf in others))
    return Renders(camera, 2 * render(SOLIDS[solid], camera, size).image - 1)


def finite_denoiser(points: jax.Array) -> Denoiser:
    """Make the exact denoiser of sets of points, one of which is the condition.

    It is `diffusion.exact.mixture_denoiser` without width, for each condition k.

    Args:
        points: [K, N, D].

    Returns:
        A denoiser of x_t [B, D] under cond int32 [B], k of each row.
    """

    def denoise(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        alpha, sigma = like(level.alpha, x_t), like(level.sigma, x_t)
        known = points[cond]  # [B, N, D]
        off = x_t[:, None] - alpha[..., None] * known
        exponents = -0.5 * jnp.sum(off**2, axis=-1) / sigma**2
        x0 = jnp.einsum("bn,bnd->bd", jax.nn.softmax(exponents, axis=1), known)
        return Prediction(x0, (x_t - alpha * x0) / sigma)

    return denoise


def make_scene(
    kind: str, truth: Renders, size: int, num_steps: int, seed: int, rate: float
) -> tuple[VoxelGrid, Any]:
    """Optimize a voxel grid.

    Args:
        kind: one of `KINDS`.
        truth: what the prior knows, or what is fitted.
        size: of the images, in pixels.
        num_steps: of Adam.
        seed: of cameras, levels and noise.
        rate: of Adam.

    Returns:
        The field and its parameters.
    """
    field, schedule = VoxelGrid(), Cosine(1000).build()
    bins, per_bin = truth.image.shape[:2]
    flat = jnp.asarray(truth.image).reshape(bins, per_bin, -1)
    sets = flat if kind == "conditional" else flat.reshape(1, bins * per_bin, -1)
    denoise = finite_denoiser(sets)
    images = flat.reshape(bins * per_bin, size, size, 3)
    known = Camera(*(leaf.reshape(-1) for leaf in truth.camera))
    optimizer = optax.adam(rate, b1=0.9, b2=0.99)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        of_cameras, of_choice, of_rays, of_noise = jax.random.split(key, 4)
        chosen = jax.random.choice(
            of_choice, bins * per_bin, (VIEWS_PER_STEP,), replace=False
        )
        camera = cameras.sample_cameras(of_cameras, VIEWS_PER_STEP, RANGES)
        if kind == "fitted":
            camera = jax.tree.map(lambda leaf: leaf[chosen], known)
        rays = cameras.rays(camera, size, size)
        seen = volume.render(field.apply, params, rays, of_rays, NUM_SAMPLES)
        x = 2 * seen.color - 1
        entropy = volume.opacity_entropy(seen.opacity).mean()
        if kind == "fitted":
            return jnp.mean((x - images[chosen]) ** 2) + 1e-3 * entropy
        rows = x.reshape(VIEWS_PER_STEP, -1)
        cond = cameras.azimuth_bins(camera, bins) if kind == "conditional" else 0
        cond = jnp.broadcast_to(jnp.asarray(cond), (VIEWS_PER_STEP,))
        gradient = distillation.score_distillation(
            of_noise, denoise, schedule, rows, cond
        )
        mean = distillation.with_gradient(rows, gradient) / rows.size
        return mean + 1e-3 * entropy

    @jax.jit
    def run(params: Any, key: jax.Array) -> Any:
        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            update, state = optimizer.update(jax.grad(loss)(params, key), state)
            return (optax.apply_updates(params, update), state), None

        keys = jax.random.split(key, num_steps)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params

    of_field, of_steps = jax.random.split(root_key(seed))
    return field, run(field.init(of_field), of_steps)


Renderer = Callable[[Camera], tuple[jax.Array, jax.Array]]


def renderer_of(field: VoxelGrid, params: Any, size: int) -> Renderer:
    """Return what renders a scene: cameras to colors and opacities.

    Args:
        field: of the scene.
        params: of the field.
        size: of the images, in pixels.
    """

    @jax.jit
    def renderer(camera: Camera) -> tuple[jax.Array, jax.Array]:
        rays = cameras.rays(camera, size, size)
        seen = volume.render(field.apply, params, rays, num_samples=2 * NUM_SAMPLES)
        return jnp.clip(seen.color, 0, 1), seen.opacity

    return renderer


def save_picture(path: Path, solid: str, scenes: Sequence[Renderer], size: int) -> None:
    """Save a solid from 8 sides, and scenes from the same sides below it.

    Args:
        path: of the PNG file.
        solid: its name.
        scenes: a renderer for each row, of images of this size.
        size: of an image, in pixels.
    """
    around = cameras.orbit(NUM_BINS)
    rows = [render(SOLIDS[solid], around, size).image]
    rows += [np.asarray(renderer(around)[0]) for renderer in scenes]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    Image.fromarray(np.rint(255 * sheet).astype(np.uint8)).save(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each kind and seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--solid", default="snowman", choices=list(SOLIDS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=600)
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--per-bin", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--picture", type=Path, help="a PNG file to write")
    args = parser.parse_args(argv)
    kinds = args.kinds.split(",")
    if not set(kinds) <= set(KINDS):
        parser.error(f"--kinds={args.kinds} is not known; use {', '.join(KINDS)}")
    shown: list[Renderer] = []
    print("| kind | seed | PSNR, dB | IoU | bins of another view | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind in kinds:
        for seed in range(args.num_seeds):
            start = time.perf_counter()
            truth = renders_of(args.solid, args.size, args.per_bin, seed)
            scene = make_scene(
                kind, truth, args.size, args.num_steps, seed, args.learning_rate
            )
            renderer = renderer_of(*scene, args.size)
            found = measures.measure(SOLIDS[args.solid], renderer, args.size)
            seconds = time.perf_counter() - start
            if seed == 0:
                shown.append(renderer_of(*scene, _SHOWN))
            print(
                f"| {kind} | {seed} | {found.psnr:.1f} | {found.iou:.2f} | "
                f"{found.janus} | {seconds:.0f} |",
                flush=True,
            )
    if args.picture:
        save_picture(args.picture, args.solid, shown, _SHOWN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
