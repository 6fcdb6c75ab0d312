"""The Inception Score: confidence of single images, diversity of all of them.

    IS = exp E_x KL(p(y | x) || p(y))

It ignores the data, and an image of noise that a classifier is sure of counts as a good
one; 1 is the worst and the number of classes the best.

Source: Salimans et al. 2016, "Improved Techniques for Training GANs", section 4.
"""

import itertools

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate


def inception_score(logits: np.ndarray, *, splits: int = 10) -> Estimate:
    """Score class logits [N, K], in consecutive splits, as published scores are.

    Args:
        logits: of N images, N at least the number of splits.
        splits: parts that are scored apart and averaged.

    Returns:
        The mean over splits, and its standard error. Papers quote the standard
        deviation of the splits instead, which is sqrt(splits) times as large.

    Raises:
        UserError: there are fewer images than splits.
    """
    if len(logits) < splits:
        raise UserError(
            f"{len(logits)} images make no {splits} splits; score more images."
        )
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    edges = [i * len(log_p) // splits for i in range(splits + 1)]
    values = [_score(log_p[start:end]) for start, end in itertools.pairwise(edges)]
    if splits == 1:
        return Estimate(values[0], None)
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / splits**0.5))


def _score(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    log_marginal = np.log(np.clip(p.mean(0), np.finfo(np.float64).tiny, None))
    return float(np.exp((p * (log_p - log_marginal)).sum(1).mean()))
