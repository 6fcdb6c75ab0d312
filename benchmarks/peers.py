"""The same network and batch in ddpm_jax and in PyTorch, in turns, in one run.

    python -m benchmarks.peers --config=configs/cifar.py --batch-size=16

Against diffusers the network is the same: its weights are carried over and the outputs
compared before anything is timed. denoising-diffusion-pytorch has a network of its own,
which is made as near as it can be. Every variant of a peer (`--variants`) is timed, and
the fastest takes part in the turns. A ratio is the peer's time over that of ddpm_jax,
pair by pair: above 1, ddpm_jax is faster.

A training step is forward, backward, clipping, Adam and the moving average, from a
batch of bytes that is on the device already. Sampling is a short chain of reverse
steps, each with one forward pass.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import start
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample
from ddpm_jax.specs import kind_of

PEERS = ("diffusers", "denoising-diffusion-pytorch")
TASKS = ("train", "sample")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    # Else JAX takes three quarters of a GPU's memory, and PyTorch has too little.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return start.run("peers", make_parser(), measure, argv)


def make_parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    parser = start.make_parser("peers", "The same network in PyTorch, in turns.")
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them")
    parser.add_argument("--tasks", default=",".join(TASKS), help="which of them")
    parser.add_argument(
        "--variants",
        default="eager,channels_last,compiled,compiled_channels_last",
        help="of PyTorch; the fastest takes part",
    )
    parser.add_argument(
        "--check",
        choices=("all", "float32"),
        default="all",
        help="compare outputs in float32, and of a recipe in bfloat16 in that too",
    )
    parser.set_defaults(check_late=False)  # before anything is timed
    parser.add_argument("--num-turns", type=int, default=10, help="pairs of times")
    parser.add_argument(
        "--num-steps", type=int, default=1, help="training steps in each turn"
    )
    parser.add_argument(
        "--chain-steps", type=int, default=10, help="reverse steps of a chain"
    )
    return parser


def measure(setup: start.Setup) -> dict[str, Any]:
    """Run the measurement; plain data, seconds."""
    try:
        import jax
        import torch

        from benchmarks import peer_networks, peer_steps
    except ImportError as error:
        raise UserError(
            f"{error}; install the peers: pip install -r benchmarks/requirements.txt "
            "&& pip install --no-deps -r benchmarks/requirements-no-deps.txt"
        ) from error
    from benchmarks import machine, parts

    args, recipe = setup.args, setup.recipe
    start.at_least(1, num_turns=args.num_turns, num_steps=args.num_steps)
    start.at_least(2, chain_steps=args.chain_steps)
    names = _listed("peers", args.peers, PEERS)
    tasks = _listed("tasks", args.tasks, TASKS)
    variants = _listed("variants", args.variants, tuple(peer_steps.VARIANTS))
    _check_recipe(recipe)
    num_levels = recipe.task.schedule.num_levels
    if args.chain_steps > num_levels:
        raise UserError(
            f"--chain-steps={args.chain_steps} for {num_levels} levels; use fewer."
        )
    if peer_networks.device() == "cuda" and jax.device_count() > 1:
        raise UserError(
            f"JAX sees {jax.device_count()} GPUs and PyTorch would use one of them; "
            "set CUDA_VISIBLE_DEVICES=0."
        )
    # As JAX does by default on GPUs; it changes nothing on a CPU.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    of = parts.make_parts(recipe)
    found: dict[str, Any] = {
        "recipe": start.recipe_name(args),
        "dtype": recipe.task.network.dtype,
        "batch_size": recipe.training.batch_size,
        "chain_steps": args.chain_steps,
        "num_parameters": parts.num_parameters(parts.start_state(of).params),
        "torch": {
            "versions": machine.versions(machine.TORCH_PACKAGES),
            "device": peer_networks.device(),
            "threads": torch.get_num_threads(),
        },
        "peers": {},
    }
    for name in names:
        peer, params = _peer(name, of)
        count = sum(p.numel() for p in peer.module.parameters())
        about = {"num_parameters": count, "same_network": peer.is_same}
        found["peers"][name] = about
        if args.check_late:
            setup = _checking(setup, peer, of, params, about)
        else:
            about |= _check(peer, of, params, args.check)
        for task in tasks:
            about[task] = _compare(task, peer, variants, of, params, setup)
    return found


def _listed(flag: str, text: str, known: tuple[str, ...]) -> list[str]:
    chosen = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in chosen if word not in known]
    if unknown or not chosen:
        raise UserError(f"--{flag}={text} is not known; use some of {','.join(known)}.")
    return chosen


def _check_recipe(recipe: Any) -> None:
    """Refuse what the peers do not have, which would not be the same task."""
    differs = {
        "network.kind": kind_of(recipe.task.network) != "unet",
        "network.patch": getattr(recipe.task.network, "patch", 1) != 1,
        "network.remat": getattr(recipe.task.network, "remat", False),
        "conditioners.self_conditioning": "self_conditioning"
        in recipe.task.conditioners,
        "variance=learned": recipe.task.variance == "learned",
        "prediction": recipe.task.prediction != "eps",
        "loss.kind": kind_of(recipe.task.loss) != "simple",
        "training.optimizer.kind": kind_of(recipe.training.optimizer) != "adam",
        "training.ema_stds": bool(recipe.training.ema_stds),
    }
    for option, is_set in differs.items():
        if is_set:
            raise UserError(
                f"the peers are compared without config.{option}; leave it as in "
                "configs/cifar.py."
            )


def _peer(name: str, of: Any) -> tuple[Any, Any]:
    """Build a peer; return it with ddpm_jax's parameters."""
    from benchmarks import parts, peer_networks

    if name == "diffusers":
        from benchmarks import equality

        module, params = equality.same_network(of)
        return peer_networks.diffusers_peer(module, of.recipe), params
    try:
        peer = peer_networks.ddp_peer(of.recipe, of.info.image_shape)
    except ImportError as error:
        raise UserError(
            f"{error}; install the peer: pip install --no-deps -r "
            "benchmarks/requirements-no-deps.txt, or leave it out: --peers=diffusers"
        ) from error
    return peer, parts.start_state(of).params


