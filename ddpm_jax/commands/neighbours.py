"""Images beside what is nearest to them in the data: a look at what was copied."""

import numpy as np

from ddpm_jax import data
from ddpm_jax.data.pipeline import gather
from ddpm_jax.runtime import images

NEIGHBOURS = 5  # beside each image
_SHOWN = 8  # images


def lay_beside(
    source: data.Dataset,
    real: data.Dataset,
    distances: np.ndarray,
    indices: np.ndarray,
) -> np.ndarray:
    """Lay images beside their neighbours, first those that are nearest to one.

    Args:
        source: N images.
        real: what the neighbours are of.
        distances: rising, [N, k].
        indices: into `real`, [N, k].

    Returns:
        A sheet, uint8 [H, W, C], of half the nearest and half the first images.
    """
    suspects = np.argsort(distances[:, 0], kind="stable")[: _SHOWN // 2]
    others = [i for i in range(_SHOWN) if i not in suspects][: _SHOWN // 2]
    lines = []
    for i in [*suspects, *others]:
        if i < len(source):
            own = gather(source, np.array([i]))["image"]
            near = gather(real, indices[i])["image"]
            lines.append(np.concatenate([own, near]))
    return images.grid(np.concatenate(lines), columns=1 + indices.shape[1])
