"""Optimizers of optax.contrib beside Adam: equal steps, seeds and batches.

    python -m benchmarks.optimizers --config=configs/digits.py --num-steps=800

Each optimizer trains the same network from the same parameters on the same batches and
noise. Compared is the loss afterwards, under noise that no training has seen, by the
last parameters and by their averages, at each of some learning rates; and the seconds
of a step. One that pays belongs into `ddpm_jax/training/optimizers.py`; here each is a
spec of its own, as anyone may write one.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from optax import contrib

from benchmarks.parts import Parts, feed_of, make_parts
from ddpm_jax import build
from ddpm_jax.cli import load_recipe, override
from ddpm_jax.runtime.devices import shardings
from ddpm_jax.specs import register
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.optimizers import Adam, AdamW, OptimizerSpec
from ddpm_jax.training.step import init_state, make_train_step

NUM_EVALUATIONS = 16  # batches of fresh noise


@register
@dataclasses.dataclass(frozen=True)
class ScheduleFree(Adam):
    """Defazio et al. 2024, "The Road Less Scheduled"; it averages by itself."""

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer; see `OptimizerSpec`."""
        inner = optax.adamw(rate, b1=0.0, b2=self.b2, eps=self.eps, weight_decay=0.0)
        return contrib.schedule_free(inner, rate, b1=self.b1)


@register
@dataclasses.dataclass(frozen=True)
class Muon(OptimizerSpec):
    """Jordan et al. 2024: matrices orthogonalized, all else by Adam."""

    beta: float = 0.95

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer; see `OptimizerSpec`."""
        return contrib.muon(rate, beta=self.beta)


@register
@dataclasses.dataclass(frozen=True)
class Prodigy(OptimizerSpec):
    """Mishchenko and Defazio 2024; the rate is relative to the one that it finds."""

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer; see `OptimizerSpec`."""
        return contrib.prodigy(rate, safeguard_warmup=True)


@register
@dataclasses.dataclass(frozen=True)
class AdEMAMix(Adam):
    """Pagliardini et al. 2024: two averages of the gradient."""

    b3: float = 0.9999
    alpha: float = 5.0

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer; see `OptimizerSpec`."""
        return contrib.ademamix(
            rate, b1=self.b1, b2=self.b2, b3=self.b3, alpha=self.alpha, eps=self.eps
        )


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "adam": Adam(),
    "adamw": AdamW(),
    "schedule_free": ScheduleFree(),
    "muon": Muon(),
    "prodigy": Prodigy(),
    "ademamix": AdEMAMix(),
}
_RATES_OF_PRODIGY = (1.0,)


def train(parts: Parts, fit: Fit, start: Any, key: jax.Array) -> dict[str, float]:
    """Train with a spec, and return the losses on unseen draws and seconds of a step.

    Args:
        parts: of the recipe.
        fit: how to train.
        start: the initial parameters.
        key: [], of the run.
    """
    objective = build.objective(parts.cfg, parts.unet, parts.info)
    memory = build.time_sampler(parts.cfg).init()
    optimizer = fit.transformation()
    state = init_state(jax.tree.map(np.asarray, start), optimizer, memory=memory)
    placed = shardings(parts.mesh, state)
    state = jax.device_put(state, placed)
    step = make_train_step(
        objective, optimizer, ema_target=fit.ema_decay, mesh=parts.mesh, placed=placed
    )
    batches, times = feed_of(parts)(0), []
    for _ in range(fit.num_steps):
        batch = next(batches)
        started = time.perf_counter()
        state, metrics = step(state, key, batch)
        jax.block_until_ready(metrics["loss"])
        times.append(time.perf_counter() - started)
    # The same batches and noise for everyone, and none of the training's.
    unseen = jax.random.fold_in(key, 2**31 - 1)
    held = [next(batches) for _ in range(NUM_EVALUATIONS)]

    @jax.jit
    def loss(params: Any, i: int, batch: Any) -> jax.Array:
        return objective(params, jax.random.fold_in(unseen, i), batch, memory)[0]

    def mean(params: Any) -> float:
        return float(np.mean([loss(params, i, batch) for i, batch in enumerate(held)]))

    return {
        "loss": mean(state.params),
        "loss_of_averages": mean(state.ema_params),
        "step_seconds": float(np.median(times[1:] or times)),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--num-steps", type=int, default=800)
    parser.add_argument("--rates", default="3e-4,1e-3,3e-3", help="learning rates")
    parser.add_argument("--optimizers", default=",".join(OPTIMIZERS))
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--out", type=Path, help="a JSON file of all numbers")
    known, overrides = parser.parse_known_args(argv)
    cfg, _ = load_recipe(known.config)
    override(cfg, overrides)
    records = []
    print("| optimizer | rate | seed | loss | of averages | s / step |")
    print("|---|---|---|---|---|---|")
    for seed in map(int, known.seeds.split(",")):
        cfg.seed = seed
        parts = make_parts(cfg)
        start = build.init_params(cfg, parts.unet, parts.info)
        plain = build.fit_spec(cfg)
        for name in known.optimizers.split(","):
            rates = [float(rate) for rate in known.rates.split(",")]
            for rate in _RATES_OF_PRODIGY if name == "prodigy" else rates:
                fit = dataclasses.replace(
                    plain,
                    num_steps=known.num_steps,
                    warmup_steps=min(plain.warmup_steps, known.num_steps // 8),
                    restarts=(),
                    learning_rate=rate,
                    optimizer=OPTIMIZERS[name],
                )
                found = train(parts, fit, start, build.train_key(cfg))
                records.append({"name": name, "rate": rate, "seed": seed, **found})
                print(
                    f"| {name} | {rate:g} | {seed} | {found['loss']:.5f} "
                    f"| {found['loss_of_averages']:.5f} "
                    f"| {found['step_seconds']:.4f} |",
                    flush=True,
                )
    if known.out:
        known.out.parent.mkdir(parents=True, exist_ok=True)
        known.out.write_text(json.dumps(records, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
