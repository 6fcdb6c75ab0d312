"""Estimates with a standard error, and the checks of features they are made from."""

from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError


class Estimate(NamedTuple):
    """A score of a finite sample.

    Attributes:
        value: the estimate.
        standard_error: of the value, as its function says; None if it has none of its
            own (sample with several seeds to get one).
    """

    value: float
    standard_error: float | None


def seeded(seed: int) -> np.random.Generator:
    """Return the random numbers of a seed, which has no upper bound.

    Raises:
        UserError: the seed is negative.
    """
    if seed < 0:
        raise UserError(f"seed={seed} is negative; use 0 or more.")
    return np.random.default_rng(seed)


def check_features(*sets: np.ndarray, width: int | None = None) -> None:
    """Check that sets of features [N, D] can be compared.

    A single NaN among the vectors would be the neighbor of none or of all, and the
    score would not show it.

    Args:
        *sets: of vectors.
        width: D, if something else than the first set decides it.

    Raises:
        UserError: a set is not [N, D] of one D, or a number in it is not finite.
    """
    for features in sets:
        if features.ndim != 2:
            raise UserError(
                f"features of shape {list(features.shape)}; want [N, D], one vector an "
                "image."
            )
        width = features.shape[1] if width is None else width
        if features.shape[1] != width:
            raise UserError(
                f"{width} and {features.shape[1]} features an image; compare those of "
                "one network."
            )
        finite = np.isfinite(features).all(1)
        if not finite.all():
            raise UserError(
                f"the features of {(~finite).sum()} of {len(features)} images are not "
                f"finite, the first of them those of image {finite.argmin()}; check "
                "that image, or at the network."
            )