def _check(peer: Any, of: Any, params: Any, check: str) -> dict[str, Any]:
    """Compare the outputs of a peer that has the same network, and of no other."""
    if not peer.is_same:
        return {}
    from benchmarks import equality

    found: dict[str, Any] = equality.check_equal(of, peer.module, params)
    if check == "all" and of.recipe.task.network.dtype == "bfloat16":
        found["in_bfloat16"] = equality.in_bfloat16(of, peer.module, params)
    return found


def _checking(
    setup: start.Setup, peer: Any, of: Any, params: Any, about: dict[str, Any]
) -> start.Setup:
    """Put off the comparison of outputs to the pause before ddpm_jax compiles."""
    # With the weights of now: those of the other are trained by then.
    kept = peer._replace(module=copy.deepcopy(peer.module))

    def pause(stage: str) -> None:
        setup.pause(stage)
        if stage == "compile":
            about.update(_check(kept, of, params, setup.args.check))

    return setup._replace(pause=pause)


def _compare(
    task: str,
    peer: Any,
    variants: list[str],
    of: Any,
    params: Any,
    setup: start.Setup,
) -> dict[str, Any]:
    """Time every variant of a peer, then the fastest in turns with ddpm_jax."""
    from benchmarks import timing

    args = setup.args
    own, theirs = {
        "train": (own_training, _peer_training),
        "sample": (own_chain, _peer_chain),
    }[task]
    tried: dict[str, dict[str, float]] = {}
    runs: dict[str, Callable[[], float]] = {}
    failed: dict[str, str] = {}
    for variant in variants:
        print(f"{peer.name}, {task}: {variant} ...", flush=True)
        started = time.perf_counter()
        try:
            run = runs[variant] = theirs(peer, variant, of, args)
            run()  # compiles
        except Exception as error:  # of PyTorch's compiler, which has many kinds
            failed[variant] = f"{type(error).__name__}: {error}"[:500]
            print(f"  does not run: {failed[variant]}", flush=True)
            continue
        ready = time.perf_counter() - started
        tried[variant] = {"first_seconds": ready, "seconds": min(run(), run())}
    if not tried:
        raise UserError(f"no variant of {peer.name} runs; {failed[variants[0]]}")
    best = min(tried, key=lambda variant: tried[variant]["seconds"])
    if not _is_at_hand(best, variants):
        runs[best] = theirs(peer, best, of, args)
    setup.pause("compile")
    turns = {"ddpm_jax": own(of, params, args), peer.name: runs[best]}
    for run in turns.values():
        run()
    setup.pause("time")
    taken = timing.take_turns(turns, args.num_turns)
    return {
        "variants": tried,
        "failed": failed,
        "fastest": best,
        "seconds": {name: timing.spread(times) for name, times in taken.items()},
        "ratio": timing.ratios(taken[peer.name], taken["ddpm_jax"]),
        "times": taken,
    }


