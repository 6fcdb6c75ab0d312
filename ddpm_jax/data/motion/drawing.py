"""Digits at places between pixels.

A picture is moved by (y, x) by linear interpolation, which is a product with a matrix
of tents on each side:

    out = T(y) picture T(x)',   T(y)[s, r] = max(0, 1 - |s - (y + r)|)

Each pixel's value goes to the two nearest ones each way in shares that keep its center:
the centroid of the picture moves by exactly (y, x), as long as nothing is cut off.
"""

import numpy as np


def draw(pictures: np.ndarray, where: np.ndarray, side: int) -> np.ndarray:
    """Draw pictures into black frames.

    Args:
        pictures: float [N, h, w].
        where: of their upper left corners (y, x), in pixels, float64 [N, F, 2].
        side: of the frames, pixels.

    Returns:
        float64 [N, F, side, side].
    """
    _, height, width = pictures.shape
    down = _tents(where[..., 0], height, side)
    across = _tents(where[..., 1], width, side)
    rows = np.einsum("nfsr,nrc->nfsc", down, pictures)
    return rows @ across.swapaxes(-1, -2)


def _tents(offset: np.ndarray, length: int, side: int) -> np.ndarray:
    """T for each offset [...]: [..., side, length]."""
    to = np.arange(side)[:, None]
    away = to - (offset[..., None, None] + np.arange(length))
    return np.maximum(0.0, 1.0 - np.abs(away))
