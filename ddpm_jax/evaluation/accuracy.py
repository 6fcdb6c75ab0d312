"""Classification accuracy: are generated images of the class they were sampled for?

After Ravuri & Vinyals 2019, "Classification Accuracy Score for Conditional Generative
Models", who train on generated images and test on real ones; here it is the other way
round, which detects wrong images and not missing ones: report it beside recall.
"""

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate


def class_accuracy(logits: np.ndarray, labels: np.ndarray) -> Estimate:
    """Return the accuracy on the requested classes, with its binomial standard error.

    Args:
        logits: [N, K].
        labels: int [N], 0..K-1.

    Raises:
        UserError: the numbers differ, or a label is not a class.
    """
    count, num_classes = logits.shape
    if labels.shape != (count,):
        raise UserError(
            f"{count} images and labels of shape {list(labels.shape)}; give one label "
            "for each image."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"labels from {labels.min()} to {labels.max()}, and the classifier has 0 "
            f"to {num_classes - 1}; score class-conditional samples."
        )
    share = float((logits.argmax(1) == labels).mean())
    return Estimate(share, float(np.sqrt(share * (1 - share) / count)))
