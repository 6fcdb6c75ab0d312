"""Four families of one size on images, trained for the same seconds: a table of scores.

    python -m benchmarks.families_images --data=digits --seconds=100 --seeds=3

Diffusion, VAE, GAN and flow have parameters within 10% of each other, the same batch
and no labels. How long a step of each takes is measured first, one after another and
several times, of which the shortest counts; seconds divided by it are the steps that
each is trained for. Everything is done by the commands of the program: training,
sampling, `evaluate` by the features of a classifier of the data. What is finished is
not done again. For figures that compare, let nothing else run on the cores that it has.

Bits/dim are of the values that the data have, and bounds: the VAE's by importance
weights, the flow's by uniform noise on the bins, diffusion's by `diffusion_bits`.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from benchmarks import timing
from ddpm_jax.cli import main
from ddpm_jax.commands import report
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.data.spec import Data
from ddpm_jax.diffusion.denoisers import Denoiser, predict
from ddpm_jax.diffusion.generate import fold_each, image_keys
from ddpm_jax.diffusion.process import add_noise, noise_like
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.diffusion.variational_bound import (
    bits_per_dim,
    discretized_log_likelihood,
    variational_bound,
)
from ddpm_jax.runtime import files
from ddpm_jax.runtime.images import to_float
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.log import read_metrics

FAMILIES = ("diffusion", "VAE", "GAN", "flow")


class Recipe(NamedTuple):
    """A recipe, and how it differs here.

    Attributes:
        name: a file of configs/, and its argument.
        options: NAME=VALUE.
    """

    name: str
    options: tuple[str, ...] = ()


class Images(NamedTuple):
    """A data set, and what is trained on it.

    Attributes:
        recipes: of each family.
        features: of the classifier whose features score.
        batch_size: of every family.
        num_values: that the bytes of the data have.
        num_images: drawn of each model to be scored.
        num_bits: images of the test split whose bits are measured, at most.
    """

    recipes: dict[str, Recipe]
    features: Recipe
    batch_size: int
    num_values: int
    num_images: int
    num_bits: int


SETS = {
    # The recipes have a million parameters; of these networks, a quarter of that, a
    # minute or two of one core are enough.
    "digits": Images(
        {
            "diffusion": Recipe(
                "digits",
                (
                    *("conditioners.label=None", "network.channels=16"),
                    "network.num_groups=8",
                ),
            ),
            "VAE": Recipe(
                "digits_vae", ("network.channels=20", "network.num_groups=4")
            ),
            "GAN": Recipe(
                "digits_gan",
                (
                    *("network.channels=20", "network.num_groups=4"),
                    *("discriminator.channels=20", "discriminator.num_groups=4"),
                ),
            ),
            "flow": Recipe("digits_glow", ("network.width=92",)),
        },
        Recipe("digits_features"),
        batch_size=64,
        num_values=17,
        num_images=1000,
        num_bits=299,
    ),
    "mnist16": Images(
        {name: Recipe(f"mnist16:{name.lower()}") for name in FAMILIES},
        Recipe(
            "mnist_features",
            (
                *("data.image_size=16", "data.pad_to=0"),
                "training.num_steps=1000",
            ),
        ),
        batch_size=64,
        num_values=256,
        num_images=1000,
        num_bits=200,
    ),
}

_SCORES = ("frechet", "precision_recall", "density_coverage")
_TIMED, _WINDOW = 40, 10  # steps of a measurement, and of a report in it
_SAMPLING = ("--sampler=ancestral", "--num-steps=50")  # of diffusion
_SPEED_BATCH = 100
_BOUND_STEPS = 250
_BITS_BATCH = 100
_DRAWS = 50  # of the importance-weighted bound of a VAE
_COLLAPSED = 0.1  # coverage below which a model counts as failed


# --- Commands -------------------------------------------------------------------------


def _line(recipe: Recipe, folder: Path, options: tuple[str, ...]) -> list[str]:
    name, colon, argument = recipe.name.partition(":")
    given = [f"--config.{option}" for option in (*recipe.options, *options)]
    return [
        f"--config=configs/{name}.py{colon}{argument}",
        f"--workdir={folder}",
        *given,
    ]


def _call(words: list[str]) -> bool:
    """Run the program; whether it did what it was asked for."""
    print("$ python main.py", " ".join(words), flush=True)
    status = main(words)
    if status >= 128:
        raise KeyboardInterrupt
    return status == 0


def _options(
    family: str, seed: int, num_steps: int, images: Images, report_every: int
) -> tuple[str, ...]:
    """Return the options of a run of some steps, its warm-ups shares of it."""
    found = [
        f"seed={seed}",
        f"training.num_steps={num_steps}",
        f"training.batch_size={images.batch_size}",
        f"training.warmup_steps={num_steps // 10}",
        f"training.report_every={report_every}",
        f"training.checkpoint_every={num_steps}",
        "training.preview_every=0",
        "sample.num_images=4",
        "sample.batch_size=4",
    ]
    if family == "VAE":
        found.append(f"kl_warmup={num_steps // 4}")
    if family == "diffusion":
        found.append("sample.num_steps=2")  # of the images that training ends with
    return tuple(found)


def seconds_of_step(family: str, images: Images, folder: Path) -> float:
    """Train for some steps; return the seconds of one, of the fastest window.

    Args:
        family: of `FAMILIES`.
        images: the set.
        folder: of the run, which is removed.

    Raises:
        RuntimeError: it could not be trained.
    """
    shutil.rmtree(folder, ignore_errors=True)
    options = _options(family, 0, _TIMED, images, _WINDOW)
    if not _call(_line(images.recipes[family], folder, options)):
        raise RuntimeError(f"{family} could not be trained; see above.")
    rates = [record["examples_per_second"] for record in read_metrics(folder)]
    shutil.rmtree(folder)
    return images.batch_size / max(rate for rate in rates if rate)


def calibrate(
    families: list[str], images: Images, folder: Path, repeats: int
) -> dict[str, float]:
    """Measure the seconds of a step of each family, in turns; the least counts.

    Args:
        families: of `FAMILIES`.
        images: the set.
        folder: where steps.json is kept, and found.
        repeats: turns.
    """
    path = folder / "steps.json"
    known = files.read_json(path) if path.exists() else {}
    for turn in range(repeats):
        for family in families:
            times = known.setdefault(family, [])
            if len(times) <= turn:
                times.append(seconds_of_step(family, images, folder / "timed"))
                files.write_json(path, known)
    return {family: min(known[family]) for family in families}


# --- Bits of diffusion ----------------------------------------------------------------


def on_grid(x: jax.Array, num_values: int) -> jax.Array:
    """Move pixels [...] in [-1, 1] to the nearest of some even values."""
    steps = num_values - 1
    return jnp.round((x + 1.0) * (steps / 2)) * (2.0 / steps) - 1.0


def chain_levels(schedule: Schedule, noise: float, num_steps: int) -> Level:
    """Lay out a chain that ends before noise is finer than this: leaves [N + 1].

    Args:
        schedule: of T levels.
        noise: sigma / alpha of the last level before the clean end, at the least.
        num_steps: N.
    """
    levels = schedule.at(jnp.arange(schedule.num_levels))
    first = int(np.argmax(np.asarray(levels.sigma / levels.alpha) >= noise))
    times = np.linspace(schedule.num_levels - 1, first, num_steps).round()
    return schedule.at(jnp.asarray([*times.astype(int), -1]))


def diffusion_bits(
    denoise: Denoiser,
    levels: Level,
    keys: jax.Array,
    x: jax.Array,
    *,
    num_values: int,
    width: float | jax.Array,
) -> jax.Array:
    """Bound -log2 P(x) per dimension by a chain that stops at the values' own width.

    It is the bound of the chain, but for its last step, P(x|x_1): a Gaussian about the
    denoiser's prediction, in the bins of the values. In finer noise there is nothing to
    be learned of data that have few values, but their spikes.

    Args:
        denoise: the model.
        levels: of the chain, leaves [N + 1], from `chain_levels`.
        keys: typed keys [B].
        x: on the grid of the values, [B, ...].
        num_values: of that grid.
        width: standard deviation of P(x|x_1).

    Returns:
        [B], with one draw of x_t for each step.

    Source: Ho, Jain, Abbeel 2020, eq. (5), (8) and (13).
    """
    bound = variational_bound(fold_each(keys, 0), denoise, x, levels)
    level = jax.tree.map(lambda leaf: leaf[-2], levels)
    eps = noise_like(fold_each(keys, 1), x)
    x0 = predict(denoise, add_noise(x, eps, level), level, None).x0
    log_p = discretized_log_likelihood(x, x0, jnp.asarray(width), num_values)
    return bound.prior + bound.steps[1:].sum(0) + bits_per_dim(-log_p)


def _bits_of_diffusion(
    model: Any, seen: np.ndarray, items: np.ndarray, num_values: int
) -> np.ndarray:
    """Bound bits/dim of items [N, ...]; the width is that of errors on seen ones."""
    noise = 0.5 / (num_values - 1)  # a quarter of what lies between values
    levels = chain_levels(model.schedule, noise, _BOUND_STEPS)
    level = jax.tree.map(lambda leaf: leaf[-2], levels)

    # Parameters and width are arguments, so that all seeds share a program.
    @jax.jit
    def squared_error(params: Any, x: jax.Array) -> jax.Array:
        eps = jax.random.normal(jax.random.key(1), x.shape)
        denoise = model.denoiser(params=params)
        off = predict(denoise, add_noise(x, eps, level), level, None).x0 - x
        return jnp.mean(off**2)

    @jax.jit
    def measured(params: Any, width: float, keys: jax.Array, x: jax.Array) -> jax.Array:
        return diffusion_bits(
            model.denoiser(params=params),
            levels,
            keys,
            x,
            num_values=num_values,
            width=width,
        )

    known = on_grid(to_float(jnp.asarray(seen)), num_values)
    width = max(float(squared_error(model.params, known)) ** 0.5, 0.1 / num_values)
    found = []
    for start in range(0, len(items), _BITS_BATCH):
        places = np.arange(start, start + _BITS_BATCH)
        batch = items[np.minimum(places, len(items) - 1)]
        keys = image_keys(jax.random.key(0), jnp.asarray(places))
        x = on_grid(to_float(jnp.asarray(batch)), num_values)
        found.append(measured(model.params, width, keys, x))
    return np.concatenate(found)[: len(items)]


# --- Measuring ------------------------------------------------------------------------


def measure(family: str, images: Images, run: Path) -> dict[str, float]:
    """Measure bits/dim of the test split, and images drawn a second.

    Args:
        family: of `FAMILIES`.
        images: the set.
        run: of a trained model.
    """
    model, found = ddpm_jax.load(run), {}
    if family == "diffusion":
        sampler, steps = (word.partition("=")[2] for word in _SAMPLING)
        found["calls"] = int(steps)

        def draw(seed: int) -> Any:
            return model.sample(
                _SPEED_BATCH,
                batch_size=_SPEED_BATCH,
                sampler=sampler,
                num_steps=int(steps),
                seed=seed,
            )
    else:
        found["calls"] = 1

        def draw(seed: int) -> Any:
            return model.sample(jax.random.key(seed), _SPEED_BATCH)

    timing.seconds(lambda: draw(0))
    best = min(timing.seconds(lambda seed=seed: draw(seed)) for seed in (1, 2, 3))
    found["images_per_second"] = _SPEED_BATCH / best
    if family == "GAN":
        return found
    of = trained_recipe(run).task.data
    splits = [_first(of, split, images.num_bits) for split in ("train", "test")]
    if family == "diffusion":
        bits = _bits_of_diffusion(model, *splits, images.num_values)
    else:
        draws = _DRAWS if model.is_bounded else 1
        bits = np.asarray(model.bits_per_dim(jax.random.key(0), splits[1], draws))
    found["bits"] = float(bits.mean())
    found["bits_error"] = float(bits.std(ddof=1) / math.sqrt(len(bits)))
    return found


def _first(of: Data, split: str, count: int) -> np.ndarray:
    source = of.open(split)
    count = min(count, len(source))
    return np.stack([source.source[i]["image"] for i in range(count)])


def train_and_score(
    family: str, seed: int, num_steps: int, images: Images, folder: Path
) -> dict[str, Any]:
    """Train a family with a seed, and measure what became of it; plain data.

    Args:
        family: of `FAMILIES`.
        seed: of the run.
        num_steps: of its training.
        images: the set.
        folder: of all runs; this one's result is kept there, and found.

    Raises:
        RuntimeError: it could not be evaluated.
    """
    run, features = folder / f"{family.lower()}-{seed}", folder / "features"
    path = folder / f"{family.lower()}-{seed}.json"
    if path.exists():
        return files.read_json(path)
    options = _options(family, seed, num_steps, images, max(1, num_steps // 20))
    found: dict[str, Any] = {"family": family, "seed": seed, "num_steps": num_steps}
    found["finite"] = _call(_line(images.recipes[family], run, options))
    if found["finite"]:
        found |= _trained(run, images.batch_size)
        words = [
            *("evaluate", str(run), f"--features={features}"),
            *(f"--num-images={images.num_images}", f"--scores={','.join(_SCORES)}"),
            *("--batch-size=100", "--feature-batch-size=250"),
            *(_SAMPLING if family == "diffusion" else ()),
        ]
        if not _call(words):
            raise RuntimeError(f"{run} could not be evaluated; see above.")
        (row,) = [r for r in report.read_rows(run / "evaluation") if r["model"]]
        found |= {name: one["value"] for name, one in row["scores"].items()}
        found |= measure(family, images, run)
    files.write_json(path, found)
    return found


def _trained(run: Path, batch_size: int) -> dict[str, Any]:
    """Read what a run says of its training: seconds of its steps, parameters."""
    seconds, before = 0.0, 0
    for record in read_metrics(run):
        step, rate = record["step"], record["examples_per_second"]
        assert step is not None
        seconds += (step - before) * batch_size / rate if rate else 0.0
        before = int(step)
    return {"seconds": round(seconds, 1), "parameters": num_parameters(run)}


def num_parameters(run: Path) -> int:
    """Count the numbers that a finished run has trained, of all its networks."""
    step = store.latest_step(run)
    assert step is not None, f"{run} has no checkpoint"
    params = store.restore_params(run, step=step, ema=False)
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))


# --- The table ------------------------------------------------------------------------


def run(
    name: str,
    *,
    families: list[str],
    seconds: float,
    seeds: int,
    folder: Path,
    repeats: int = 3,
    only_steps: bool = False,
) -> list[dict[str, Any]]:
    """Time, train and score families on a set of images.

    Args:
        name: of `SETS`.
        families: of `FAMILIES`.
        seconds: of the steps of each training.
        seeds: how many, from 0.
        folder: of all that is made.
        repeats: of the measurement of a step.
        only_steps: whether to stop after that.

    Raises:
        RuntimeError: the classifier could not be trained.
    """
    images, folder = SETS[name], folder / name
    folder.mkdir(parents=True, exist_ok=True)
    if not _call(_line(images.features, folder / "features", ())):
        raise RuntimeError("the classifier could not be trained; see above.")
    steps = calibrate(families, images, folder, repeats)
    for family, step in steps.items():
        print(f"{family}: {1000 * step:.1f} ms a step", flush=True)
    results = []
    for seed in range(0 if only_steps else seeds):  # a seed of all, then another
        for family in families:
            num_steps = max(2, round(seconds / steps[family]))
            results.append(train_and_score(family, seed, num_steps, images, folder))
            print(json.dumps(results[-1]), flush=True)
    return results


_COLUMNS = {
    "FD": ("frechet_distance", ".2f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "coverage": ("coverage", ".2f"),
    "bits/dim": ("bits", ".2f"),
}


def table(results: list[dict[str, Any]]) -> str:
    """Write results as a table, the seeds of a family separated by slashes."""
    heads = ["family", "parameters", "steps", "seconds", *_COLUMNS]
    heads += ["images/s", "calls", "failed"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for family in dict.fromkeys(r["family"] for r in results):
        own = [r for r in results if r["family"] == family]
        whole = [r for r in own if r["finite"]]
        failed = sum(not r["finite"] or r["coverage"] < _COLLAPSED for r in own)

        def each(key: str, form: str, own: list = own) -> str:
            if not any(key in r for r in own):
                return ""
            return " / ".join(format(r[key], form) if key in r else "-" for r in own)

        cells = [family, f"{whole[0]['parameters']:,}" if whole else ""]
        cells += [f"{own[0]['num_steps']:,}", each("seconds", ".0f")]
        cells += [each(*column) for column in _COLUMNS.values()]
        fastest = max((r["images_per_second"] for r in whole), default=0.0)
        cells += [f"{fastest:,.0f}", f"{whole[0]['calls']}" if whole else ""]
        cells.append(f"{failed} of {len(own)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def start(argv: list[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=tuple(SETS), default="digits")
    parser.add_argument("--families", default=",".join(FAMILIES), help="some of them")
    parser.add_argument("--seconds", type=float, default=100.0, help="of a training")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of a step")
    parser.add_argument("--only-steps", action="store_true", help="measure these alone")
    parser.add_argument("--workdir", type=Path, default=Path("runs/families"))
    given = parser.parse_args(argv)
    results = run(
        given.data,
        families=given.families.split(","),
        seconds=given.seconds,
        seeds=given.seeds,
        folder=given.workdir,
        repeats=given.repeats,
        only_steps=given.only_steps,
    )
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(start())
