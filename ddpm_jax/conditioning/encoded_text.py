"""What a prompt becomes, and what may be done with it whichever way it was read.

There are two ways, alike for the host and for the model:

              on the host, once            in the network, each call
    trained   texts -> Tokens              TextTransformer: Tokens -> Encoded
    frozen    texts -> Encoded, cached     nothing, it is there already

`Words` and `Bytes` (tokens.py) go the first way, `MiniLM` (minilm.py) the second, and
each is a `Tokenizer`: `read(texts)` gives what the model is fed, Tokens or Encoded, a
row for each text; `max_length` is L; `to_json()` is what a checkpoint has to remember,
and `conditioning.reopen` its inverse. Behind the fork a model sees an `Encoded`: either
it was given one, or its own TextTransformer has made it of Tokens.

Tokens and Encoded are pytrees of arrays with a leading axis N: rows are taken by
`jax.tree.map(lambda leaf: leaf[rows], condition)`, and they shard as images do. Zero
stands under mask False everywhere. The null condition, for classifier-free guidance, is
a row whose mask is all False; there is no empty prompt besides.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ddpm_jax.errors import UserError

_UNIT = 1e-3  # how far from 1 the length of a normalised vector may be
_PARALLEL = 1e-4  # radians


class Tokens(NamedTuple):
    """Texts as numbers, filled up to one length.

    Attributes:
        ids: int32 [N, L]; zero where there is no token.
        mask: True where there is a token, [N, L].
    """

    ids: Any
    mask: Any


class Encoded(NamedTuple):
    """Texts as vectors.

    Attributes:
        sequence: a vector for each token, [N, L, D]; zero where there is none.
        mask: True where there is a token, [N, L].
        pooled: a vector for the whole text, [N, P].
    """

    sequence: Any
    mask: Any
    pooled: Any


class Tokenizer(Protocol):
    """What turns prompts into what a model is fed; see the top of this module."""

    @property
    def max_length(self) -> int:
        """L, the most tokens that a prompt may have."""

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Number the tokens of prompts, a row for each, which costs little."""

    def read(self, texts: Sequence[str]) -> Tokens | Encoded:
        """Read prompts, a row for each; what cannot be read is a UserError."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data from which `conditioning.reopen` makes an equal one."""


def distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """List each text once, in order of appearance, and where each went.

    Args:
        texts: N of them.

    Returns:
        U texts; int32 [N] with texts[i] == listed[places[i]]. Encode the U, keep them
        on the device and gather by place, and a caption that many pictures share is
        held once.
    """
    place: dict[str, int] = {}
    places = [place.setdefault(text, len(place)) for text in texts]
    return list(place), np.asarray(places, np.int32)


def interpolate(a: Encoded, b: Encoded, weights: Sequence[float]) -> Encoded:
    """Go from one prompt to another.

    Tokens of two prompts do not correspond, so that each place is mixed by itself,
    (1 - w) a + w b. Where only one prompt has a token, the other counts as the zeros
    that stand there: it fades in or out. Between the ends, 0 < w < 1, the mask is the
    union of both; at the ends it is that prompt's own, so that they are a and b
    exactly. Where the prompts differ in length, attention therefore jumps as w leaves
    an end: a vector near zero is a key among others, an absent one is none.

    Pooled vectors of unit length, as MiniLM's, go along the great circle at constant
    speed, for their length means nothing and the straight line would leave the sphere;
    others go straight.

    Args:
        a: one prompt, [1, L, D] and [1, P]; w = 0.
        b: another, of the same shapes; w = 1.
        weights: K numbers w from 0 to 1.

    Returns:
        NumPy arrays of K rows, float32.

    Raises:
        UserError: other than one prompt each, unlike shapes, or a weight outside.

    Source: Shoemake 1985, "Animating Rotation with Quaternion Curves", section 3.3,
        for the great circle (slerp).
    """
    w = np.asarray(weights, np.float64)
    if w.ndim != 1 or not ((w >= 0) & (w <= 1)).all():
        raise UserError(f"weights are {weights}; give a list of numbers from 0 to 1.")
    shapes = [[np.shape(leaf) for leaf in one] for one in (a, b)]
    if shapes[0] != shapes[1] or shapes[0][0][0] != 1:
        raise UserError(
            f"prompts of shapes {shapes[0]} and {shapes[1]} cannot be mixed; give one "
            "prompt and another, read by the same encoder."
        )
    first, second = (np.asarray(one.sequence, np.float64) for one in (a, b))
    sequence = _line(first, second, w[:, None, None])
    mask = (np.asarray(a.mask) & (w < 1)[:, None]) | (
        np.asarray(b.mask) & (w > 0)[:, None]
    )
    ends = [np.asarray(one.pooled, np.float64)[0] for one in (a, b)]
    pooled = _along(ends[0], ends[1], w)
    return Encoded(sequence.astype(np.float32), mask, pooled.astype(np.float32))


def _line(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    return (1 - w) * a + w * b


def _along(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Go from a [P] to b [P]: on the sphere if both are on it, else straight."""
    lengths = np.array([np.linalg.norm(a), np.linalg.norm(b)])
    line = _line(a, b, w[:, None])
    if (np.abs(lengths - 1) > _UNIT).any():
        return line
    # Half the chord is the sine of half the angle; arccos(a.b) loses small angles.
    angle = 2 * np.arctan2(np.linalg.norm(b - a), np.linalg.norm(a + b))
    if not _PARALLEL < angle < np.pi - _PARALLEL:  # no circle, or no single one
        return line
    parts = np.sin(np.stack([1 - w, w]) * angle) / np.sin(angle)
    return parts.T @ np.stack([a, b])
