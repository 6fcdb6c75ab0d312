"""The N-step sampler against N forward passes of the same batch.

    python -m benchmarks.sample --config=configs/cifar.py --batch-size=16 --num-steps=20

Sampling is one program, noise to bytes; a forward pass is the network alone. They are
timed in turns, so that a drift of the machine is in both, and the ratio is taken pair
by pair: 1 would mean that noise, posterior, records and all else cost nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import start


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    return start.run("sample", make_parser(), measure, argv)


def make_parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    parser = start.make_parser("sample", "The sampler against its forward passes.")
    parser.add_argument(
        "--num-steps", type=int, help="of the sampler; unset: the recipe's"
    )
    parser.add_argument("--num-turns", type=int, default=5, help="pairs of times")
    parser.add_argument(
        "--num-forward", type=int, default=10, help="forward passes in each turn"
    )
    parser.add_argument("--matmul-side", type=int, help="of the large matrix product")
    parser.add_argument(
        "--profile", metavar="DIR", help="write a trace of one sampling run"
    )
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
    from ddpm_jax.requests import Sample
    from ddpm_jax.runtime.devices import round_up

    args, recipe = setup.args, setup.recipe
    start.at_least(1, num_turns=args.num_turns, num_forward=args.num_forward)
    if args.num_steps is not None:
        recipe = start.changed(recipe, f"sample.num_steps={args.num_steps}")
    of = parts.make_parts(recipe)
    # As the program does, to what the devices divide.
    asked = recipe.request(Sample)
    batch_size = round_up(asked.batch_size)
    num_steps = assembly.num_steps(recipe.task, asked)
    params = parts.start_state(of).params
    draw, draw_flops = _draw(of, params, batch_size)
    forward, compile_seconds, memory = _forward(
        of, params, batch_size, cached=args.cached
    )
    started = time.perf_counter()
    draw()
    first_draw = time.perf_counter() - started

    def passes() -> float:
        taken = timing.seconds(lambda: [forward() for _ in range(args.num_forward)])
        return taken / args.num_forward

    passes()
    taken = timing.take_turns(
        {"draw": lambda: timing.seconds(draw), "forward": passes}, args.num_turns
    )
    with timing.profiled(args.profile):
        if args.profile:
            draw()
    inputs = parts.forward_inputs(of, batch_size)
    forward_flops = count_flops(parts.forward(of), params, *inputs)
    limit = rate.matmul_rate(of.mesh, recipe.task.network.dtype, side=args.matmul_side)
    drawn, passed = timing.spread(taken["draw"]), timing.spread(taken["forward"])
    return {
        "recipe": start.recipe_name(args),
        "dtype": recipe.task.network.dtype,
        "batch_size": batch_size,
        "num_parameters": parts.num_parameters(params),
        "sampler": asked.sampler,
        "num_steps": num_steps,
        "forward_compile_seconds": compile_seconds,
        "first_draw_seconds": first_draw,  # compilation included
        "draw_seconds": drawn,
        "forward_seconds": passed,
        "images_per_second": batch_size / drawn["median"],
        # A sampler or guidance may call the network more than once a step.
        "forward_passes": draw_flops / forward_flops,
        "draw_over_forward_passes": timing.ratios(
            taken["draw"],
            np.asarray(taken["forward"]) * (draw_flops / forward_flops),
        ),
        "forward_flops_per_image": forward_flops / batch_size,
        "flops_per_second": draw_flops / drawn["median"],
        "matmul": limit,
        "share_of_matmul": draw_flops / drawn["median"] / limit["flops_per_second"],
        "forward_memory": memory,
        "peak_memory": machine.peak_memory(),
    }


def _draw(of: Any, params: Any, batch_size: int) -> tuple[Callable[[], Any], int]:
    """Return a function that samples one batch, as the program does, and its FLOPs."""
    from ddpm_jax import assembly
    from ddpm_jax.codecs import Params
    from ddpm_jax.networks.cost import count_flops
    from ddpm_jax.requests import Sample

    params = Params(params)
    spec, asked = of.recipe.task, of.recipe.request(Sample, num_images=batch_size)
    run = assembly.program(assembly.build_model(spec, of.info, of.mesh), asked).run
    indices = np.arange(batch_size, dtype=np.int32)
    rows = indices, assembly.sample_cond(spec, of.info, asked) or {}
    key = assembly.sample_key(assembly.seed_of(spec, asked))
    counted = count_flops(lambda params: run(params, key, rows), params)
    return lambda: run(params, key, rows), counted


def _forward(
    of: Any, params: Any, batch_size: int, *, cached: bool
) -> tuple[Callable[[], jax.Array], dict[str, float], dict[str, int]]:
    """Return one forward pass of the same batch, its compile time and memory."""
    from benchmarks import machine, parts, timing
    from ddpm_jax.runtime.devices import replicated, rows

    by_row = rows(of.mesh)
    inputs = jax.device_put(parts.forward_inputs(of, batch_size), by_row)
    jitted = jax.jit(
        parts.forward(of),
        in_shardings=(replicated(of.mesh), by_row, by_row, by_row),
        out_shardings=by_row,
    )
    compiled, compile_seconds = timing.compile_twice(
        jitted, params, *inputs, cached=cached
    )
    return (
        lambda: compiled(params, *inputs),
        compile_seconds,
        machine.compiled_memory(compiled),
    )


if __name__ == "__main__":
    sys.exit(main())
