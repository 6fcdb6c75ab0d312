"""One comparison of `benchmarks.gpu` with PyTorch: compiles at once, times in turn.

A process of its own, so that PyTorch's compiler works while XLA's does; see `gpu`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import gpu_jobs, peers, start
from ddpm_jax.runtime.startup import use_compilation_cache

_PATIENCE = 600.0  # seconds; `gpu` ends this process if all takes too long

_NOT_NEEDED = ("transformers", "peft", "torchvision", "onnxruntime", "onnx")


def main(argv: list[str] | None = None) -> int:
    """Run `benchmarks.peers` with pauses in which the others have their turn."""
    parser = peers.make_parser()
    parser.add_argument("--name", required=True, help="of this process")
    parser.add_argument("--turns", required=True, help="folder of the signals")
    # Not while ddpm_jax chooses its convolutions by their speed; and still a record of
    # networks that differ is not written.
    parser.set_defaults(check_late=True)
    args, overrides = parser.parse_known_args(argv)
    leave_out()
    use_compilation_cache()
    turns = gpu_jobs.Turns(args.turns)

    def pause(stage: str) -> None:
        if stage == "compile":  # then the programs of ddpm_jax are in the cache
            turns.wait("compiled", _PATIENCE)
            return
        turns.give(f"{args.name}.ready")
        turns.wait(f"{args.name}.go", _PATIENCE)

    recipe = start.load(args.config, overrides, args.batch_size)
    from benchmarks import machine

    flags = {
        "config": args.config,
        "batch-size": args.batch_size,
        "peers": args.peers,
        "tasks": args.tasks,
        "variants": args.variants,
        "num-turns": args.num_turns,
        "num-steps": args.num_steps,
        "chain-steps": args.chain_steps,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    words += gpu_jobs.repeatable(overrides)
    command = " ".join(["python -m benchmarks.peers", *words])
    before = machine.describe(command)
    results = peers.measure(start.Setup(args, recipe, command, pause))
    record = {"benchmark": "peers"} | before | {"results": results}
    Path(args.out).write_text(json.dumps(record, indent=1))
    return 0


def leave_out(names: Sequence[str] = _NOT_NEEDED) -> None:
    """Have libraries look as if they were not installed, in this process.

    diffusers imports them wherever they are, which takes seconds, and fails with
    versions that it does not know.
    """
    for name in names:
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]


if __name__ == "__main__":
    sys.exit(main())
