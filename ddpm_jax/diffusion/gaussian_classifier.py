"""Gaussian classifier of noisy data (LDA), in closed form and without training.

Each class of the clean data is taken to be a Gaussian, with a mean of its own and one
covariance Sigma shared by all. Noise keeps that form,

    p(x_t | y) = N(alpha mu_y, A),    A = alpha^2 Sigma + sigma^2 I,

and what is common to all classes drops out of Bayes' rule: with d_y = mu_y - mu, mu
being the mean of the class means,

    log p(y | x_t) = log softmax_y( log prior_y + alpha d_y^T A^-1 (x_t - alpha mu)
                                    - alpha^2 d_y^T A^-1 d_y / 2 ).

This is linear discriminant analysis (Fisher 1936; Hastie, Tibshirani, Friedman 2009,
"The Elements of Statistical Learning", section 4.3) at every level of noise at once:
the eigenvectors of Sigma are computed once; a level only changes the eigenvalues of A.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.denoisers import Cond
from ddpm_jax.diffusion.guidance import LogProb
from ddpm_jax.diffusion.process import like
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError

_CHUNK = 4096  # rows turned to float64 at a time


def gaussian_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    prior: np.ndarray | None = None,
    rank: int = 1024,
) -> LogProb:
    """Fit the classifier to clean data, in float64.

    Args:
        images: [N, ...] as the model sees them, in [-1, 1], of D dimensions.
        labels: int [N] in 0..num_classes - 1, each class present.
        num_classes: K.
        prior: probabilities of the classes [K], of any sum; None if all are equal.
            `np.bincount(labels)` is that of the data.
        rank: directions of largest variance to keep; the others share their mean
            variance. Nothing is lost while it is at least D. If N is below D, let it
            be well below N: a direction in which no image varies must not have variance
            0.

    Returns:
        (x_t [B, ...], level, cond) -> log p(label | x_t) in nats, [B], of the classes
        `cond["label"]`. The null class, num_classes, has log-probability 0, and so
        has no label at all.

    Raises:
        UserError: if a label is out of range, a class has no image, or the prior does
            not fit.
    """
    shares = _shares(labels, num_classes, prior)
    flat = images.reshape(len(images), -1)
    means = np.stack(
        [
            np.mean(flat[labels == label], axis=0, dtype=np.float64)
            for label in range(num_classes)
        ]
    )
    values, basis, rest = _principal(flat, labels, means, rank)
    centre = means.mean(axis=0)
    offsets = means - centre  # d_y, [K, D]
    inside = offsets @ basis  # [K, R]
    outside = offsets - inside @ basis.T  # [K, D]
    # NumPy arrays, so that the fit may be made while a program is being traced.
    numbers = (centre, basis, values, inside, outside, np.log(shares))
    centre, basis, values, inside, outside, log_prior = (
        np.asarray(v, np.float32) for v in numbers
    )
    inside_sizes = inside**2
    outside_size = np.sum(outside**2, axis=-1)

    def log_prob(x_t: jax.Array, level: Level, cond: Cond) -> jax.Array:
        label = (cond or {}).get("label")
        if label is None:
            return jnp.zeros(x_t.shape[0])
        x = x_t.reshape(x_t.shape[0], -1).astype(jnp.float32)
        alpha, sigma = like(level.alpha, x), like(level.sigma, x)
        off = x - alpha * centre
        spread = alpha**2 * values + sigma**2  # of A, [1 or B, R]
        left = alpha**2 * rest + sigma**2
        along = _matmul(_matmul(off, basis) / spread, inside.T)
        linear = along + _matmul(off, outside.T) / left
        square = _matmul(1.0 / spread, inside_sizes.T) + outside_size / left
        scores = log_prior + alpha * linear - 0.5 * alpha**2 * square
        chosen = jnp.minimum(label, num_classes - 1)
        log_p = jnp.take_along_axis(
            jax.nn.log_softmax(scores), chosen[:, None], axis=1
        )[:, 0]
        return jnp.where(label < num_classes, log_p, 0.0)

    return log_prob


def _matmul(a: jax.Array, b: np.ndarray) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def _shares(
    labels: np.ndarray, num_classes: int, prior: np.ndarray | None
) -> np.ndarray:
    """Check the labels, and return the probabilities of the classes, [K]."""
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"labels run from {labels.min()} to {labels.max()}; they must lie in 0 to "
            f"{num_classes - 1}."
        )
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise UserError(
            f"class {int(np.argmin(counts))} of {num_classes} has no image; give at "
            "least one of each class."
        )
    weights = np.ones(num_classes) if prior is None else np.asarray(prior, np.float64)
    if weights.shape != (num_classes,) or not np.all(weights > 0):
        raise UserError(
            f"the prior is {weights.tolist()}; give {num_classes} positive numbers."
        )
    return weights / weights.sum()


def _principal(
    flat: np.ndarray, labels: np.ndarray, means: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Compute the largest eigenvalues of the covariance within classes.

    Args:
        flat: [N, D].
        labels: [N].
        means: of the classes, [K, D].
        rank: R at most.

    Returns:
        Eigenvalues [R], eigenvectors [D, R], and the mean of the eigenvalues left out.
    """
    num, dims = flat.shape
    if dims <= num:
        covariance = np.zeros((dims, dims))
        for start in range(0, num, _CHUNK):
            rows = slice(start, start + _CHUNK)
            off = flat[rows].astype(np.float64) - means[labels[rows]]
            covariance += off.T @ off / num
        values, basis = np.linalg.eigh(covariance)
    else:
        # The same by the smaller matrix of scalar products: if X X^T u = v u, then
        # X^T u / sqrt(v) is the eigenvector of X^T X to the eigenvalue v.
        off = flat.astype(np.float64) - means[labels]
        values, vectors = np.linalg.eigh(off @ off.T / num)
        real = values > 1e-10 * values[-1]  # centring has made some of them zero
        values = values[real]
        basis = off.T @ vectors[:, real] / np.sqrt(num * values)
    total = float(np.sum(values))
    values, basis = np.maximum(values[::-1][:rank], 0.0), basis[:, ::-1][:, :rank]
    left = dims - len(values)
    return values, basis, max(total - float(values.sum()), 0.0) / left if left else 0.0
