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
from ddpm_jax.evaluation.estimate import Estimate, check_features, seeded

_MIN_GROUPS = 10  # that a standard error is read from
_MOST_TIMES = 4  # as many images of the larger set in it as of the smaller


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
        The mean over subsets. The standard error is that of sampling all images anew:
        both sets are cut into groups that share no image, and their distances differ as
        those of new images would. Sampling ever more subsets of the same images does
        not make it less. It errs to the large side: of two sets of one law, or nearly,
        the distance scatters as 1 / N and not as its root, and the error is too large
        by up to the root of the number of groups, which is 10 or N / `subset_size`.
        None for fewer than four images.

    Raises:
        UserError: a set has fewer than two images, the features are of two networks, or
            not finite, or the seed is negative.
    """
    check_features(a, b)
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise UserError("one image has no kernel distance; score two or more.")
    size = min(subset_size, fewest)
    rng = seeded(seed)
    if size == len(a) == len(b):
        values = [squared_mmd(a, b)]
    else:
        values = []
        for _ in range(num_subsets):
            part_a = a[rng.choice(len(a), size, replace=False)]
            part_b = b[rng.choice(len(b), size, replace=False)]
            values.append(squared_mmd(part_a, part_b))
    if fewest < 4:
        return Estimate(float(np.mean(values)), None)
    variance = _variance_of_all(a, b, size, rng)
    if len(values) > 1:
        variance += float(np.var(values, ddof=1)) / len(
            values
        )  # of the choice of subsets
    return Estimate(float(np.mean(values)), float(variance**0.5))


def _variance_of_all(
    a: np.ndarray, b: np.ndarray, size: int, rng: np.random.Generator
) -> float:
    """Return the variance of the mean distance of groups that share no image.

    Where the sets are far from one law, the variance of a distance goes as 1 / N, so
    that this mean has the variance that the distance of the whole sets has. A set that
    is many times larger is not used whole: its kernel would not fit in memory.
    """
    fewest = min(len(a), len(b))
    most = _MOST_TIMES * fewest
    groups = min(max(_MIN_GROUPS, fewest // size), fewest // 2)
    cuts_a = np.array_split(rng.permutation(len(a))[:most], groups)
    cuts_b = np.array_split(rng.permutation(len(b))[:most], groups)
    values = [squared_mmd(a[i], b[j]) for i, j in zip(cuts_a, cuts_b, strict=True)]
    return float(np.var(values, ddof=1) / groups)
