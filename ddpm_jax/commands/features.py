"""Training the small classifier whose last hidden layer is used as features."""

from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly import features as of
from ddpm_jax.commands.fitting import Auxiliary, train_auxiliary
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.data.pipeline import gather
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, extract
from ddpm_jax.recipe import ClassifierTask, Recipe


def features(recipe: Recipe[ClassifierTask], workdir: Path) -> int:
    """Train a classifier on the data of a recipe and write it, with its accuracy.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training
    splits = with_test_split(spec.data, workdir)
    info = assembly.data_info(splits["train"])
    of.check_features(spec, fit, info)

    def measure(params: Any, splits: dict[str, data.Dataset]) -> dict[str, Any]:
        facts = {
            "name": f"classifier of {info.name}",
            "fingerprint": auxiliary.fingerprint(auxiliary.flat_params(params)),
            "image_shape": list(info.image_shape),
            "label_names": list(info.label_names or ()),
            "num_features": spec.network.num_features,
        }
        seen = of.as_features(of.classifier(spec, info), params, facts)
        accuracy = {name: _accuracy(seen, source) for name, source in splits.items()}
        return facts | {"accuracy": accuracy}

    classifier = Auxiliary(
        of.KIND,
        lambda mesh: of.classifier_task(spec, fit, info, mesh),
        measure,
        of.classifier_features,
        _report,
    )
    return train_auxiliary(recipe, workdir, classifier, splits, info)


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
