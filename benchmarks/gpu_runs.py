"""The trainings of `benchmarks.gpu`, each with the program's own commands.

    python -m benchmarks.gpu_runs cifar ...       trains configs/cifar.py, draws, scores
    python -m benchmarks.gpu_runs features ...    the classifier it is scored with
    python -m benchmarks.gpu_runs shapes ...      trains configs/shapes.py, and reads

One process makes all the calls that belong to a model, so that JAX starts once. A
training that is asked to stop saves, and what follows is done with what it has come to.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import gpu_jobs
from ddpm_jax import cli
from ddpm_jax.requests import COMMANDS
from ddpm_jax.requests.flags import sections_of, spelled

ABOUT_FEATURES = "result.json"  # what a finished classifier has
_STOPPED = 128  # and more: a training that saved and stopped at a signal
_PATIENCE = 600.0  # seconds; `gpu` ends this process if all takes too long

# What a run of minutes changes in recipes that are made for days, or for two cores.
_SHORT = {
    "training.warmup_steps": 300,
    "training.learning_rate": 4e-4,
    "training.decay": "cosine",
    "training.ema_decay": 0.999,
    "training.report_every": 50,
    "training.preview_every": 0,
    "training.keep_last": 1,
    "training.keep_every": 0,
    "network.dropout": 0.0,  # no image is seen often enough to be learned by heart
    "sample.sampler": "dpmpp_2m",
    "sample.num_steps": 50,
    "sample.num_images": 100,
    "sample.batch_size": 100,
}
_DRAWING = {  # of what is scored
    "sample.num_steps": 25,
    "sample.batch_size": 1000,
    "evaluate.num_images": 10_000,
    "evaluate.batch_size": 1000,
}
_WIDER = {
    "network.channels": 64,
    "training.num_steps": 4000,
    "training.batch_size": 256,
}
# The most wanted first: more are added to a row that is there.
_SCORES = ("frechet,frechet_infinity,precision_recall", "all")

_TINY = {  # of every recipe, for a look at whether all runs
    "network.channels": 8,
    "network.num_groups": 4,
    "network.channel_multipliers": (1, 2),
    "network.num_res_blocks": 1,
    "network.attention_resolutions": (16,),
}
_SMALL: dict[str, dict[str, Any]] = {
    "step": _TINY,
    "cifar": {
        **_TINY,
        "data.split": "train[:200]",
        "training.report_every": 5,
        "training.warmup_steps": 2,
        "sample.num_steps": 3,
        "sample.num_images": 4,
        "sample.batch_size": 4,
    },
    "drawing": {
        "sample.num_steps": 3,
        "sample.batch_size": 40,
        "evaluate.num_images": 40,
        "evaluate.batch_size": 40,
        "evaluate.reference_split": "train[:200]",
        "evaluate.floor_split": "test[:100]",
    },
    "features": {
        "data.split": "train[:200]",
        "network.channels": 8,
        "network.num_features": 16,
        "network.channel_multipliers": (1, 2),
        "training.num_steps": 4,
        "training.batch_size": 16,
    },
    "shapes": {
        "network.channels": 8,
        "network.num_groups": 4,
        "training.num_steps": 4,
        "training.warmup_steps": 2,
        "training.report_every": 2,
        "evaluate.num_images": 6,
        "sample.num_steps": 3,
        "sample.batch_size": 6,
        "sample.num_images": 6,
        "data.source": "shapes:64",
    },
}


def main(argv: list[str] | None = None) -> int:
    """Train one of them, and do what follows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_runs")
    parser.add_argument("what", choices=("cifar", "features", "shapes"))
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-steps", type=int, help="of cifar")
    parser.add_argument("--features", type=Path, help="folder of the classifier")
    parser.add_argument("--seed", type=int, default=0, help="of shapes")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args(argv)
    # What asks a training to stop must not end what comes after it: training itself
    # listens while it runs.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return {"cifar": _cifar, "features": _features, "shapes": _shapes}[args.what](args)


def flags(*options: dict[str, Any]) -> list[str]:
    """Write options as arguments; of one that is given twice, the last."""
    merged = {name: value for one in options for name, value in one.items()}
    return [f"--config.{name}={value}" for name, value in merged.items()]


def asked(command: str, *options: dict[str, Any]) -> list[str]:
    """Write options as flags of a command; of one that is given twice, the last."""
    merged = {name: value for one in options for name, value in one.items()}
    fields = sections_of(COMMANDS[command])
    return [spelled(fields[name], value) for name, value in merged.items()]


def small(what: str, is_small: bool) -> dict[str, Any]:
    """Return what makes a recipe tiny, or nothing."""
    return _SMALL[what] if is_small else {}


def _call(*arguments: str) -> int:
    print("python main.py " + " ".join(arguments), flush=True)
    started = time.perf_counter()
    status = cli.main(list(arguments))
    print(f"  status {status}, {time.perf_counter() - started:.1f} s", flush=True)
    return status


def _features(args: argparse.Namespace) -> int:
    options = flags(_WIDER, small("features", args.small))
    status = _call(
        "--config=configs/cifar_features.py",
        f"--workdir={args.features}",
        *options,
    )
    if status:
        return status
    # The real images, whose features and scores are then there for the samples.
    return _score(args, "--config=configs/cifar.py", "--images=data:test")


def _score(args: argparse.Namespace, *what: str) -> int:
    status = 0
    for scores in _SCORES:
        words = _scoring(args, *what)
        status = status or _call(*words, f"--scores={scores}")
    return status


def _scoring(args: argparse.Namespace, *what: str) -> list[str]:
    """Write the command that scores samples, or the images that are given."""
    options = {**_DRAWING, **small("drawing", args.small)}
    if any(word.startswith("--images=") for word in what):  # nothing is sampled
        options = {n: v for n, v in options.items() if not n.startswith("sample.")}
    features = f"--features={args.features}"
    return [
        *("evaluate", str(args.workdir), *what, features),
        *asked("evaluate", options),
    ]


def _cifar(args: argparse.Namespace) -> int:
    workdir = f"--workdir={args.workdir}"
    length = {
        "network.dtype": args.dtype,
        "training.num_steps": args.num_steps,
        "training.batch_size": args.batch_size,
        "training.checkpoint_every": max(1, args.num_steps // 2),
    }
    options = flags(_SHORT, length, small("cifar", args.small))
    status = _call("--config=configs/cifar.py", workdir, *options)
    if status and status < _STOPPED:
        return status
    if status:  # stopped, and so without its images
        _call("sample", str(args.workdir))
    trained = args.features / ABOUT_FEATURES
    if not gpu_jobs.wait_until(trained.exists, _PATIENCE):
        print(f"error: {trained} did not come; nothing is scored")
        return 1
    return _score(args)


def _shapes(args: argparse.Namespace) -> int:
    workdir = f"--workdir={args.workdir}"
    options = flags(
        {"seed": args.seed, "training.preview_every": 0},
        small("shapes", args.small),
    )
    status = _call("--config=configs/shapes.py", workdir, *options)
    if status:
        return status
    return _call("attributes", str(args.workdir), "--num-seeds=3")


# --- What they wrote ------------------------------------------------------------------


def rows(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Read the rows of scores that are there, in the order of their names."""
    found = []
    for path in sorted(folder.glob(pattern)):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):  # its process was ended while it wrote
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
