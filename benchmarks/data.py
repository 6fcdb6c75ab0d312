"""Throughput of each data source, alone and in a training loop.

    python -m benchmarks.data --batch-size=128

Each source is read twice: from memory, decoded once, as the program does with what fits
in two gigabytes; and from its files, each image decoded when a batch wants it. Both
are read on demand, in the thread of the loop, and prefetched by threads. A training
loop is played by one that sleeps between batches; what it then waits is what a
source costs it. On a CPU real steps leave less of the cores to the threads than sleep
does: `benchmarks.train` measures the real loop.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import start
from ddpm_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    parser = start.make_parser("data", "Batches a second of every source.")
    parser.add_argument(
        "--sources", default="digits,mnist,cifar10,folder", help="which of them"
    )
    parser.add_argument("--num-batches", type=int, default=50, help="timed, each way")
    parser.add_argument(
        "--step-ms", type=float, default=20.0, help="sleep that plays a training step"
    )
    parser.add_argument(
        "--folder-images", type=int, default=1000, help="JPEG files made for the folder"
    )
    parser.add_argument("--folder-side", type=int, default=256, help="of those files")
    parser.add_argument("--image-size", type=int, default=64, help="they are scaled to")
    return start.run("data", parser, measure, argv)


def measure(setup: start.Setup) -> dict[str, Any]:
    """Run the measurement; plain data, seconds."""
    args, recipe = setup.args, setup.recipe
    start.at_least(
        2,
        num_batches=args.num_batches,
        folder_images=args.folder_images,
        folder_side=args.folder_side,
        image_size=args.image_size,
    )
    start.at_least(0, step_ms=args.step_ms)
    batch_size = recipe.training.batch_size
    sources: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in (word.strip() for word in args.sources.split(",")):
        with _made(name, args) as (spec, image_size):
            try:
                sources[name] = _measure_source(spec, image_size, recipe, args)
            except UserError as error:  # a data set that is not prepared here
                left_out[name] = str(error)
                print(f"note: {name} is left out: {error}")
    if not sources:
        raise UserError(f"none of --sources={args.sources} can be opened; see above.")
    return {
        "batch_size": batch_size,
        "step_ms": args.step_ms,
        "sources": sources,
        "left_out": left_out,
    }


@contextlib.contextmanager
def _made(name: str, args: Any) -> Iterator[tuple[str, int | None]]:
    """Yield what the data room calls a source; a folder of JPEG files is made first."""
    if name != "folder":
        yield name, None
        return
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), args.folder_images, args.folder_side)
        yield f"folder:{folder}", args.image_size


def make_images(folder: Path, count: int, side: int) -> None:
    """Write smooth random images as JPEG files: noise alone would decode slower."""
    rng = np.random.default_rng(0)
    for i in range(count):
        few = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        few.resize((side, side), Image.Resampling.BICUBIC).save(
            folder / f"{i:06d}.jpg", quality=90
        )


def _measure_source(
    spec: str, image_size: int | None, recipe: Any, args: Any
) -> dict[str, Any]:
    from ddpm_jax import data

    dataset = data.load(spec, image_size=image_size, data_dir=recipe.task.data.data_dir)
    found: dict[str, Any] = {
        "num_images": len(dataset),
        "image_shape": "x".join(map(str, dataset.image_shape)),
    }
    batch_size = recipe.training.batch_size

    def stream(dataset: Any, max_bytes: int) -> Any:
        return data.batches(
            dataset, batch_size, seed=recipe.task.seed, max_bytes=max_bytes
        )

    # digits are in memory from the start, and have no files to be decoded.
    if not isinstance(dataset.source, data.Arrays):
        num_threads = max(2, dataset.source.num_threads)
        found["files"] = _both_ways(stream(dataset, 0), batch_size, args, num_threads)
        started = time.perf_counter()
        dataset = data.decoded(dataset)
        found["decode_seconds"] = time.perf_counter() - started
    found["memory"] = _both_ways(
        stream(dataset, dataset.num_bytes), batch_size, args, 2
    )
    return found


def _both_ways(
    stream: Any, batch_size: int, args: Any, num_threads: int
) -> dict[str, dict[str, Any]]:
    return {
        "asked": _rates(stream, batch_size, args, 0),
        "prefetched": _rates(stream, batch_size, args, num_threads),
    }


def _rates(stream: Any, batch_size: int, args: Any, num_threads: int) -> dict[str, Any]:
    from benchmarks import timing

    seconds = sum(_waits(stream, args.num_batches, num_threads, 0.0))
    waits = _waits(stream, args.num_batches, num_threads, args.step_ms / 1e3)
    return {
        "threads": num_threads,
        "batches_per_second": args.num_batches / seconds,
        "images_per_second": batch_size * args.num_batches / seconds,
        "wait_seconds": timing.spread(waits),
        "wait_share": sum(waits) / (sum(waits) + len(waits) * args.step_ms / 1e3),
    }


def _waits(stream: Any, count: int, num_threads: int, pause: float) -> list[float]:
    """List how long each of `count` batches took to come, after the first."""
    from ddpm_jax import data

    waits = []
    batches = data.iterate(stream, num_threads=num_threads)
    with contextlib.closing(batches):
        next(batches)  # starts the threads, and shuffles the first epoch
        for _ in range(count):
            time.sleep(pause)
            started = time.perf_counter()
            next(batches)
            waits.append(time.perf_counter() - started)
    return waits


if __name__ == "__main__":
    sys.exit(main())
