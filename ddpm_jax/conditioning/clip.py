"""A trained CLIP-style dual encoder, frozen: which other models are conditioned on.

A model whose specs name the run of such a pair (`opens = "contrastive"`) is conditioned
on its texts (`clip_text`), on its image embeddings (`image_embedding`), or makes them
(`codecs.embeddings`). The pair is applied to the data once, before training, and to
prompts before sampling: its weights are among the parameters of no other model, and no
gradient reaches them.

A model remembers of its pair a fingerprint of the weights. An opened pair is found by
it again, in the process, as the tokenizer of the model's prompts.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ddpm_jax.conditioning.encoded_text import Encoded, Tokenizer, Tokens
from ddpm_jax.errors import UserError
from ddpm_jax.networks.dual_encoder import DualEncoder
from ddpm_jax.runtime.batching import join, map_batches
from ddpm_jax.runtime.images import to_float

_BATCH = 256  # texts, or images, at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A dual encoder of images and texts, opened; a `Tokenizer` whose rows are encoded.

    Attributes:
        name: for a person to read.
        fingerprint: of its weights.
        image_shape: (H, W, C) of the images that it takes.
        token_width: W, of its text encoder's vectors of tokens.
        net: the network.
        params: its parameters.
        tokenizer: of its captions.
        facts: what describes it, as plain data, for a copy of its folder.
    """

    name: str
    fingerprint: str
    image_shape: tuple[int, int, int]
    token_width: int
    net: DualEncoder
    params: Any
    tokenizer: Tokenizer
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def width(self) -> int:
        """D, the length of the embeddings."""
        return self.net.tower.num_features

    @property
    def max_length(self) -> int:
        """L, the most tokens of a text."""
        return self.tokenizer.max_length

    @property
    def sizes(self) -> dict[str, int]:
        """What a model has to know of it: D, W and L."""
        return {
            "width": self.width,
            "token_width": self.token_width,
            "length": self.max_length,
        }

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Number the tokens of texts, N of them, [N, L].

        Raises:
            UserError: one cannot be read.
        """
        return self.tokenizer.tokenize(texts)

    def read(self, texts: Sequence[str]) -> Encoded:
        """Encode texts.

        Args:
            texts: N of them.

        Returns:
            Vectors of tokens [N, L, W], the mask [N, L], and as the pooled vector the
            text embedding [N, D], of length 1; NumPy, float32.

        Raises:
            UserError: one cannot be read.
        """
        rows = self.tokenizer.read(list(texts))
        parts = zip(*self._in_batches(self._read, rows, len(texts)), strict=True)
        sequence, pooled = map(join, parts)
        return Encoded(sequence.astype(np.float32), np.asarray(rows.mask), pooled)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, N of them: float32 [N, D], of length 1.

        Raises:
            UserError: one cannot be read.
        """
        rows = self.tokenizer.read(list(texts))
        return join(self._in_batches(self._pool, rows, len(texts)))

    def _in_batches(self, program: Any, rows: Any, count: int) -> Iterator[Any]:
        return map_batches(
            lambda part: program(self.params, part), rows, count, _BATCH, mesh=None
        )

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """Embed images.

        Args:
            images: uint8 [N, H, W, C].

        Returns:
            float32 [N, D], of length 1.

        Raises:
            UserError: they are of another size.
        """
        self.check_images(images.shape[1:])
        return join(self._in_batches(self._embed, images, len(images)))

    def check_images(self, shape: tuple[int, ...]) -> None:
        """Refuse images of another shape (H, W, C).

        Raises:
            UserError: naming both.
        """
        if tuple(shape) != self.image_shape:
            given, wanted = (
                "x".join(map(str, size)) for size in (shape, self.image_shape)
            )
            raise UserError(
                f"{self.name} embeds images of {wanted}, and these are {given}; use "
                "data of that size (config.data.image_size), or train a dual encoder "
                "on these."
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain data by which it is found again; see `found`."""
        return {
            "kind": "clip",
            "max_length": self.max_length,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Clip":
        """Find the pair that a model was trained with.

        Raises:
            UserError: it has not been opened.
        """
        return found(str(stored.get("fingerprint")))

    @cached_property
    def _read(self) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
        return self._frozen("read_texts")

    @cached_property
    def _pool(self) -> Callable[[Any, Any], jax.Array]:
        return self._frozen("encode_texts")

    def _frozen(self, method: str) -> Callable[[Any, Any], Any]:
        """Compile a method of the network, with parameters that get no gradient."""
        return jax.jit(
            lambda params, rows: self.net.apply(
                {"params": jax.lax.stop_gradient(params)}, rows, method=method
            )
        )

    @cached_property
    def _embed(self) -> Callable[[Any, jax.Array], jax.Array]:
        return jax.jit(self.embed)

    def embed(self, params: Any, images: jax.Array) -> jax.Array:
        """Embed images on the device; a function of the parameters without a gradient.

        Args:
            params: of the network.
            images: uint8, or float32 in [-1, 1], [B, H, W, C].

        Returns:
            float32 [B, D], of length 1.
        """
        x = to_float(images) if images.dtype == np.uint8 else images
        embedded = self.net.apply(
            {"params": jax.lax.stop_gradient(params)}, x, method="encode_images"
        )
        return jax.lax.stop_gradient(jax.numpy.asarray(embedded))


# --- Opened pairs of this process -----------------------------------------------------

_opened: dict[str, Clip] = {}


def keep(clip: Clip) -> Clip:
    """Let an opened pair be found by its fingerprint, and return it."""
    return _opened.setdefault(clip.fingerprint, clip)


def is_open(fingerprint: str) -> bool:
    """Say whether a pair has been opened in this process."""
    return fingerprint in _opened


def found(fingerprint: str) -> Clip:
    """Find an opened pair.

    Raises:
        UserError: it has not been opened in this process.
    """
    if fingerprint not in _opened:
        raise UserError(
            f"the model reads texts by the dual encoder {fingerprint}, which is not "
            "open; open the model from its folder."
        )
    return _opened[fingerprint]
