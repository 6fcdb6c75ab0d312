"""Image embeddings as what a model makes: the prior of unCLIP samples them.

The items of such a model are vectors e [D] of a dual encoder, not images. A diffusion
process needs about unit variance for each number, and an embedding z of length 1 has
1 / D, so that

    e = sqrt(D) z,   |z| = 1.

Without this the embedding drowns in noise at nearly all levels, the commonest fault of
priors that do not train.

Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP
    Latents", section 2.2, for diffusion on the embedding; the scale is that of K.
    Crowson in DALLE2-pytorch, issue 60.
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from ddpm_jax import limits
from ddpm_jax.codecs.arrays import arrays
from ddpm_jax.codecs.codec import Codec
from ddpm_jax.codecs.spec import CodecSpec
from ddpm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Embeddings(CodecSpec):
    """The image embeddings of a trained dual encoder (CLIP), in the images' place.

    Attributes:
        run: the folder of the dual encoder.
    """

    run: str = ""

    opens: ClassVar[str] = "contrastive"

    def __post_init__(self) -> None:
        limits.names_run(self, "dual encoder", "runs/shapes_clip")

    def build(self, item_shape: tuple[int, ...], dtype: str) -> Codec:
        """Make the codec of vectors float32 [D], which leaves them as they are.

        Raises:
            UserError: the items are no vectors.
        """
        if len(item_shape) != 1 or dtype == "uint8":
            raise UserError(
                f"codec embeddings is for vectors, and these items are {dtype} "
                f"{'x'.join(map(str, item_shape))}; use codec as_stored."
            )
        return arrays(item_shape)


def scaled(embeddings: Any) -> Any:
    """Scale embeddings of length 1 [..., D] to unit variance for each number."""
    return embeddings * np.float32(np.sqrt(embeddings.shape[-1]))


def unit(items: Any) -> Any:
    """Bring sampled vectors [..., D] back to length 1, as a dual encoder has them."""
    return items / np.linalg.norm(items, axis=-1, keepdims=True)
