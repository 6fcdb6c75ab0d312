"""Random numbers of examples that are made by a rule, each a function of its number.

Source: J. K. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
    (Philox, whose words NumPy guarantees never to change; see `pipeline`).
"""

import numpy as np


def words_of(stream: int, index: np.ndarray, count: int) -> np.ndarray:
    """Draw the first words of 64 bits of each example's own stream.

    Args:
        stream: of a split; examples of other streams are independent.
        index: numbers of examples, int [N].
        count: words of each.

    Returns:
        uint64 [N, count].
    """
    words = [
        np.random.Philox(key=np.array([stream, i], np.uint64)).random_raw(count)
        for i in index.tolist()
    ]
    return np.array(words, np.uint64).reshape(-1, count)


def shares_of(words: np.ndarray) -> np.ndarray:
    """Turn words of 64 bits into numbers even in [0, 1), of 53 bits: float64."""
    shares: np.ndarray = (words >> np.uint64(11)) * 2.0**-53
    return shares