def _is_at_hand(variant: str, tried: list[str]) -> bool:
    """Return whether a variant is as it was compiled, after those tried later.

    Another layout moves the parameters, and another compilation forgets this one.
    """
    from benchmarks.peer_steps import VARIANTS

    later = tried[tried.index(variant) + 1 :]
    return all(VARIANTS[one] == (VARIANTS[variant][0], None) for one in later)


def own_training(of: Any, params: Any, args: Any) -> Callable[[], float]:
    """Return a function that gives the seconds of one training step of ddpm_jax."""
    import jax

    from benchmarks import parts
    from ddpm_jax import assembly
    from ddpm_jax.runtime.devices import replicated
    from ddpm_jax.training.step import init_state

    step, key = parts.train_step(of), assembly.train_key(of.recipe.task.seed)
    batch = parts.put(parts.stream_of(of)[0], of.mesh)
    carry = of.recipe.task.build_times().init()
    optimizer = of.recipe.training.transformation()
    state = init_state(params, optimizer, carry=carry)
    # Donated: the next turn goes on from where this one came to.
    kept = [jax.device_put(jax.tree.map(np.array, state), replicated(of.mesh))]

    def run() -> float:
        # Untimed: threads of the other library may not be at rest yet.
        kept[0], _ = jax.block_until_ready(step(kept[0], key, batch))
        started = time.perf_counter()
        for _ in range(args.num_steps):
            kept[0], metrics = step(kept[0], key, batch)
        jax.block_until_ready((kept[0], metrics))
        return (time.perf_counter() - started) / args.num_steps

    return run


def _peer_training(peer: Any, variant: str, of: Any, args: Any) -> Callable[[], float]:
    from benchmarks import parts, peer_steps

    batch = parts.stream_of(of)[0]
    step = peer_steps.make_train_step(peer, variant, of.recipe, batch)

    def run() -> float:
        step()
        peer_steps.synchronise()
        started = time.perf_counter()
        for _ in range(args.num_steps):
            step()
        peer_steps.synchronise()
        return (time.perf_counter() - started) / args.num_steps

    return run


def own_chain(of: Any, params: Any, args: Any) -> Callable[[], float]:
    """Return a function that gives the seconds of one reverse step of ddpm_jax."""
    import jax

    from ddpm_jax import assembly
    from ddpm_jax.codecs import Params
    from ddpm_jax.runtime.devices import replicated, round_up

    spec = of.recipe.task
    indices = np.arange(round_up(of.recipe.training.batch_size), dtype=np.int32)
    asked = of.recipe.request(
        Sample,
        sampler="ancestral",
        num_steps=args.chain_steps,
        film_frames=2,
        film_images=1,
        num_images=len(indices),
    )
    chain = assembly.program(assembly.build_model(spec, of.info, of.mesh), asked)
    rows = indices, assembly.sample_cond(spec, of.info, asked) or {}
    params = jax.device_put(Params(params), replicated(of.mesh))
    key = assembly.sample_key(assembly.seed_of(spec, asked))

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(chain.run(params, key, rows))
        return (time.perf_counter() - started) / args.chain_steps

    return run


def _peer_chain(peer: Any, variant: str, of: Any, args: Any) -> Callable[[], float]:
    from benchmarks import parts, peer_steps

    x_init, _, label = parts.forward_inputs(of, of.recipe.training.batch_size)
    chain = peer_steps.make_chain(
        peer, variant, of.recipe, x_init, label, args.chain_steps
    )

    def run() -> float:
        started = time.perf_counter()
        chain()
        peer_steps.synchronise()
        return (time.perf_counter() - started) / args.chain_steps

    return run


if __name__ == "__main__":
    sys.exit(main())
