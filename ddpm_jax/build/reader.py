"""How a model reads: the reader of a config, made once and kept with the checkpoint."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import conditioning
from ddpm_jax.build import names
from ddpm_jax.conditioning import Bytes, MiniLM, Reader, Words
from ddpm_jax.conditioning.text import Text
from ddpm_jax.errors import UserError
from ddpm_jax.networks.text import TextTransformer

_LEAST_PIECES = 32  # that a sentence encoder reads, however short the captions are


def make_reader(config: ConfigDict, texts: Sequence[str]) -> Reader:
    """Make the reader of `config.model.text` for the captions it is to be trained on.

    Args:
        config: all of it.
        texts: the captions of the training set.

    Raises:
        UserError: the way of reading is not known, or does not fit the captions.
    """
    name = config.model.text
    if name not in READERS:
        raise UserError(
            f"config.model.text={name!r} is not known; use {', '.join(READERS)}, or "
            "leave it empty for a model without text."
        )
    for option in ("text_length", "text_width", "text_depth", "text_heads"):
        value = config.model[option]
        if value is not None and value < 1:
            raise UserError(
                f"config.model.{option}={value} is too small; use 1 or more."
            )
    reader = READERS[name](texts, config.model.text_length)
    # Refuses a caption that is empty or too long, before anything is computed.
    reader.tokenize(conditioning.distinct(texts)[0])
    return reader


def _words(texts: Sequence[str], length: int | None) -> Reader:
    return Words.learn(texts, length)


def _bytes(texts: Sequence[str], length: int | None) -> Reader:
    longest = max(len(text.strip().encode(errors="replace")) for text in texts)
    return Bytes(length or max(1, longest))


def _minilm(texts: Sequence[str], length: int | None) -> Reader:
    if length is None:
        found = MiniLM.open()
        whole = found.with_length(found.sizes.max_length)
        lengths = whole.tokenize(conditioning.distinct(texts)[0]).mask.sum(axis=1)
        return found.with_length(max(_LEAST_PIECES, int(lengths.max())))
    return MiniLM.open(max_length=length)


READERS: Mapping[str, Callable[[Sequence[str], int | None], Reader]] = {
    "words": _words,
    "bytes": _bytes,
    "minilm": _minilm,
}


def reopen(stored: Mapping[str, Any]) -> Reader:
    """Make the reader that a checkpoint remembers, once in a process.

    A sentence encoder hashes its files, reads them and compiles, which is not to be
    done again for each batch of prompts.

    Args:
        stored: plain data.

    Raises:
        UserError: as `conditioning.reopen`.
    """
    return _reopened(json.dumps(dict(stored), sort_keys=True))


@functools.lru_cache(maxsize=4)
def _reopened(stored: str) -> Reader:
    return conditioning.reopen(json.loads(stored))


def text_conditioner(config: ConfigDict, stored: Mapping[str, Any]) -> Text:
    """Build the conditioner of texts, with the encoder that is trained along if any.

    Args:
        config: its `model` says how large a trained encoder is.
        stored: the tokenizer or the frozen encoder, as plain data.

    Raises:
        UserError: the frozen encoder is not on this machine.
    """
    reader = reopen(stored)
    length = reader.max_length
    if isinstance(reader, MiniLM):
        return Text(length, reader.sizes.width)
    assert isinstance(reader, Words | Bytes)
    options = config.model
    encoder = TextTransformer(
        reader.vocabulary_size,
        length,
        width=options.text_width,
        depth=options.text_depth,
        num_heads=options.text_heads,
        dropout=options.dropout,
        dtype=names.DTYPES[options.dtype],
    )
    return Text(length, options.text_width, encoder)
