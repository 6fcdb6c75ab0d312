"""Train VAE, GAN and flow on mixtures of Gaussians, fair and naive: a table of modes.

    python -m benchmarks.families --data=ring,grid --seeds=3

Each row is a recipe of configs/, or that with the options of its naive counterpart. A
task is trained by its own step, in one compiled loop without reports or checkpoints,
and 10,000 samples of its averaged parameters are held against the mixture. The seconds
are of the processor, all its cores added up, and without compilation.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.cli import load_recipe, override
from ddpm_jax.evaluation.modes import count_modes
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.tasks.latent_model import LatentTask

_NO_CARE = (
    *("training.max_grad_norm=0", "training.warmup_steps=0", "training.ema_decay=0"),
    "training.decay=constant",
)
# The naive rows are as small as such first attempts are.
_SMALL_VAE = ("network.width=64", "network.depth=2", "training.num_steps=8000")
_SMALL_GAN = (
    *("network.width=96", "network.num_frequencies=0", "discriminator.width=96"),
    *("discriminator.depth=2", "discriminator.num_frequencies=3"),
)
ROWS = {
    "VAE": ("points_vae", ()),
    "VAE, plain": (
        "points_vae",
        (
            *("kl_warmup=0", "initial_std=1", "training.learning_rate=3e-3"),
            *(*_SMALL_VAE, *_NO_CARE),
        ),
    ),
    "GAN, relativistic, R1 + R2": ("points_gan", ()),
    "GAN, textbook": (
        "points_gan",
        ("loss=non_saturating", "gamma=0", *_SMALL_GAN, *_NO_CARE),
    ),
    "flow": ("points_flow", ()),
    "flow, plain RealNVP": (
        "points_flow",
        (
            *("network.mixing=reverse", "network.bound=0", "network.depth=1"),
            *("network.num_frequencies=0", "training.num_steps=4000", *_NO_CARE),
            "training.learning_rate=2e-3",
        ),
    ),
}
"""Name -> recipe, and options that differ from it."""

_SAMPLES = 10_000
_CHUNK = 500  # steps of one call, between which nothing is read
_CHECKED = 2000  # items, for inverse and likelihood
_DRAWS = 100  # importance samples of the bound of a VAE


def recipe_of(row: str, data: str, options: tuple[str, ...] = ()) -> Any:
    """Return the recipe of a row on a set of points.

    Args:
        row: a key of `ROWS`.
        data: ring or grid.
        options: further ones, NAME=VALUE.
    """
    name, own = ROWS[row]
    given = [f"--config.{option}" for option in (*own, *options)]
    return override(load_recipe(f"configs/{name}.py:{data}")[0], given)


class Trainer:
    """The task of a recipe, compiled once for all seeds and sets of points.

    Args:
        recipe: of any set.
    """

    def __init__(self, recipe: Any) -> None:
        self.spec, self.fit = recipe.task, recipe.training
        self._advance = None

    def train(self, spec: LatentTask) -> tuple[Any, float]:
        """Train another spec of the same networks; its model, and CPU seconds."""
        source = spec.data.open()
        task = spec.build(source, self.fit, data_mesh())
        state = task.start(task.draw())
        items = jnp.asarray(source.source.items)
        key = jax.random.fold_in(jax.random.key(spec.seed), 1)
        if self._advance is None:
            self._advance = self._compile(task.step, state, key, items)
        begun = time.process_time()
        for _ in range(self.fit.num_steps // self._chunk):
            state = self._advance(state, key, items)
        jax.block_until_ready(state)
        seconds = time.process_time() - begun
        facts = {"item_shape": source.shape, "dtype": str(source.dtype)}
        return spec.open(state.ema_params, facts), seconds

    def _compile(self, step: Any, *shapes: Any) -> Any:
        self._chunk = min(_CHUNK, self.fit.num_steps)
        size = self.fit.batch_size

        def advance(state: Any, key: jax.Array, items: jax.Array) -> Any:
            def one(state: Any, _: None) -> tuple[Any, None]:
                own = jax.random.fold_in(jax.random.fold_in(key, 2), state.step)
                places = jax.random.randint(own, (size,), 0, len(items))
                return step(state, key, {"image": items[places]})[0], None

            return jax.lax.scan(one, state, None, self._chunk)[0]

        return jax.jit(advance).lower(*shapes).compile()


def measure(
    model: Any, source: Any, seed: int, out: Path | None = None
) -> dict[str, Any]:
    """Hold samples of a model against the mixture of its data.

    Args:
        model: a `LatentModel`.
        source: the data.
        seed: of the samples.
        out: a file for them; None keeps none.
    """
    key = jax.random.key(1000 + seed)
    drawn = np.asarray(model.sample(key, _SAMPLES))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out, drawn)
    mixture, found = source.mixture, {}
    if np.isfinite(drawn).all():
        found = count_modes(drawn, mixture.centers, mixture.std)._asdict()
    items = source.source.items[:_CHECKED]
    if model.has_likelihood:
        draws = _DRAWS if model.is_bounded else 1
        found["nats"] = -float(model.log_likelihood(key, items, draws).mean())
    if model.kind == "flow":
        back = model.decode(model.encode(items))
        found["inverse_error"] = float(np.abs(np.asarray(back) - items).max())
    if "decoder_log_std" in model.params:
        found["decoder_std"] = float(jnp.exp(model.params["decoder_log_std"]))
    return found | {"parameters": model.num_params}


def run(
    rows: list[str],
    sets: list[str],
    seeds: int,
    options: tuple[str, ...] = (),
    samples: Path | None = None,
    first_seed: int = 0,
) -> list[dict[str, Any]]:
    """Train and measure every row, set and seed; each is printed when it is there.

    Args:
        rows: keys of `ROWS`.
        sets: ring, grid.
        seeds: how many.
        options: of all rows, NAME=VALUE.
        samples: a folder for those of the first seed; None keeps none.
        first_seed: from which on.
    """
    results = []
    for row in rows:
        trainer = Trainer(recipe_of(row, sets[0], options))
        for data in sets:
            for seed in range(first_seed, first_seed + seeds):
                spec = recipe_of(row, data, (*options, f"seed={seed}")).task
                model, seconds = trainer.train(spec)
                name = f"{data}-{'-'.join(re.findall(r'[a-z0-9]+', row.lower()))}.npz"
                kept = None
                if samples is not None and seed == first_seed:
                    kept = samples / name
                found = measure(model, spec.data.open(), seed, kept)
                found |= {"row": row, "data": data, "seed": seed}
                results.append(found | {"cpu_seconds": round(seconds, 1)})
                print(json.dumps(results[-1]), flush=True)
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Write results as a table, the seeds of a row separated by slashes."""
    lines = [
        "| data | model | parameters | CPU s | modes hit | good | KL | |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for data, row in dict.fromkeys((r["data"], r["row"]) for r in results):
        own = [r for r in results if (r["data"], r["row"]) == (data, row)]

        def all_of(name: str, form: str, own: list = own) -> str:
            return " / ".join(
                format(r[name], form) if name in r else "not finite" for r in own
            )

        seconds = np.mean([r["cpu_seconds"] for r in own])
        cells = [
            *(data, row, f"{own[0]['parameters']:,}", f"{seconds:.0f}"),
            *(all_of("hit", "d"), all_of("good", ".1%"), all_of("kl", ".3f")),
        ]
        notes = {"nats": ".2f", "decoder_std": ".3f", "inverse_error": ".0e"}
        texts = [
            f"{name.replace('_', ' ')} {all_of(name, form)}"
            for name, form in notes.items()
            if name in own[0]
        ]
        lines.append(f"| {' | '.join([*cells, '; '.join(texts)])} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="ring,grid", help="sets of points")
    parser.add_argument("--rows", default=";".join(ROWS), help="some, with semicolons")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument(
        "--first-seed", type=int, default=0, help="tune with others than are reported"
    )
    parser.add_argument("--options", default="", help="of all rows: NAME=VALUE,...")
    parser.add_argument("--samples", type=Path, help="a folder for those of one seed")
    parser.add_argument("--out", type=Path, help="a file of JSON")
    given = parser.parse_args(argv)
    options = tuple(filter(None, given.options.split(",")))
    rows, sets = given.rows.split(";"), given.data.split(",")
    results = run(rows, sets, given.seeds, options, given.samples, given.first_seed)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
