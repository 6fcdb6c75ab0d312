"""Modes of a mixture: which of them samples hit, how well, and how evenly.

For data whose modes are known Gaussians, such as the ring of 8 and the grid of 25 that
the papers on dropped modes draw: a sample belongs to its nearest center, and is good
within 3 standard deviations of it. In the plane 1 - exp(-9/2) = 98.9% of exact samples
are.

No number suffices alone: the share of good samples is high where all are of one mode,
and all modes are hit by samples that are spread over the plane.

Source: Srivastava et al. 2017, "VEEGAN: Reducing Mode Collapse in GANs using Implicit
    Variational Learning", section 4.1, for modes and good samples.
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import check_features


class Modes(NamedTuple):
    """How samples cover the modes of a mixture of K Gaussians of equal weights.

    Attributes:
        hit: modes with a good sample at the least.
        at_half: modes with half of their share of good samples, N / 2 K, at the least.
        good: share of samples within 3 standard deviations of their nearest center.
        kl: divergence of the modes' shares of all samples from equal ones, in nats. Of
            N exact samples it is (K - 1) / 2 N in the mean.
    """

    hit: int
    at_half: int
    good: float
    kl: float


def count_modes(
    samples: np.ndarray, centers: np.ndarray, std: float, *, within: float = 3.0
) -> Modes:
    """Count the modes that samples hit, and how evenly.

    Args:
        samples: [N, D].
        centers: [K, D].
        std: of each coordinate around its center.
        within: standard deviations from a center, up to which a sample is good.

    Raises:
        UserError: there are none, or their numbers are not finite, or of another D.
    """
    samples, centers = np.asarray(samples, np.float64), np.asarray(centers, np.float64)
    check_features(centers, samples)
    if not len(samples):
        raise UserError("no samples have no modes; draw some.")
    offsets = samples[:, None] - centers
    squares = np.einsum("nkd,nkd->nk", offsets, offsets)
    nearest = squares.argmin(axis=1)
    good = squares.min(axis=1) <= (within * std) ** 2
    count, num_modes = len(samples), len(centers)
    good_counts = np.bincount(nearest[good], minlength=num_modes)
    shares = np.bincount(nearest, minlength=num_modes) / count
    positive = shares[shares > 0]
    return Modes(
        hit=int((good_counts > 0).sum()),
        at_half=int((good_counts >= count / (2 * num_modes)).sum()),
        good=float(good.mean()),
        kl=float(np.sum(positive * np.log(positive * num_modes))),
    )
