"""Captions cut into numbered tokens: words that training has seen, or plain bytes.

    words = Words.learn(captions)
    words.read(["a red circle"])                 # Tokens, ids and mask [1, L]

Words suit captions of few, well-known words, and refuse what the model never saw.
Bytes suit anything, in any script, at several times the length.

Both reserve number 0 for places without a token. Both are plain values: what
`to_json` gives is kept with a checkpoint, and `from_json` makes an equal tokenizer.
"""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ddpm_jax.conditioning.encoded_text import Tokens
from ddpm_jax.errors import UserError

UNKNOWN = 1  # number of any word that is not in the vocabulary
_FIRST_WORD = 2
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # a word, or one sign
_SHOWN = 5  # words that a message lists
_ALL_SHOWN = 24  # vocabularies up to this size are listed whole
_EXCERPT = 40  # characters of a prompt that a message quotes


def split(text: str) -> list[str]:
    """Cut a text into lower-case words and single signs, without the spaces.

    An apostrophe within a word belongs to it. Letters that Unicode writes in several
    ways are made one (NFC).
    """
    return _TOKEN.findall(unicodedata.normalize("NFC", text).lower())


@dataclass(frozen=True)
class Words:
    """A vocabulary of words: 0 is no token, 1 an unknown word, from 2 on the known.

    Attributes:
        words: sorted.
        max_length: L, the most tokens that a prompt may have.
    """

    words: tuple[str, ...]
    max_length: int

    @classmethod
    def learn(
        cls, texts: Sequence[str], max_length: int | None = None, *, min_count: int = 1
    ) -> "Words":
        """Take the words of captions; their order makes no difference.

        Args:
            texts: the captions of the training set.
            max_length: L; None makes it the length of the longest caption.
            min_count: rarer words stay unknown. With more than 1 read the captions
                themselves with `strict=False`, which is how "unknown" is learned.

        Raises:
            UserError: captions without words.
        """
        rows = [split(text) for text in texts]
        counts = Counter(word for row in rows for word in row)
        words = tuple(sorted(word for word, n in counts.items() if n >= min_count))
        if not words:
            raise UserError(
                f"{len(rows)} captions have no word {min_count} times or more to learn "
                "from; give captions, or ask for fewer."
            )
        return cls(words, max_length or max(map(len, rows)))

    @property
    def vocabulary_size(self) -> int:
        """All numbers that a token can have, those without a word included."""
        return _FIRST_WORD + len(self.words)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words, _FIRST_WORD)}

    def tokenize(self, texts: Sequence[str], *, strict: bool = True) -> Tokens:
        """Number the words of texts.

        Args:
            texts: N of them.
            strict: whether an unknown word is refused; else it gets a number of its
                kind.

        Returns:
            int32 and bool [N, L].

        Raises:
            UserError: a text that is empty or too long, or, if strict, has a word that
                is not in the vocabulary; the message lists those words.
        """
        rows = [split(text) for text in texts]
        if strict:
            for text, row in zip(texts, rows, strict=True):
                unknown = [word for word in row if word not in self._number]
                if unknown:
                    raise UserError(self._never_seen(text, unknown))
        numbers = [[self._number.get(word, UNKNOWN) for word in row] for row in rows]
        return padded(texts, numbers, self.max_length)

    read = tokenize

    def _never_seen(self, text: str, unknown: list[str]) -> str:
        listed = list(dict.fromkeys(unknown))
        if len(self.words) <= _ALL_SHOWN:
            spelt = [word for word in self.words if word[0].isalnum()]  # no signs
            known = f"it knows {', '.join(spelt)}"
        else:
            near = {
                word: match
                for word in listed[:_SHOWN]
                for match in difflib.get_close_matches(word, self.words, n=1)
            }
            pairs = ", ".join(f"{match} for {word}" for word, match in near.items())
            known = f"it knows {pairs}" if near else "it knows none like them"
        return (
            f"{quoted(text)} has words that the model has never seen: "
            f"{_some(listed)}; {known}. Use the words of its captions."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `from_json`."""
        return {
            "kind": "words",
            "max_length": self.max_length,
            "words": list(self.words),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Words":
        """Make the tokenizer that was stored.

        Raises:
            UserError: it is something else.
        """
        words = stored.get("words")
        if not isinstance(words, list) or words != sorted(set(map(str, words))):
            raise UserError(lacks("a sorted list of words"))
        return cls(tuple(words), stored_length(stored))


@dataclass(frozen=True)
class Bytes:
    """UTF-8: 0 is no token, a byte b is b + 1. Every text can be read.

    Attributes:
        max_length: L, the most bytes that a prompt may have.
    """

    max_length: int
    vocabulary_size = 257

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Number the bytes of texts.

        Args:
            texts: N of them.

        Returns:
            int32 and bool [N, L].

        Raises:
            UserError: a text that is blank or too long.
        """
        numbers = [
            [byte + 1 for byte in text.strip().encode(errors="replace")]
            for text in texts
        ]
        return padded(texts, numbers, self.max_length, "bytes")

    read = tokenize

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `from_json`."""
        return {"kind": "bytes", "max_length": self.max_length}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Bytes":
        """Make the tokenizer that was stored.

        Raises:
            UserError: it is something else.
        """
        return cls(stored_length(stored))


def padded(
    texts: Sequence[str],
    rows: Sequence[Sequence[int]],
    max_length: int,
    unit: str = "tokens",
    num_marks: int = 0,
) -> Tokens:
    """Fill rows of numbers up to one length with zeros.

    Args:
        texts: N of them, for messages.
        rows: the numbers of each.
        max_length: L.
        unit: what is counted, for messages.
        num_marks: numbers in every row that are not of its text.

    Returns:
        int32 and bool [N, L].

    Raises:
        UserError: a text that has none, or too many.
    """
    for text, row in zip(texts, rows, strict=True):
        if len(row) <= num_marks:
            raise UserError(
                f"the prompt {quoted(text)} is empty; say what the picture shows."
            )
        if len(row) > max_length:
            raise UserError(
                f"the prompt {quoted(text)} has {len(row)} {unit}, and {max_length} "
                "fit; shorten it, or train with a larger max_length."
            )
    lengths = np.array([len(row) for row in rows], np.int32)
    mask = np.arange(max_length) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = [number for row in rows for number in row]
    return Tokens(ids, mask)


def quoted(text: str) -> str:
    """Quote the start of a prompt, in one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 3]}...")


def stored_length(stored: dict[str, Any]) -> int:
    """Return the max_length of a stored tokenizer.

    Raises:
        UserError: it has none.
    """
    length = stored.get("max_length")
    if not isinstance(length, int) or length < 1:
        raise UserError(lacks("a max_length"))
    return length


def lacks(part: str) -> str:
    """Say that the stored tokenizer of a model is without a part."""
    return (
        f"the tokenizer stored with the model lacks {part}; its metadata is damaged or "
        "of another version, copy the checkpoint again."
    )


def _some(words: list[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
