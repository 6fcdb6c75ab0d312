"""A step of training: how long, how much memory, how many operations a second.

    python -m benchmarks.train --config=configs/cifar.py --batch-size=16 --num-steps=20

Three things are timed in one run. The step alone, one batch fed again and again; a
large matrix product of the same dtype, which is what the device can do at best; and
the program's own loop with its own batches, in which every wait for the next batch is
noted. The loop may take longer than its steps, and where the difference is not the
waiting it is what the loop itself costs.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import start


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    return start.run("train", make_parser(), measure, argv)


def make_parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    parser = start.make_parser("train", "A step of training and the loop around it.")
    parser.add_argument(
        "--num-steps", type=int, default=20, help="steps timed, alone and in the loop"
    )
    parser.add_argument(
        "--group",
        type=int,
        help="steps dispatched before each wait; unset: 1 on a CPU, else 10",
    )
    parser.add_argument("--matmul-side", type=int, help="of the large matrix product")
    parser.add_argument("--profile", metavar="DIR", help="write a trace of five steps")
    parser.add_argument(
        "--cached",
        action="store_true",
        help="take compiled programs from the cache; time no compilation from nothing",
    )
    return parser


def measure(setup: start.Setup) -> dict[str, Any]:
    """Run the measurement; plain data, seconds and bytes."""
    # After the devices are set up.
    from benchmarks import machine, parts, rate, timing
    from ddpm_jax import assembly
    from ddpm_jax.networks.cost import count_flops

    args, recipe = setup.args, setup.recipe
    start.at_least(2, num_steps=args.num_steps)
    of = parts.make_parts(recipe)
    batch_size = recipe.training.batch_size
    state, step, key = (
        parts.start_state(of),
        parts.train_step(of),
        assembly.train_key(recipe.task.seed),
    )
    batch = parts.put(parts.stream_of(of)[0], of.mesh)
    compiled, compile_seconds = timing.compile_twice(
        step, state, key, batch, cached=args.cached
    )
    counted = count_flops(step, state, key, batch)
    one = parts.forward_inputs(of, 1)
    forward = count_flops(parts.forward(of), state.params, *one)
    num_parameters = parts.num_parameters(state.params)

    state, step_times = _time_step(compiled, state, key, batch, args)
    with timing.profiled(args.profile):
        if args.profile:
            state, _ = _run(compiled, state, key, batch, 5)
    limit = rate.matmul_rate(of.mesh, recipe.task.network.dtype, side=args.matmul_side)
    loop = _time_loop(of, compiled, state, args.num_steps)
    step_seconds = timing.spread(step_times)
    achieved = counted / step_seconds["median"]
    return {
        "recipe": start.recipe_name(args),
        "data": of.info.name,
        "dtype": recipe.task.network.dtype,
        "batch_size": batch_size,
        "num_parameters": num_parameters,
        "compile_seconds": compile_seconds,
        "step_seconds": step_seconds,
        "images_per_second": batch_size / step_seconds["median"],
        "forward_flops_per_image": forward,
        "step_flops_per_image": counted / batch_size,
        "xla_step_flops_per_image": _xla_flops(compiled) / batch_size,
        "flops_per_second": achieved,
        "matmul": limit,
        "share_of_matmul": achieved / limit["flops_per_second"],
        "loop": loop,
        "compiled_memory": machine.compiled_memory(compiled),
        "peak_memory": machine.peak_memory(),
    }


def _xla_flops(compiled: Any) -> float:
    """What XLA counts in the whole program: sums and norms too, no border zeros."""
    analysis = compiled.cost_analysis() or {}
    return analysis.get("flops", float("nan")) * jax.device_count()


def _run(step: Any, state: Any, key: Any, batch: Any, count: int) -> tuple[Any, float]:
    started = time.perf_counter()
    for _ in range(count):
        state, metrics = step(state, key, batch)
    jax.block_until_ready((state, metrics))
    return state, time.perf_counter() - started


def _time_step(
    step: Any, state: Any, key: Any, batch: Any, args: Any
) -> tuple[Any, list[float]]:
    """Time the step alone, in groups between waits; the first group does not count."""
    group = args.group or (1 if jax.devices()[0].platform == "cpu" else 10)
    state, _ = _run(step, state, key, batch, group)
    times = []
    for _ in range(max(2, args.num_steps // group)):
        state, taken = _run(step, state, key, batch, group)
        times.append(taken / group)
    return state, times


def _time_loop(of: Any, step: Any, state: Any, num_steps: int) -> dict[str, Any]:
    """Run the program's loop over the program's batches, and note every wait.

    The loop runs ahead of the device by some steps, so that a wait of the loop need
    not be one of the device: `wait_share` is the most that the device can have waited.
    """
    from benchmarks import parts, timing
    from ddpm_jax import assembly
    from ddpm_jax.training.loop import train_loop

    waits: list[float] = []

    def noted(batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - started)
            yield batch

    reports: list[Any] = []
    ends: list[float] = []
    # The loop itself does not time its first step.
    total = int(state.step) + num_steps + 1
    train_loop(
        state,
        step,
        noted(parts.feed_of(of)(int(state.step))),
        assembly.train_key(of.recipe.task.seed),
        num_steps=total,
        report_every=total,
        report=lambda report: (reports.append(report), ends.append(_now())),
        on_step=lambda: ends.append(_now()),
    )
    # From the end of the first step to the report, which waits for all of them.
    elapsed, waited = ends[-1] - ends[0], waits[1:]
    return {
        "seconds_per_step": elapsed / num_steps,
        "wait_seconds": timing.spread(waited),
        "wait_share": sum(waited) / elapsed,
        "reported_images_per_second": reports[-1].examples_per_second,
    }


def _now() -> float:
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
