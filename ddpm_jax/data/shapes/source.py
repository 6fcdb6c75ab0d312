"""Captioned shapes as a data set: `shapes`, or `shapes:N` for N examples.

`shapes:partial` and `shapes:partial:N` have captions that leave things unsaid.
"""

import numpy as np

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import (
    CaptionRule,
    Dataset,
    NoSplitError,
    Records,
    fingerprint_of,
)
from ddpm_jax.data.shapes.examples import (
    DEFAULT_COUNTS,
    SPLITS,
    example,
    partial_example,
)
from ddpm_jax.data.shapes.grammar import HELD_OUT, caption
from ddpm_jax.data.shapes.partial import facts_of, partial_caption, rule_of
from ddpm_jax.data.shapes.rendering import check_side, render
from ddpm_jax.errors import UserError

_SIDE = 32  # pixels, unless `image_size` is given
_NOTES = {
    "train": f"{len(HELD_OUT)} pairs of color and shape are held out.",
    "test": "No caption is one of training.",
    "held_out": "Each has a pair of color and shape that is not in the training split.",
}
_OF_PARTIAL = "Captions leave sizes, colors and places unsaid."
PARTIAL = "partial"
"""The word of a source whose captions leave things unsaid."""

_VERSION = 1  # of grammar, examples and rendering; part of fingerprints


def load_shapes(count: str | None, *, split: str, layout: layouts.Layout) -> Dataset:
    """Make the first examples of a split; images are rendered at access.

    Args:
        count: how many, as text; None takes `DEFAULT_COUNTS`. With "partial" before
            it, or in its place, captions leave things unsaid.
        split: one of `SPLITS`.
        layout: its size is the side, 32 if it is open.

    Raises:
        UserError: the count is not a number, or the images cannot be rendered so.
        NoSplitError: no such split.
    """
    if split not in SPLITS:
        raise NoSplitError(f"shapes has no split {split!r}; use {', '.join(SPLITS)}.")
    why = "the captions of shapes name colors"
    size = layouts.drawn_size(layout, _SIDE, 3, "shapes", why)
    side = layouts.square_side(size, "shapes")
    check_side(side)
    word, _, rest = (count or "").partition(":")
    is_partial = word == PARTIAL
    if is_partial:
        count = rest if ":" in (count or "") else None
    num_examples = DEFAULT_COUNTS[split] if count is None else _number(count)
    of_one = partial_example if is_partial else example

    def read(index: int) -> dict:
        scene, key, *_ = of_one(split, index)
        return {"image": render(scene, side, key)}

    kind = f"shapes:{PARTIAL}" if is_partial else "shapes"
    texts, rule = _captions(split, num_examples, is_partial=is_partial)
    return Dataset(
        name=kind if count is None else f"{kind}:{num_examples}",
        source=Records(num_examples, read),
        shape=(side, side, 3),
        label_names=None,
        fingerprint=fingerprint_of([kind, _VERSION, split, num_examples, side]),
        split=split,
        note=_OF_PARTIAL if is_partial else _NOTES[split],
        texts=texts,
        sided=True,
        rule=rule,
    )


def _captions(
    split: str, num_examples: int, *, is_partial: bool
) -> tuple[tuple[str, ...], CaptionRule | None]:
    """Write the captions of a split; of those that leave things unsaid the rule too."""
    if not is_partial:
        scenes = (example(split, i)[0] for i in range(num_examples))
        return tuple(map(caption, scenes)), None
    texts, facts = [], []
    for i in range(num_examples):
        scene, _, said = partial_example(split, i)
        texts.append(partial_caption(said))
        facts.append(facts_of(scene, said))
    return tuple(texts), rule_of(np.stack(facts))


def _number(count: str) -> int:
    if not count.isdecimal() or len(count) > 18 or int(count) < 1:
        raise UserError(
            f"shapes:{count[:20]} names no number of examples; use one from 1, such as "
            "shapes:1000, or shapes:partial."
        )
    return int(count)
