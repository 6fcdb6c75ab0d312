"""Linear probe: how well a class can be read off features by a linear map.

Ridge regression to one-hot classes, in closed form; the largest output decides:

    W = (X^T X + lambda N I)^-1 X^T Y,    X [N, D + 1] centered features and a constant

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision", section 3.2, for the probe as a measure of representations (there by
    logistic regression).
"""

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate, check_features

_RIDGE = 1e-4  # lambda, of features of unit variance


def linear_probe(
    train: np.ndarray,
    train_classes: np.ndarray,
    test: np.ndarray,
    test_classes: np.ndarray,
) -> Estimate:
    """Return the share of test features whose class a linear map finds.

    Args:
        train: features [N, D] by which the map is fitted.
        train_classes: int [N], from 0; -1 where there is none, which is left out.
        test: features [M, D].
        test_classes: int [M], likewise.

    Raises:
        UserError: features of different lengths, or nothing to fit or to test.
    """
    check_features(train, test)
    kept, tested = train_classes >= 0, test_classes >= 0
    if not kept.any() or not tested.any():
        raise UserError(
            "a linear probe got no example with a class; give some to fit and to test."
        )
    x = train[kept].astype(np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0).mean()
    spread = spread or 1.0  # of features that are all alike

    def design(features: np.ndarray) -> np.ndarray:
        scaled = (features.astype(np.float64) - mean) / spread
        return np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)

    x, classes = design(train[kept]), train_classes[kept]
    one_hot = np.eye(classes.max() + 1)[classes]
    gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ one_hot)
    found = (design(test[tested]) @ weights).argmax(axis=1)
    right = found == test_classes[tested]
    return Estimate(float(right.mean()), float(right.std() / np.sqrt(len(right))))
