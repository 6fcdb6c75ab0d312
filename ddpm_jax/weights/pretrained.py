"""A checkpoint of another program, as read from its files."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Options = dict[str, Any]
"""Values of options, nested as in a recipe."""

Path = tuple[str, ...]
"""Where a leaf lies in the nested parameters: ("mid_attention", "query", "kernel")."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A foreign checkpoint, read but not yet carried over.

    Attributes:
        name: what to call it.
        image_shape: (H, W, C).
        num_classes: of a conditional network, else None.
        facts: options that the checkpoint decides.
        defaults: options that it suggests, and that the user may change.
        tensors: by the names of their layout, by their newest names.
        name_of: from a leaf's path in our U-Net to the name of the tensor.
        flips_time: the timestep embedding is cosines first, ours is sines first.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int | None
    facts: Options
    defaults: Options
    tensors: Mapping[str, np.ndarray]
    name_of: Callable[[Path], str]
    flips_time: bool


def sizes_of_run(height: int, width: int) -> Options:
    """Suggest how many images to sample: 64 of up to 64x64, fewer of larger ones."""
    most = max(1, 64 * 64 * 64 // (height * width))
    return {
        "sample": {"num_images": min(64, max(4, most)), "batch_size": min(64, most)}
    }
