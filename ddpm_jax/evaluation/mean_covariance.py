"""Mean and covariance of features, one batch after another, in float64.

Sums of squares lose their digits where the mean is large beside the spread; the update
of Chan, Golub and LeVeque adds scatters about each part's own mean instead.
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError


class Moments(NamedTuple):
    """Count, mean and scatter of the vectors so far.

    Attributes:
        count: N.
        mean: float64 [D].
        scatter: float64 [D, D], the sum of (x - mean)(x - mean)^T.
    """

    count: int  # type: ignore[assignment]  # hides a method of tuples
    mean: np.ndarray
    scatter: np.ndarray


def from_vectors(x: np.ndarray) -> Moments:
    """Compute the moments of vectors [N, D], N >= 1."""
    x = np.asarray(x, np.float64)
    mean = x.mean(0)
    centred = x - mean
    return Moments(len(x), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
    """Join two parts: the moments of all vectors of both.

    Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for
        Computing Sample Variances", eq. (2.1).
    """
    count = a.count + b.count
    apart = b.mean - a.mean
    mean = a.mean + apart * (b.count / count)
    between = np.outer(apart, apart) * (a.count * b.count / count)
    return Moments(count, mean, a.scatter + b.scatter + between)


def covariance(moments: Moments) -> np.ndarray:
    """Return the unbiased covariance, float64 [D, D]; it divides by N - 1.

    Raises:
        UserError: there is only one vector.
    """
    if moments.count < 2:
        raise UserError("one image has no covariance; score two or more.")
    return moments.scatter / (moments.count - 1)
