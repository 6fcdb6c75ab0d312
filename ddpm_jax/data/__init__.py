"""Data: from a name to batches that are a pure function of (seed, step).

    dataset = load("mnist", split="train", pad_to=32)
    stream = batches(dataset, 128, seed=0)
    stream[7]["image"]                    # uint8 [128, 32, 32, 1], the batch of step 7
    for batch in iterate(stream, 7): ...  # the same, and on from there, read ahead

Images stay uint8 [B, H, W, C]; scaling to [-1, 1] and flips belong to the train step.
Arrays of other shapes, uint8 or float32, take the same way.
"""

from ddpm_jax.data.cache import cached, ready
from ddpm_jax.data.clips import read_clip
from ddpm_jax.data.dataset import (
    MAX_BYTES,
    Arrays,
    Dataset,
    NoSplitError,
    Records,
    decoded,
    image_shape_of,
    in_memory,
    is_image,
    subset,
)
from ddpm_jax.data.image_input import indices_of, read_image, read_mask
from ddpm_jax.data.layout import Layout
from ddpm_jax.data.moments import encoded
from ddpm_jax.data.pipeline import batches, iterate, once, order
from ddpm_jax.data.sources import load
from ddpm_jax.data.survey import (
    BrokenFilesError,
    Survey,
    describe_broken,
    survey,
    write_broken,
)
from ddpm_jax.data.vector_input import (
    read_coordinates,
    read_frames,
    read_vectors,
)

__all__ = [
    "MAX_BYTES",
    "Arrays",
    "BrokenFilesError",
    "Dataset",
    "Layout",
    "NoSplitError",
    "Records",
    "Survey",
    "batches",
    "cached",
    "decoded",
    "describe_broken",
    "encoded",
    "image_shape_of",
    "in_memory",
    "indices_of",
    "is_image",
    "iterate",
    "load",
    "once",
    "order",
    "read_clip",
    "read_coordinates",
    "read_frames",
    "read_image",
    "read_mask",
    "read_vectors",
    "ready",
    "subset",
    "survey",
    "write_broken",
]
