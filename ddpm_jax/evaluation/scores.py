"""All scores of one set of images against another, from their features.

Three lines, given any `FeatureExtractor`:

    reference = reference_of(extract(features, real_images))
    fake = extract(features, generated_images)
    score(fake, reference)                  # {"frechet_distance": Estimate(...), ...}
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import mean_covariance
from ddpm_jax.evaluation.accuracy import class_accuracy
from ddpm_jax.evaluation.estimate import Estimate, seeded
from ddpm_jax.evaluation.feature_extractor import Outputs
from ddpm_jax.evaluation.frechet import fid_infinity, frechet_distance
from ddpm_jax.evaluation.inception_score import inception_score
from ddpm_jax.evaluation.kernel_distance import kid
from ddpm_jax.evaluation.precision_recall import (
    density_coverage,
    nearest,
    precision_recall,
)


class Reference(NamedTuple):
    """Reference statistics: real images, by their features.

    Attributes:
        mean: float64 [D], of the features of all reference images.
        covariance: float64 [D, D].
        features: float32 [M, D] of the same images; None where only the moments are
            known, as from a published file.
    """

    mean: np.ndarray
    covariance: np.ndarray
    features: np.ndarray | None


def reference_of(outputs: Outputs) -> Reference:
    """Make a reference of the features of real images."""
    total = mean_covariance.from_vectors(outputs.features)
    return Reference(total.mean, mean_covariance.covariance(total), outputs.features)


@dataclass(frozen=True)
class _Compared:
    """Inputs of a score."""

    fake: Outputs
    reference: Reference
    labels: np.ndarray | None
    seed: int

    @property
    def real(self) -> np.ndarray:
        """Features of the real images: `score` computes these scores with them only."""
        assert self.reference.features is not None
        return self.reference.features

    @property
    def logits(self) -> np.ndarray:
        """Classes of the fake images: `score` computes these scores with them only."""
        assert self.fake.logits is not None
        return self.fake.logits

    def same_number(self) -> tuple[np.ndarray, np.ndarray]:
        """As many real features as fake ones, or the other way round.

        Balls around k-th neighbors shrink with the number of images, so that sets of
        different sizes would not be comparable.
        """
        real, fake = self.real, self.fake.features
        count = min(len(real), len(fake))
        return _choose(real, count, self.seed), _choose(fake, count, self.seed + 1)


def _choose(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    if count == len(features):
        return features
    chosen = seeded(seed).permutation(len(features))[:count]
    return features[np.sort(chosen)]


def _frechet(it: _Compared) -> dict[str, Estimate]:
    fake = mean_covariance.from_vectors(it.fake.features)
    distance = frechet_distance(
        fake.mean,
        mean_covariance.covariance(fake),
        it.reference.mean,
        it.reference.covariance,
    )
    return {"frechet_distance": Estimate(distance, None)}


def _frechet_infinity(it: _Compared) -> dict[str, Estimate]:
    value = fid_infinity(
        it.fake.features, it.reference.mean, it.reference.covariance, seed=it.seed
    )
    return {"frechet_infinity": value}


def _kid(it: _Compared) -> dict[str, Estimate]:
    value = kid(it.fake.features, it.real, seed=it.seed)
    return {"kernel_distance": value}


def _inception(it: _Compared) -> dict[str, Estimate]:
    return {"inception_score": inception_score(it.logits)}


def _precision(it: _Compared) -> dict[str, Estimate]:
    values = precision_recall(*it.same_number())
    return {name: Estimate(value, None) for name, value in values._asdict().items()}


def _density(it: _Compared) -> dict[str, Estimate]:
    values = density_coverage(*it.same_number())
    return {name: Estimate(value, None) for name, value in values._asdict().items()}


def _accuracy(it: _Compared) -> dict[str, Estimate]:
    assert it.labels is not None  # `score` leaves this score out without them
    return {"class_accuracy": class_accuracy(it.logits, it.labels)}


def _nearest(it: _Compared) -> dict[str, Estimate]:
    distances, _ = nearest(it.fake.features, it.real, k=1)
    return {"nearest_distance": Estimate(float(np.median(distances)), None)}


SCORES: dict[str, Callable[[_Compared], dict[str, Estimate]]] = {
    "frechet": _frechet,
    "frechet_infinity": _frechet_infinity,
    "kernel": _kid,
    "inception_score": _inception,
    "precision_recall": _precision,
    "density_coverage": _density,
    "class_accuracy": _accuracy,
    "nearest": _nearest,
}
_OF_LOGITS = {"inception_score", "class_accuracy"}
_OF_MOMENTS = {"frechet", "frechet_infinity"}


def score(
    fake: Outputs,
    reference: Reference,
    *,
    labels: np.ndarray | None = None,
    names: Sequence[str] = tuple(SCORES),
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compute the scores that these features and this reference allow.

    Scores that need class probabilities are left out where the features have none,
    those that need labels where there are none, and all but the Frechet distances where
    only the moments of the reference are known.

    Args:
        fake: of the images to be scored: float32 [N, D], [N, K] or None.
        reference: of the real images.
        labels: int [N], the class that each image was meant to be.
        names: of `SCORES`.
        seed: of the random subsets that some scores take.

    Raises:
        UserError: the features are not of the same network, or there are too few.
    """
    width = fake.features.shape[1]
    if width != len(reference.mean):
        raise UserError(
            f"the images have {width} features each and the reference has "
            f"{len(reference.mean)}; compute both with the same network."
        )
    if len(fake.features) < 2:
        raise UserError("one image has no covariance; score two or more.")
    it = _Compared(fake, reference, labels, seed)
    estimates: dict[str, Estimate] = {}
    for name in names:
        if name in _OF_LOGITS and fake.logits is None:
            continue
        if name == "class_accuracy" and labels is None:
            continue
        if name not in _OF_LOGITS | _OF_MOMENTS and reference.features is None:
            continue
        estimates |= SCORES[name](it)
    return estimates


def check_count(num_images: int, num_features: int) -> None:
    """Refuse a covariance of fewer images than features.

    Raises:
        UserError: saying how many would do.
    """
    if num_images <= num_features:
        raise UserError(
            f"{num_images} images are no more than the {num_features} features: their "
            "covariance has no full rank, and a Frechet distance is mostly bias; score "
            f"{num_features + 1} or more, or consent with "
            "--config.evaluate.allow_few=True."
        )
