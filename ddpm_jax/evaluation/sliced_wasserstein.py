"""Sliced Wasserstein distance: how far two sets of points are from each other.

Along a direction the optimal transport between sets of equal size pairs their sorted
projections, so that

    SW^2 = mean over directions u of mean over i of (sort(X u)_i - sort(Y u)_i)^2.

Source: Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters of Measures",
    section 2; Rabin et al. 2011, "Wasserstein Barycenter and its Application to Texture
    Mixing".
"""

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import check_features, seeded


def sliced_wasserstein(
    a: np.ndarray, b: np.ndarray, *, num_directions: int = 256, seed: int = 0
) -> float:
    """Return the sliced 2-Wasserstein distance, in the units of the points.

    Args:
        a: [N, D].
        b: [N, D]; as many.
        num_directions: of the projections; evenly spaced in the plane, random in other
            dimensions.
        seed: of random directions.

    Raises:
        UserError: the sets differ in size or dimension, are empty, or not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    check_features(a, b)
    if len(a) != len(b) or not len(a):
        raise UserError(
            f"sets of {len(a)} and {len(b)} points; compare as many of one as of the "
            "other, and more than none."
        )
    if a.shape[1] == 2:
        angles = np.pi * (np.arange(num_directions) + 0.5) / num_directions
        directions = np.stack([np.cos(angles), np.sin(angles)])
    else:
        directions = seeded(seed).standard_normal((a.shape[1], num_directions))
        directions /= np.linalg.norm(directions, axis=0)
    off = np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)
    return float(np.sqrt(np.mean(off**2)))
