"""Readers of text, from what a checkpoint remembers of one."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from ddpm_jax.conditioning.encoded_text import Reader
from ddpm_jax.conditioning.minilm import MiniLM
from ddpm_jax.conditioning.tokens import Bytes, Words
from ddpm_jax.errors import UserError

_READERS: dict[str, Any] = {"words": Words, "bytes": Bytes, "minilm": MiniLM}


def reopen(stored: Mapping[str, Any]) -> Reader:
    """Make the reader that a checkpoint remembers, once in a process.

    The inverse of its `to_json`. A sentence encoder hashes its files, reads them and
    compiles, which is not to be done again for each batch of prompts.

    Args:
        stored: plain data.

    Raises:
        UserError: it is none of ours, or the files it needs are missing or others.
    """
    return _reopened(json.dumps(dict(stored), sort_keys=True))


@functools.lru_cache(maxsize=4)
def _reopened(text: str) -> Reader:
    stored = json.loads(text)
    kind = stored.get("kind")
    if kind not in _READERS:
        raise UserError(
            f"the model reads text by {kind!r}, which this version does not know; it "
            f"knows {', '.join(_READERS)}."
        )
    made: Reader = _READERS[kind].from_json(stored)
    return made
