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

    python -m benchmarks.scene_control --fine --solid=snowman --num-seeds=3

refines each conditional scene as a mesh (`tasks.refinement`), by the exact denoiser of
finer renders. PSNR and the mean error of the normals are of 64x64 views then, from the
same 16 held-out cameras: of the volume, of the mesh that it becomes (the difference is
the gap of the conversion), and of the refined mesh. In the picture they are three rows.
"""

import argparse
import functools
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
from ddpm_jax.recipe import Adam, Fit, Refinement, Scene
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.runtime.keys import root_key
from ddpm_jax.scenes import cameras, measures, volume
from ddpm_jax.scenes.cameras import Camera, CameraRange
from ddpm_jax.scenes.fields import VoxelGrid
from ddpm_jax.scenes.solids import SOLIDS, render
from ddpm_jax.tasks.refinement import SurfaceModel, refinement_task
from ddpm_jax.tasks.scene import SceneModel
from ddpm_jax.tasks.views import Prior, ViewedModel

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


Renderer = Callable[[Camera], tuple[Any, Any]]


# --- The fine stage -------------------------------------------------------------------


class Refined(NamedTuple):
    """A scene before and after it was refined.

    Attributes:
        volume: the scene.
        start: its mesh, not refined.
        end: refined.
        seconds: of a step, without the first.
    """

    volume: SceneModel
    start: SurfaceModel
    end: SurfaceModel
    seconds: float


def prior_of(truth: Renders) -> Prior:
    """Make a prior of the exact denoiser of renders, told the bin of the azimuth.

    Args:
        truth: what it knows.
    """
    bins, _, height, width, _ = truth.image.shape
    flat = finite_denoiser(jnp.asarray(truth.image).reshape(*truth.image.shape[:2], -1))

    def denoise(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        found = flat(x_t.reshape(len(x_t), -1), level, cond)
        return Prediction(*(leaf.reshape(x_t.shape) for leaf in (found.x0, found.eps)))

    bin_of = functools.partial(cameras.azimuth_bins, num_bins=bins)
    schedule = Cosine(1000).build()
    return Prior(denoise, schedule, (height, width), jnp.arange(bins), bin_of)


def refine(
    volume: SceneModel, truth: Renders, spec: Refinement, num_steps: int, rate: float
) -> Refined:
    """Refine the surface of a volume by the exact denoiser of renders.

    Args:
        volume: of the coarse stage.
        truth: what the prior knows.
        spec: of the surface, with the seed of cameras, levels and noise.
        num_steps: of Adam, of 2 views each.
        rate: of Adam at the start, of a cosine.
    """
    fit = Fit(
        num_steps=num_steps,
        batch_size=2,
        optimizer=Adam(b1=0.9, b2=0.99),
        learning_rate=rate,
        decay="cosine",
        warmup_steps=0,
        max_grad_norm=0.0,
        ema_decay=0.9,
    )
    start = volume.to_surface(spec.num_cells)
    task = refinement_task(spec, prior_of(truth), start, fit, data_mesh())
    step = jax.jit(task.step, donate_argnums=0)
    state, key = task.start(task.draw()), root_key(spec.seed)
    view = jnp.arange(fit.batch_size)
    started = time.perf_counter()
    for number in range(num_steps):
        batch = {"view": view, "step": jnp.full_like(view, number)}
        state, metrics = step(state, key, batch)
        task.summarize([jax.device_get(metrics)])
        if number == 0:
            started = time.perf_counter()
    seconds = (time.perf_counter() - started) / max(num_steps - 1, 1)
    before = SurfaceModel(spec, start._asdict(), {})
    return Refined(volume, before, SurfaceModel(spec, state.ema_params, {}), seconds)


class FineMeasures(NamedTuple):
    """How near a thing's fine views are to a solid.

    Attributes:
        psnr: mean over the held-out views, dB.
        normal_error: mean angle, degrees.
    """

    psnr: float
    normal_error: float


def measure_fine(solid: str, model: ViewedModel, size: int) -> FineMeasures:
    """Compare a thing with a solid on held-out views; four samples a pixel.

    Args:
        solid: its name.
        model: the thing.
        size: of the views, in pixels.
    """
    camera = measures.held_out_cameras()
    truth = render(SOLIDS[solid], camera, size)
    seen = model.render(camera, 2 * size)
    color, normal = (
        np.asarray(leaf).reshape(-1, size, 2, size, 2, 3).mean((2, 4))
        for leaf in (seen.color, seen.normal)
    )
    return FineMeasures(
        float(measures.psnr(color, truth.image).mean()),
        measures.normal_error(normal, truth.normal),
    )


def fine_rows(args: argparse.Namespace) -> int:
    """Print a row for each seed of the fine stage."""
    print(
        "| solid | seed | volume, dB | its mesh, dB | refined, dB | gain, dB | "
        "normals of the volume | its mesh | refined | triangles | ms a step |"
    )
    print("| --- |" + " ---: |" * 10)
    shown: list[Renderer] = []
    for seed in range(args.first_seed, args.first_seed + args.num_seeds):
        truth = renders_of(args.solid, args.size, args.per_bin, seed)
        field, params = make_scene(
            "conditional", truth, args.size, args.num_steps, seed, args.learning_rate
        )
        spec = Refinement(
            seed=seed,
            cameras=RANGES,
            num_cells=args.cells,
            supersampling=2,
            bending=args.bending,
        )
        refined = refine(
            SceneModel(Scene(field=field), params, {}),
            renders_of(args.solid, args.fine_size, args.per_bin, seed),
            spec,
            args.fine_steps,
            args.fine_rate,
        )
        found = [
            measure_fine(args.solid, model, args.view_size) for model in refined[:3]
        ]
        levels = " | ".join(f"{one.psnr:.1f}" for one in found)
        angles = " | ".join(f"{one.normal_error:.1f}" for one in found)
        print(
            f"| {args.solid} | {seed} | {levels} | {found[2].psnr - found[0].psnr:+.1f}"
            f" | {angles} | {refined.end.num_triangles} | "
            f"{1000 * refined.seconds:.0f} |",
            flush=True,
        )
        if not shown:
            shown = [_colors_of(model) for model in refined[:3]]
    if args.picture:
        save_picture(args.picture, args.solid, shown, _SHOWN)
    return 0


def _colors_of(model: ViewedModel) -> Renderer:
    def renderer(camera: Camera) -> tuple[Any, Any]:
        seen = model.render(camera, _SHOWN)
        return np.clip(np.asarray(seen.color), 0, 1), seen.opacity

    return renderer


# --- The table ------------------------------------------------------------------------


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
    fine = parser.add_argument_group("the fine stage")
    fine.add_argument("--fine", action="store_true", help="refine conditional scenes")
    fine.add_argument("--first-seed", type=int, default=0)
    fine.add_argument("--cells", type=int, default=24, help="of the grid, a side")
    fine.add_argument("--fine-size", type=int, default=32, help="of the finer renders")
    fine.add_argument("--view-size", type=int, default=64, help="of what is judged")
    fine.add_argument("--fine-steps", type=int, default=300)
    fine.add_argument("--fine-rate", type=float, default=0.05)
    fine.add_argument("--bending", type=float, default=Refinement.bending)
    args = parser.parse_args(argv)
    if args.fine:
        return fine_rows(args)
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
