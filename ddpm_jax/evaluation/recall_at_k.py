"""Retrieval recall R@k: is the caption of an image among the k nearest texts?

A share such as "in the first 5 of 100" depends on which 99 others there are. It is not
sampled here but computed: over all equally likely choices from the available texts,
those that come before the image's own follow a hypergeometric law.
"""

from math import comb

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate, check_features


def num_ranked_higher(
    images: np.ndarray,
    texts: np.ndarray,
    own: np.ndarray,
    true: np.ndarray | None = None,
) -> np.ndarray:
    """Count the texts that are nearer to each image than its own.

    One that is just as near counts, so that a constant network has R@k = 0.

    Args:
        images: vectors of length 1, [N, D].
        texts: vectors of length 1, of distinct texts, [M, D].
        own: int [N], the text of each image.
        true: bool [N, M], whether a text is true of an image though it need not be its
            own; such a text does not count. None where it is not known.

    Returns:
        int [N], 0 to M - 1.

    Raises:
        UserError: vectors of different lengths, or a number that is not finite.
    """
    check_features(images, texts)
    products = images.astype(np.float64) @ texts.astype(np.float64).T
    of_own = products[np.arange(len(images)), own]
    nearer = products >= of_own[:, None]
    nearer[np.arange(len(images)), own] = False
    if true is not None:
        nearer &= ~true
    return nearer.sum(axis=1)


def recall_at_k(
    before: np.ndarray, num_texts: int, *, k: int = 5, among: int = 100
) -> Estimate:
    """Return R@k: the share of images whose text is among the k nearest of `among`.

    Args:
        before: int [N] of `num_ranked_higher`.
        num_texts: M, that those were counted among.
        k: the last rank that counts, from 1.
        among: how many texts there are to choose from, its own with them.

    Returns:
        The mean over images of the probability, with its standard error.

    Raises:
        UserError: there are fewer texts than `among`, or nothing to choose between.
    """
    if not k < among <= num_texts:
        raise UserError(
            f"R@{k} among {among} cannot be computed with {num_texts} texts; give "
            f"{max(among, k + 1)} or more that differ."
        )
    others, chosen = num_texts - 1, among - 1

    def chance_of(nearer: int) -> float:
        ways = sum(
            comb(nearer, i) * comb(others - nearer, chosen - i) for i in range(k)
        )
        return ways / comb(others, chosen)

    chance = np.array([chance_of(int(nearer)) for nearer in before])
    return Estimate(float(chance.mean()), float(chance.std() / np.sqrt(len(chance))))
