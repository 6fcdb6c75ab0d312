"""The Frechet distance between two sets of features, taken as Gaussians: FID.

    d^2 = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

The trace of the root is the sum of the singular values of R_a R_b^T, where R^T R = S:
their squares are the eigenvalues of the symmetric R_b S_a R_b^T, and so of S_a S_b.
R comes from the eigenvalues of S, those within rounding error set to 0. Without
that, and with the roots of the eigenvalues of the product, a covariance of fewer images
than features would put the root of noise, 1e-8, in place of each eigenvalue that is 0.

Sources:
    Dowson & Landau 1982, "The Frechet Distance between Multivariate Normal
        Distributions", eq. (4).
    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", eq. (6).
    Chong & Forsyth 2020, "Effectively Unbiased FID and Inception Score".
"""

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import mean_covariance
from ddpm_jax.evaluation.estimate import Estimate, check_features, seeded

_SMALLEST_SHARE = 0.1  # of the images, in the smallest subset of an extrapolation


def frechet_distance(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """Return d^2 of two Gaussians, as FID is defined: the square, not its root.

    Args:
        mean_a: [D].
        cov_a: [D, D], symmetric, no eigenvalue below 0 but for rounding.
        mean_b: [D].
        cov_b: [D, D].

    Raises:
        UserError: the sizes differ, or a number is not finite.
    """
    mean_a, cov_a = _checked(mean_a, cov_a)
    mean_b, cov_b = _checked(mean_b, cov_b)
    if mean_a.shape != mean_b.shape:
        raise UserError(
            f"statistics of {len(mean_a)} and of {len(mean_b)} features; compare those "
            "of one network."
        )
    return _distance(mean_a, cov_a, mean_b, cov_b, _root(cov_b))


def _distance(
    mean_a: np.ndarray,
    cov_a: np.ndarray,
    mean_b: np.ndarray,
    cov_b: np.ndarray,
    root_b: np.ndarray,
) -> float:
    apart = mean_a - mean_b
    product = _root(cov_a) @ root_b.T
    trace_of_root = (
        np.linalg.svd(product, compute_uv=False).sum() if product.size else 0
    )
    return float(
        apart @ apart + np.trace(cov_a) + np.trace(cov_b) - 2.0 * trace_of_root
    )


def _root(cov: np.ndarray) -> np.ndarray:
    """Return R [rank, D] with R^T R = S, by the eigenvalues of the symmetric S."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    noise = len(cov) * np.finfo(np.float64).eps * values[-1]
    kept = values > max(noise, 0.0)
    return np.sqrt(values[kept])[:, None] * vectors.T[kept]


def _checked(mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both in float64: a trace of thousands of float32 loses half its digits."""
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise UserError(
            f"a mean of shape {list(mean.shape)} and a covariance of "
            f"{list(cov.shape)}; want [D] and [D, D]."
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UserError(
            "statistics with numbers that are not finite; compute them again."
        )
    return mean, cov


def fid_infinity(
    features: np.ndarray,
    mean: np.ndarray,
    cov: np.ndarray,
    *,
    seed: int = 0,
    num_points: int = 15,
) -> Estimate:
    """Extrapolate the Frechet distance to infinitely many images.

    The distance of N images is too large by about c / N, c being a property of the
    features. A line through the distances of subsets, over 1 / N, meets 1 / N = 0 at
    the distance without that bias. The 1 / N of the subsets lie evenly; in the paper's
    code their N do. The smallest has a tenth of the images, but not so few that the
    distance, of a covariance without full rank, would be off the line.

    Args:
        features: [N, D].
        mean: of the reference [D].
        cov: of the reference [D, D].
        seed: of the subsets.
        num_points: subsets, 3 or more. Each costs an eigenvalue problem of size D.

    Returns:
        The intercept, and its standard error by least squares. The subsets overlap, so
        that it describes the fit, not another sample of all images.

    Raises:
        UserError: the features do not fit the reference, a number is not finite, or
            the seed is negative.
    """
    mean, cov = _checked(mean, cov)
    check_features(features, width=len(mean))
    rng = seeded(seed)
    total, size = features.shape
    smallest = max(2, round(_SMALLEST_SHARE * total), min(2 * size, total // 2))
    inverse = np.linspace(1 / smallest, 1 / total, num_points)
    counts = np.unique((1 / inverse).round().astype(int))
    root = _root(cov)
    distances = []
    for count in counts:
        chosen = np.sort(rng.permutation(total)[:count])
        part = mean_covariance.from_vectors(features[chosen])
        spread = mean_covariance.covariance(part)
        distances.append(_distance(part.mean, spread, mean, cov, root))
    return _intercept(1 / counts, np.array(distances))


def _intercept(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Fit y = a + b x by least squares; return a, with its standard error."""
    if len(x) < 3:
        return Estimate(float(y[np.argmin(x)]), None)
    design = np.stack([np.ones_like(x), x], axis=1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ solution
    variance = residual @ residual / (len(x) - 2)
    error = np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    return Estimate(float(solution[0]), float(error))
