"""Optimizers of optax.contrib beside Adam: equal steps, seeds and batches.

    python -m benchmarks.optimizers --config=configs/digits.py --num-steps=800

Each optimizer trains the same network from the same parameters on the same batches and
noise, at each of some learning rates. The loss afterwards is measured under noise that
was not used in training, of the last parameters and of their exponential moving
average; the schedule-free optimizer is evaluated at its own average. Steps are timed.
An optimizer that is better belongs in `ddpm_jax/training/optimizers.py`; here each is a
spec of its own, as anyone may write one.
"""

import dataclasses
import sys
import time
from typing import Any

import jax
import numpy as np
import optax
from optax import contrib

from benchmarks import start
from benchmarks.parts import Parts, feed_of, make_parts
from ddpm_jax import assembly
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import shardings
from ddpm_jax.specs import register
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.optimizers import Adam, AdamW, OptimizerSpec
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import init_state, make_train_step

NUM_EVALUATIONS = 16  # batches of fresh noise


@register
@dataclasses.dataclass(frozen=True)
class ScheduleFree(Adam):
    """Defazio et al. 2024, "The Road Less Scheduled": constant rate, own average."""

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """Make the optimizer; see `OptimizerSpec`."""
        inner = optax.adamw(rate, b1=0.0, b2=self.b2, eps=self.eps, weight_decay=0.0)
        return contrib.schedule_free(inner, rate, b1=self.b1)


@register
@dataclasses.dataclass(frozen=True)
class Muon(OptimizerSpec):
    """Jordan et al. 2024: matrices orthogonalized, all else by Adam.

    Attributes:
        beta: decay of the momentum of matrices.
    """

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
    """Pagliardini et al. 2024: two averages of the gradient.

    Attributes:
        b3: decay of the slow average.
        alpha: its weight beside the fast one.
    """

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
_PRODIGY_RATES = (1.0,)


def evaluation_params(state: TrainState) -> Any:
    """Return the parameters to evaluate: the average x of a schedule-free optimizer.

    Its gradients are taken at a point y between x and the sequence z of the plain
    optimizer, and y is what `state.params` holds.
    """

    def is_free(node: Any) -> bool:
        return isinstance(node, contrib.ScheduleFreeState)

    for node in jax.tree.leaves(state.opt_state, is_leaf=is_free):
        if is_free(node):
            return contrib.schedule_free_eval_params(node, state.params)
    return state.params


def train(parts: Parts, fit: Fit, params: Any, key: jax.Array) -> dict[str, float]:
    """Train with a spec; return the losses on unseen noise, and seconds per step.

    Args:
        parts: of the recipe.
        fit: how to train.
        params: the initial parameters.
        key: [], of the run.
    """
    objective = assembly.objective(parts.recipe.task, parts.unet, parts.info)
    carry = parts.recipe.task.build_times().init()
    optimizer = fit.transformation()
    state = init_state(jax.tree.map(np.asarray, params), optimizer, carry=carry)
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
        return objective(params, jax.random.fold_in(unseen, i), batch, carry)[0]

    def mean(params: Any) -> float:
        return float(np.mean([loss(params, i, batch) for i, batch in enumerate(held)]))

    return {
        "loss": mean(evaluation_params(state)),
        "ema_loss": mean(state.ema_params),
        "step_seconds": float(np.median(times[1:] or times)),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    parser = start.make_parser("optimizers", "Losses by optimizer and learning rate.")
    parser.set_defaults(config="configs/digits.py")
    parser.add_argument("--num-steps", type=int, default=800, help="of each run")
    parser.add_argument("--rates", default="3e-4,1e-3,3e-3", help="learning rates")
    parser.add_argument("--optimizers", default=",".join(OPTIMIZERS))
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    return start.run("optimizers", parser, measure, argv)


def measure(setup: start.Setup) -> dict[str, Any]:
    """Train with each optimizer, rate and seed; plain data."""
    args, recipe = setup.args, setup.recipe
    start.at_least(1, num_steps=args.num_steps)
    rates = _numbers("rates", args.rates, float)
    rows = []
    for seed in _numbers("seeds", args.seeds, int):
        parts = make_parts(start.changed(recipe, f"seed={seed}"))
        params = assembly.init_params(parts.recipe.task, parts.unet, parts.info)
        for name in _names(args.optimizers):
            for rate in _PRODIGY_RATES if name == "prodigy" else rates:
                fit = fit_with(name, rate, recipe.training, args.num_steps)
                losses = train(parts, fit, params, assembly.train_key(seed))
                rows.append({"name": name, "rate": rate, "seed": seed, **losses})
                print(
                    f"{name}, rate {rate:g}, seed {seed}: {losses['loss']:.5f}",
                    flush=True,
                )
    return {
        "recipe": start.recipe_name(args),
        "batch_size": recipe.training.batch_size,
        "num_steps": args.num_steps,
        "rows": rows,
    }


def fit_with(name: str, rate: float, fit: Fit, num_steps: int) -> Fit:
    """Change a recipe's `Fit` to an optimizer, a rate and a number of steps."""
    fit = dataclasses.replace(
        fit,
        num_steps=num_steps,
        warmup_steps=min(fit.warmup_steps, num_steps // 8),
        restarts=(),
        learning_rate=rate,
        optimizer=OPTIMIZERS[name],
    )
    if name == "schedule_free":
        return dataclasses.replace(fit, decay="constant")
    return fit


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in OPTIMIZERS:
            raise UserError(
                f"--optimizers has {name!r}, which is not known; use "
                f"{', '.join(OPTIMIZERS)}."
            )
    return names


def _numbers(flag: str, text: str, make: type) -> list[Any]:
    try:
        return [make(word) for word in text.split(",")]
    except ValueError:
        raise UserError(
            f"--{flag}={text} is not a list of numbers; give them as in 1,2."
        ) from None


if __name__ == "__main__":
    sys.exit(main())
