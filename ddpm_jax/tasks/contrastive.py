"""CLIP-style dual encoder: contrastive loss of images and their captions.

Its loss takes the captions of all other images of a batch for wrong. Where data have a
rule that says of which images a caption is true (`data.dataset.CaptionRule`), false
negatives are left out of it: captions of others that are true of an image as well.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax import limits
from ddpm_jax.conditioning.text import TextSpec, WordsText
from ddpm_jax.networks.residual_classifier import Classifier
from ddpm_jax.runtime.images import to_float
from ddpm_jax.tasks.augment import shift_and_flip
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training.task import Batch, Objective


@dataclasses.dataclass(frozen=True)
class ContrastiveTask(TaskSpec):
    """A CLIP-style dual encoder of images and their captions.

    The pair of unCLIP, whose image embeddings a prior samples and a decoder is
    conditioned on.

    Attributes:
        network: the image encoder; its features are the embeddings.
        text: how captions are read.
        max_shift: pixels that an image may be shifted, each way.
    """

    network: Classifier = dataclasses.field(default_factory=Classifier)
    text: TextSpec = dataclasses.field(default_factory=WordsText)
    max_shift: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "max_shift", 0, 65_536)


# Of a logit whose softmax is 0; infinity times the target 0 would not be a number.
_NEVER = -1e9


def contrastive_loss(
    images: jax.Array,
    texts: jax.Array,
    scale: jax.Array,
    same: jax.Array,
    left_out: jax.Array | None = None,
) -> jax.Array:
    """Return the mean of two cross-entropies [], of texts and of images in a batch.

    Where a text comes more than once, the target is shared by all its places: none of
    them is wrong.

    Args:
        images: vectors of length 1, [B, D].
        texts: vectors of length 1, [B, D].
        scale: of their products, [].
        same: True where two rows have the same text, [B, B].
        left_out: True where the text of a column is neither right nor wrong for the
            image of a row, [B, B], nowhere beside `same`; None for nowhere.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural
        Language Supervision", figure 3.
    """
    logits = scale * images @ texts.T
    if left_out is not None:
        logits = jnp.where(left_out, _NEVER, logits)
    target = same / same.sum(axis=1, keepdims=True)
    of_images = -(target * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)
    of_texts = -(target * jax.nn.log_softmax(logits.T, axis=1)).sum(axis=1)
    return (of_images.mean() + of_texts.mean()) / 2


def same_rows(rows: jax.Array) -> jax.Array:
    """Say which rows of an array [B, N] are equal, [B, B]."""
    return (rows[:, None] == rows[None]).all(axis=-1)


def make_contrastive_objective(
    network: Callable[[Any, jax.Array, Any], tuple[jax.Array, jax.Array, jax.Array]],
    *,
    max_shift: int,
    flip: bool,
    holds: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Objective:
    """Compose the objective of two towers, for `step.make_train_step`.

    Args:
        network: (params, images in [-1, 1], text) -> vectors of both, and the scale.
        max_shift: pixels that an image may be shifted, each way.
        flip: mirror half of the pictures left to right.
        holds: of data with a rule, the `holds` of it, for "facts" of the batch.

    Returns:
        The objective; its metric "accuracy" is the share of images whose nearest text
        is their own, or true of them by the rule.
    """

    def objective(
        params: Any, key: jax.Array, batch: Batch, carry: Any
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        shown = shift_and_flip(key, batch["image"], max_shift=max_shift, flip=flip)
        text: Any = batch["text"]
        images, texts, scale = network(params, to_float(shown), text)
        # Of tokens their numbers tell them apart, of what is encoded the last leaf.
        same = same_rows(text[0] if len(text) == 2 else text[-1])
        true, left_out = same, None
        if holds is not None:
            true = holds(batch["facts"], batch["facts"]) | same
            left_out = true & ~same
        loss = contrastive_loss(images, texts, scale, same, left_out)
        first = (images @ texts.T).argmax(axis=1)
        right = true[jnp.arange(len(first)), first].mean()
        return loss, ({"loss": loss, "accuracy": right}, carry)

    return objective
