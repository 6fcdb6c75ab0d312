"""Training the small classifier whose last hidden layer is used as features."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly import features as of
from ddpm_jax.commands.fitting import Training, already_finished, train_auxiliary
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.data.pipeline import gather
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, extract
from ddpm_jax.recipe import ClassifierTask, Recipe
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.training.state import TrainState


def features(recipe: Recipe[ClassifierTask], workdir: Path) -> int:
    """Train a classifier on the data of a recipe and write it, with its accuracy.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training
    source, test, held_out = with_test_split(spec.data, workdir)
    info = assembly.data_info(source)
    of.check_features(spec, fit, info)
    mesh = data_mesh(recipe.devices.fsdp)
    assembly.check_batch(fit)
    training = Training(of.KIND, "the features network")
    about = already_finished(recipe, workdir, training, source.fingerprint)
    if about is not None:
        of.classifier_features(workdir)  # refuses a damaged one
        print(f"{_report(about, workdir)} It is finished. Nothing to do.")
        return 0
    net, started = of.classifier(spec, info), time.perf_counter()

    def finish(state: TrainState) -> dict[str, Any]:
        flat = auxiliary.flat_params(state.ema_params)
        found = {
            "name": f"classifier of {source.name}",
            "fingerprint": auxiliary.fingerprint(flat),
            "image_shape": list(source.image_shape),
            "label_names": list(source.label_names or ()),
            "num_features": spec.network.num_features,
        }
        seen = of.as_features(net, state.ema_params, found)
        splits = {"train": source, held_out: test}
        return {
            **found,
            "accuracy": {name: _accuracy(seen, one) for name, one in splits.items()},
            "num_images": {name: len(one) for name, one in splits.items()},
            **auxiliary.origin(time.perf_counter() - started),
        }

    ended = train_auxiliary(
        recipe,
        workdir,
        training,
        of.classifier_task(spec, fit, net, info, mesh, finish),
        source=source,
        fingerprint=source.fingerprint,
        key=of.classify_key(spec),
    )
    if ended.signal_number:
        return 128 + ended.signal_number
    print(_report(ended.result, workdir))
    return 0


def _accuracy(seen: FeatureExtractor, source: data.Dataset) -> float:
    """Return the share of images that the classifier classifies correctly."""
    batch = gather(source, np.arange(len(source)))
    logits = extract(seen, batch["image"], batch_size=256).logits
    assert logits is not None  # of a classifier
    return float((logits.argmax(1) == batch["label"]).mean())


def _report(result: dict[str, Any], workdir: Path) -> str:
    accuracies = ", ".join(
        f"{share:.2%} of {result['num_images'][name]:,} ({name})"
        for name, share in result["accuracy"].items()
    )
    return (
        f"{result['name']}, weights {result['fingerprint']}: accuracy {accuracies}. "
        f"Use it with --features={workdir}."
    )
