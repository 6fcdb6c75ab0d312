"""Tokenizers, from the plain data that a checkpoint holds of one."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from ddpm_jax.conditioning.clip import Clip
from ddpm_jax.conditioning.encoded_text import Tokenizer
from ddpm_jax.conditioning.minilm import MiniLM
from ddpm_jax.conditioning.tokens import Bytes, Words
from ddpm_jax.errors import UserError

_TOKENIZERS: dict[str, Any] = {
    "words": Words,
    "bytes": Bytes,
    "minilm": MiniLM,
    "clip": Clip,
}


def reopen(stored: Mapping[str, Any]) -> Tokenizer:
    """Make the tokenizer of a checkpoint, once in a process.

    The inverse of its `to_json`. A sentence encoder hashes its files, reads them and
    compiles, which is not to be done again for each batch of prompts.

    Args:
        stored: plain data.

    Raises:
        UserError: it is none of ours, or the files it needs are missing or others.
    """
    return _reopened(json.dumps(dict(stored), sort_keys=True))


@functools.lru_cache(maxsize=4)
def _reopened(text: str) -> Tokenizer:
    stored = json.loads(text)
    kind = stored.get("kind")
    if kind not in _TOKENIZERS:
        raise UserError(
            f"the model has the tokenizer {kind!r}, which this version does not know; "
            f"it knows {', '.join(_TOKENIZERS)}."
        )
    made: Tokenizer = _TOKENIZERS[kind].from_json(stored)
    return made
