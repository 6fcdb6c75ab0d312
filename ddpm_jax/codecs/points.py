"""Points in the plane: the chain is made of them as they are, and plots show them.

What a model says of every place of the plane, its density and its score, is drawn
beside its samples: `commands/plane.py`.
"""

import dataclasses

import numpy as np

from ddpm_jax.codecs.arrays import arrays
from ddpm_jax.codecs.codec import Codec
from ddpm_jax.codecs.display import PLOTS, Display
from ddpm_jax.codecs.spec import CodecSpec
from ddpm_jax.errors import UserError

_FILM = 8  # plots side by side, at most


def _film(frames: np.ndarray) -> np.ndarray:
    """Show a trajectory [K, N, 2] by some of its frames, the ends among them."""
    count = min(_FILM, len(frames))
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return PLOTS.trajectory(np.asarray(frames)[chosen])


SCATTER = Display(PLOTS.sheet, _film, PLOTS.animation, PLOTS.save)
"""Scatter plots, on the same axes in all frames."""


@dataclasses.dataclass(frozen=True)
class Plane(CodecSpec):
    """Points in the plane as they are, shown in plots: docs/plane.md."""

    def build(self, item_shape: tuple[int, ...], dtype: str) -> Codec:
        """Make the codec; see `CodecSpec`.

        Raises:
            UserError: the items are no points.
        """
        if tuple(item_shape) != (2,) or dtype == "uint8":
            raise UserError(
                f"codec plane is for two numbers of floating point, and these items "
                f"are {dtype} {'x'.join(map(str, item_shape))}; use codec as_stored."
            )
        return arrays(item_shape)._replace(show=SCATTER)
