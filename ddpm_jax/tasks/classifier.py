"""Classifier: smoothed cross-entropy of shifted images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax import limits
from ddpm_jax.networks.residual_classifier import Classifier
from ddpm_jax.runtime.images import to_float
from ddpm_jax.tasks.augment import shift_and_flip
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training.task import Batch, Objective


@dataclasses.dataclass(frozen=True)
class ClassifierTask(TaskSpec):
    """A small classifier, whose last hidden layer serves as features of images.

    Attributes:
        network: the classifier.
        label_smoothing: share of the target that is spread over all classes.
        max_shift: pixels that an image may be shifted, each way.
    """

    network: Classifier = dataclasses.field(default_factory=Classifier)
    label_smoothing: float = 0.1
    max_shift: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.share(self, "label_smoothing")
        limits.between(self, "max_shift", 0, 65_536)


def smoothed_cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float
) -> jax.Array:
    """Return -sum_k q_k log p_k [B], q being 1 - s on the label and s / K everywhere.

    Args:
        logits: [B, K].
        labels: int [B].
        smoothing: s; 0 is the plain cross-entropy.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """
    log_p = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return -(1.0 - smoothing) * of_label - smoothing * log_p.mean(1)


def make_classify_objective(
    network: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
    *,
    label_smoothing: float,
    max_shift: int,
    flip: bool,
) -> Objective:
    """Compose the objective of a classifier, for `step.make_train_step`.

    Args:
        network: (params, images in [-1, 1]) -> (features, logits).
        label_smoothing: share of the target that is spread over all classes.
        max_shift: pixels that an image may be shifted, each way.
        flip: mirror half of the pictures left to right.
    """

    def objective(
        params: Any, key: jax.Array, batch: Batch, carry: Any
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        images = shift_and_flip(key, batch["image"], max_shift=max_shift, flip=flip)
        _, logits = network(params, to_float(images))
        loss = smoothed_cross_entropy(logits, batch["label"], label_smoothing).mean()
        right = (logits.argmax(1) == batch["label"]).mean()
        return loss, ({"loss": loss, "accuracy": right}, carry)

    return objective
