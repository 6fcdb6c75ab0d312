"""bfloat16 against float32: are the training losses the same?

    python -m benchmarks.precision --config=configs/cifar.py --num-steps=5000

Three runs of the same recipe: in float32, in bfloat16 with the same parameters, batches
and noise, and in float32 with another seed. Their losses are smoothed, and compared
over the whole run. The effect of the number format is compared with that of the seed:
the loss curves are indistinguishable where bfloat16 lies no further from float32 than
another seed does.
"""

import sys
from typing import Any

import numpy as np

from benchmarks import start
from ddpm_jax.errors import UserError

RUNS = {  # name -> (dtype, added to the seed)
    "float32": ("float32", 0),
    "bfloat16": ("bfloat16", 0),
    "another_seed": ("float32", 1),
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    parser = start.make_parser("precision", "The loss in bfloat16 against float32.")
    parser.add_argument("--num-steps", type=int, default=5000, help="of each run")
    parser.add_argument(
        "--window", type=int, default=250, help="steps that a loss is averaged over"
    )
    return start.run("precision", parser, measure, argv)


def measure(setup: start.Setup) -> dict[str, Any]:
    """Train and compare; plain data."""
    args, recipe = setup.args, setup.recipe
    start.at_least(1, num_steps=args.num_steps, window=args.window)
    if args.num_steps < args.window:
        raise UserError(
            f"--num-steps={args.num_steps} is less than --window={args.window}; give "
            "more steps or a smaller window."
        )
    losses = {}
    for name, (dtype, offset) in RUNS.items():
        print(f"{name}: {args.num_steps} steps ...", flush=True)
        seed = recipe.task.seed + offset
        chosen = start.changed(recipe, f"network.dtype={dtype}", f"seed={seed}")
        losses[name] = train(chosen, args.num_steps)
    smooth = {name: smoothed(curve, args.window) for name, curve in losses.items()}
    distance = {
        name: distance_between(smooth[name], smooth["float32"])
        for name in RUNS
        if name != "float32"
    }
    return {
        "recipe": start.recipe_name(args),
        "batch_size": recipe.training.batch_size,
        "num_steps": args.num_steps,
        "window": args.window,
        "last_loss": {name: float(curve[-1]) for name, curve in smooth.items()},
        "distance": distance,
        "indistinguishable": distance["bfloat16"] <= distance["another_seed"],
        "smoothed_losses": {
            name: curve[:: max(1, len(curve) // 200)].tolist()
            for name, curve in smooth.items()
        },
    }


def train(recipe: Any, num_steps: int) -> np.ndarray:
    """Train a recipe from its start and return the loss of every step, [num_steps].

    Raises:
        UserError: a loss is not finite.
    """
    import jax

    from benchmarks import parts
    from ddpm_jax import assembly

    of = parts.make_parts(recipe)
    if not of.is_real:
        raise UserError(
            "there is nothing to learn from random pixels; prepare "
            f"{recipe.task.data.source}, or give another recipe."
        )
    state, step, key = (
        parts.start_state(of),
        parts.train_step(of),
        assembly.train_key(recipe.task.seed),
    )
    batches = parts.feed_of(of)(0)
    losses: list[Any] = []
    for i in range(num_steps):
        state, metrics = step(state, key, next(batches))
        losses.append(metrics["loss"])
        if i >= 8:  # further ahead gains nothing, and holds more memory
            jax.block_until_ready(losses[i - 8])
    curve = np.asarray(jax.device_get(losses), np.float64)
    if not np.isfinite(curve).all():
        raise UserError(
            f"a loss in {recipe.task.network.dtype} is not finite; lower the rate."
        )
    return curve


def smoothed(curve: np.ndarray, window: int) -> np.ndarray:
    """Average [N] over every `window` neighbours: [N - window + 1]."""
    total = np.concatenate([[0.0], np.cumsum(curve, dtype=np.float64)])
    return (total[window:] - total[:-window]) / window


def distance_between(curve: np.ndarray, other: np.ndarray) -> float:
    """Return the mean difference of two curves, without sign, relative to the other."""
    return float(np.mean(np.abs(curve - other) / other))


if __name__ == "__main__":
    sys.exit(main())
