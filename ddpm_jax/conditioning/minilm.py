"""all-MiniLM-L6-v2, a sentence encoder that others trained, read and never trained.

    minilm = MiniLM.open(max_length=32)
    minilm.read(["a red apple", "a car"])    # Encoded: [2, 32, 384], [2, 32], [2, 384]

22 million weights, 87 MiB. Texts of like meaning have like vectors, so that a model may
be asked for what its captions say in other words.

Sources:
    Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic
    Compression of Pre-Trained Transformers"; Reimers & Gurevych 2019,
    "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", section 3, for
    the mean over tokens. The weights: sentence-transformers/all-MiniLM-L6-v2, Apache
    2.0, which are read as float32 and give the same numbers (tests/peers).
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ddpm_jax.conditioning import encoded_file, minilm_folder
from ddpm_jax.conditioning.encoded_text import Encoded, Tokens, distinct
from ddpm_jax.conditioning.tokens import lacks, padded, stored_length
from ddpm_jax.errors import UserError
from ddpm_jax.networks.bert import Bert, Sizes
from ddpm_jax.networks.masked_attention import masked_mean
from ddpm_jax.runtime.batching import map_batches

BATCH = 64  # texts at a time
_STEP = 8  # lengths that are computed are multiples of it
_ENDS = 2  # marks that begin and end each text


class MiniLM:
    """The encoder with its files; weights are read when a text is first encoded.

    Attributes:
        folder: where its files lie.
        max_length: L, the most tokens that a prompt may have, two end marks included.
        fingerprint: 16 hexadecimal digits of all that decides what it says.
        sizes: of the network.
    """

    def __init__(self, folder: Path, max_length: int, fingerprint: str, sizes: Sizes):
        self.folder = folder
        self.max_length = max_length
        self.fingerprint = fingerprint
        self.sizes = sizes

    @classmethod
    def open(cls, path: str | Path | None = None, *, max_length: int = 64) -> "MiniLM":
        """Open the encoder where it is found; see `minilm_folder.find_folder`.

        Args:
            path: a folder, or None for $DDPM_JAX_MINILM or the installed package.
            max_length: L.

        Raises:
            UserError: it is not there, damaged, or of another kind; or L is more than
                it can read.
        """
        folder = minilm_folder.find_folder(path)
        sizes = minilm_folder.read_sizes(folder)
        _check_length(max_length, sizes)
        return cls(folder, max_length, minilm_folder.fingerprint_of(folder), sizes)

    def with_length(self, max_length: int) -> "MiniLM":
        """Return the same encoder for prompts of another length, hashing nothing again.

        Raises:
            UserError: L is more than it can read.
        """
        _check_length(max_length, self.sizes)
        return MiniLM(self.folder, max_length, self.fingerprint, self.sizes)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Number the word pieces of texts, between two marks.

        Args:
            texts: N of them.

        Returns:
            int32 and bool [N, L].

        Raises:
            UserError: a text that is empty or too long.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        rows = [encoding.ids for encoding in encodings]
        unit = "tokens with its end marks"
        return padded(texts, rows, self.max_length, unit, num_marks=_ENDS)

    def read(self, texts: Sequence[str], *, cache: bool = True) -> Encoded:
        """Encode texts; what was encoded before is read from disk.

        Args:
            texts: N of them. Equal ones are encoded once, but take their own room; see
                `encoded_text.distinct` to avoid that.
            cache: whether to look there, and to keep what is new; False for a prompt
                or two, which are faster computed.

        Returns:
            NumPy arrays, float32. The sequence is the last hidden states [N, L, D], of
            the end marks too; pooled is their mean over the tokens, brought to length
            one [N, D].

        Raises:
            UserError: a text that is empty or too long; or the cache cannot be written.
        """
        listed, places = distinct(texts)

        def encode() -> Encoded:
            return self._encode(self.tokenize(listed))

        if cache:
            path = encoded_file.path_of(listed, self.fingerprint, self.max_length)
            encoded = encoded_file.kept(path, self.max_length, encode)
        else:
            encoded = encode()
        if len(listed) == len(texts):
            return encoded
        return Encoded(*(leaf[places] for leaf in encoded))

    def _encode(self, tokens: Tokens) -> Encoded:
        """Encode in batches of one size, of texts of about the same length."""
        count, length = tokens.mask.shape
        sequence = np.zeros((count, length, self.sizes.width), np.float32)
        pooled = np.zeros((count, self.sizes.width), np.float32)
        lengths = tokens.mask.sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        size = min(BATCH, 2 ** max(count - 1, 0).bit_length())
        bar = tqdm(
            total=count, desc="reading captions", unit="text", delay=5, disable=None
        )

        def texts(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = order[places]
            longest = -(-int(lengths[rows[-1]]) // _STEP) * _STEP
            part = slice(0, min(longest, length))
            return tokens.ids[rows, part], tokens.mask[rows, part]

        start = 0
        for states, means in map_batches(
            lambda given: self._run(self._params, *given),
            texts,
            count,
            size,
            mesh=None,
            on_batch=bar.update,
        ):
            rows = order[start : start + len(means)]
            sequence[rows, : states.shape[1]] = states
            pooled[rows] = means
            start += len(means)
        bar.close()
        return Encoded(sequence, tokens.mask, pooled)

    @cached_property
    def _tokenizer(self) -> Any:
        return minilm_folder.read_tokenizer(self.folder)

    @cached_property
    def _params(self) -> Any:
        return jax.device_put(minilm_folder.read_params(self.folder, self.sizes))

    @cached_property
    def _run(self) -> Any:
        """Compile-ready: one program for each length that occurs."""
        network = Bert(self.sizes)

        @jax.jit
        def run(params, ids, mask):
            with jax.default_matmul_precision("highest"):
                states = network.apply({"params": params}, ids, mask)
            mean = masked_mean(states, mask)
            norm = jnp.linalg.norm(mean, axis=-1, keepdims=True)
            return states, mean / jnp.maximum(norm, 1e-12)

        return run

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `from_json`: which encoder, not where it lies."""
        return {
            "kind": "minilm",
            "max_length": self.max_length,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "MiniLM":
        """Open the encoder that a model was trained with.

        Raises:
            UserError: it is not on this machine, or another one is.
        """
        tokenizer = cls.open(max_length=stored_length(stored))
        wanted = stored.get("fingerprint")
        if not isinstance(wanted, str):
            raise UserError(lacks("a fingerprint"))
        if wanted != tokenizer.fingerprint:
            raise UserError(
                f"the model was trained with the sentence encoder {wanted}, and "
                f"{tokenizer.folder} holds {tokenizer.fingerprint}; name the folder of "
                f"the former in ${minilm_folder.FOLDER_VARIABLE}."
            )
        return tokenizer


def _check_length(max_length: int, sizes: Sizes) -> None:
    if not _ENDS < max_length <= sizes.max_length:
        raise UserError(
            f"max_length is {max_length}, and this sentence encoder reads "
            f"{_ENDS + 1} to {sizes.max_length} tokens, two end marks included; "
            "choose one between."
        )
