"""Evaluation: images a second through a features network, and seconds for each score.

    python -m benchmarks.evaluate --batch-size=64

Inception gets random weights, which take as long as the published ones and need no
file. The scores are of random vectors, of the number and width of the field's usual
evaluation.
"""

import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks import start
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Evaluate

NETWORKS = ("inception", "classifier")
SCORES = ("frechet", "kernel", "precision_recall", "density_coverage")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    parser = start.make_parser("evaluate", "Feature extractors and scores.")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which of them")
    parser.add_argument("--num-batches", type=int, default=5, help="timed")
    parser.add_argument("--image-size", type=int, help="side; unset: that of the data")
    parser.add_argument("--num-vectors", type=int, default=10_000, help="of each set")
    parser.add_argument("--num-features", type=int, default=2048, help="of each vector")
    parser.add_argument("--num-repeats", type=int, default=3, help="of each score")
    return start.run("evaluate", parser, measure, argv)


def measure(setup: start.Setup) -> dict[str, Any]:
    """Run the measurement; plain data, seconds."""
    # After the devices are set up.
    from benchmarks import machine, parts

    args, recipe = setup.args, setup.recipe
    start.at_least(
        1,
        num_batches=args.num_batches,
        num_repeats=args.num_repeats,
        num_features=args.num_features,
    )
    start.at_least(101, num_vectors=args.num_vectors)
    networks = [word.strip() for word in args.networks.split(",") if word.strip()]
    for name in networks:
        if name not in NETWORKS:
            raise UserError(f"--networks has {name!r}; use some of {NETWORKS}.")
    of = parts.make_parts(recipe)
    seen = {name: _time_features(name, of, args) for name in networks}
    return {
        "features": seen,
        "num_vectors": args.num_vectors,
        "num_features": args.num_features,
        "score_seconds": _time_scores(args),
        "peak_memory": machine.peak_memory(),
    }


def _network(name: str, of: Any) -> Any:
    """Return a feature extractor with random weights, scaled to stay finite."""
    import jax

    from ddpm_jax.assembly import features as small
    from ddpm_jax.evaluation import resize
    from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs
    from ddpm_jax.networks.inception import InceptionV3, parameter_shapes
    from ddpm_jax.recipe import ClassifierTask, Fit

    if name == "classifier":
        spec = ClassifierTask(seed=of.recipe.task.seed)
        net = small.classifier(spec, of.info)
        about = {
            "name": "classifier",
            "fingerprint": "",
            "label_names": of.info.label_names,
            "image_shape": of.info.image_shape,
        }
        params = small.classifier_task(spec, Fit(), of.info, of.mesh).draw()
        return small.as_features(net, params, about)
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        fan_in = np.prod(leaf.shape[:-1], dtype=np.float32)  # 1 for vectors
        return rng.standard_normal(leaf.shape, np.float32) / np.sqrt(fan_in)

    params = jax.tree.map(draw, parameter_shapes())

    def see(params: Any, images: Any) -> Outputs:
        pictures = resize.prepare(images, resize.tensorflow)
        return Outputs(*InceptionV3().apply({"params": params}, pictures))

    return FeatureExtractor(
        "inception", "", 2048, None, "tensorflow", None, params, see
    )


def _time_features(name: str, of: Any, args: Any) -> dict[str, Any]:
    import jax

    from benchmarks import timing
    from ddpm_jax.evaluation.feature_extractor import make_extract
    from ddpm_jax.runtime.devices import round_up

    shape = of.info.image_shape
    if args.image_size and name == "inception":  # the other is made for one size
        shape = (args.image_size, args.image_size, shape[-1])
    batch_size = round_up(of.recipe.request(Evaluate).feature_batch_size)
    if args.batch_size is not None:
        batch_size = round_up(args.batch_size)
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *shape), np.uint8)
    program = make_extract(_network(name, of), of.mesh).program

    def run() -> Any:
        return jax.device_get(program(images))

    first = timing.seconds(run)
    times = [timing.seconds(run) for _ in range(args.num_batches)]
    taken = timing.spread(times)
    return {
        "batch_size": batch_size,
        "image_shape": "x".join(map(str, shape)),
        "first_seconds": first,  # compilation included
        "batch_seconds": taken,
        "images_per_second": batch_size / taken["median"],
    }


def _time_scores(args: Any) -> dict[str, dict[str, float]]:
    """Time each score of two sets of random vectors; the first call does not count."""
    from benchmarks import timing
    from ddpm_jax.evaluation.feature_extractor import Outputs
    from ddpm_jax.evaluation.scores import reference_of, score

    rng = np.random.default_rng(0)
    shape = (args.num_vectors, args.num_features)
    real, fake = (
        Outputs(rng.standard_normal(shape, np.float32), None) for _ in range(2)
    )
    reference = reference_of(real)
    found = {}
    for name in SCORES:
        print(f"{name} ...", flush=True)
        run = partial(score, fake, reference, names=(name,))
        run()  # compiles
        found[name] = timing.spread(
            [timing.seconds(run) for _ in range(args.num_repeats)]
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
