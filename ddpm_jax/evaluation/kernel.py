"""The kernel distance KID: the squared maximum mean discrepancy of two sets.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k(x, y) = (x . y / D + 1)^3

Its estimator leaves out the pairs of an image with itself and is then unbiased: two
sets of one distribution give 0 in the mean, at any number of images, and below 0 half
the time.

Sources:
    Binkowski et al. 2018, "Demystifying MMD GANs", section 4.
    Gretton et al. 2012, "A Kernel Two-Sample Test", eq. (3).
"""

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return k(a_i, b_j), float64 [N, M], of vectors [N, D] and [M, D]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Estimate MMD^2 without bias from vectors [N, D] and [M, D], N and M 2 or more."""
    n, m = len(a), len(b)
    of_a, of_b = polynomial_kernel(a, a), polynomial_kernel(b, b)
    within_a = (of_a.sum() - np.trace(of_a)) / (n * (n - 1))
    within_b = (of_b.sum() - np.trace(of_b)) / (m * (m - 1))
    return float(within_a + within_b - 2.0 * polynomial_kernel(a, b).mean())


def kid(
    a: np.ndarray,
    b: np.ndarray,
    *,
    seed: int = 0,
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> Estimate:
    """Average the squared MMD over random subsets of both sets.

    Args:
        a: features [N, D].
        b: features [M, D].
        seed: of the subsets.
        num_subsets: how many.
        subset_size: images of each set in a subset; the smaller set bounds it.

    Returns:
        The mean over subsets. The standard error counts the independent subsets that a
        set can be cut into, not the subsets drawn: drawing ever more of them from the
        same images does not make the images more.

    Raises:
        UserError: a set has fewer than two images, or the features are of two networks.
    """
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"{a.shape[1]} and {b.shape[1]} features an image; compare those of one "
            "network."
        )
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise UserError("one image has no kernel distance; score two or more.")
    size = min(subset_size, fewest)
    if size == len(a) == len(b):
        return Estimate(squared_mmd(a, b), None)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_subsets):
        part_a = a[rng.choice(len(a), size, replace=False)]
        part_b = b[rng.choice(len(b), size, replace=False)]
        found.append(squared_mmd(part_a, part_b))
    independent = min(num_subsets, fewest // size)
    error = np.std(found, ddof=1) / independent**0.5
    return Estimate(float(np.mean(found)), float(error))
