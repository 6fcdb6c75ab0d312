"""A text as a condition: a vector for each token, and one for the whole.

The text encoder is either trained along with the network, or frozen, and then rows come
encoded (`minilm.MiniLM`). A trained one reads a text once before a chain (`encode`).

Source: Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
    Language Understanding", section 2.1 and appendix D.1, for how text enters.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.conditioning.conditioner import Conditioner, ConditionerSpec, Embedder
from ddpm_jax.conditioning.encoded_text import Encoded, Tokenizer, Tokens, distinct
from ddpm_jax.conditioning.minilm import MiniLM
from ddpm_jax.conditioning.tokenizers import reopen
from ddpm_jax.conditioning.tokens import Bytes, Words
from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import default_init
from ddpm_jax.networks.ports import Ports, TokenSequence
from ddpm_jax.networks.text import TextTransformer, check_geometry

_LEAST_PIECES = 32  # that a sentence encoder reads, however short the captions are


@dataclasses.dataclass(frozen=True)
class TextSpec(ConditionerSpec):
    """A text as a condition, by how it is read.

    Attributes:
        length: most tokens of a text; None for those of the longest caption.
    """

    length: int | None = None

    named: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        limits.between(self, "length", 1, 65_536)

    def learn(self, texts: Sequence[str], opened: Any = None) -> Tokenizer:
        """Make the tokenizer for the captions that a model is to be trained on.

        Args:
            texts: the captions, N of them.
            opened: the model of the run that the spec names (`opens`); None for
                specs that name none.

        Raises:
            UserError: a caption is empty or too long, or the tokenizer is not there.
        """
        del opened
        tokenizer = self._learn(texts)
        tokenizer.tokenize(distinct(texts)[0])  # refuses, before anything is computed
        return tokenizer

    def _learn(self, texts: Sequence[str]) -> Tokenizer:
        raise NotImplementedError

    def for_data(self, data: Any) -> "Text":
        """Make the conditioner, for texts as the model of these data reads them."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TrainedText(TextSpec):
    """A text that a transformer reads which is trained along with the network.

    Attributes:
        width: of its vectors, a multiple of `num_heads`.
        depth: its blocks.
        num_heads: of each of its attentions.
        dropout: rate while training.
        dtype: of the computation.
    """

    width: int = 128
    depth: int = 2
    num_heads: int = 4
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "width", 1, 65_536)
        limits.between(self, "depth", 1, 1000)
        limits.at_least(self, 1, "num_heads")
        limits.share(self, "dropout")
        check_geometry(self.width, self.num_heads)

    def for_data(self, data: Any) -> "Text":
        """Make the conditioner with its encoder; see `TextSpec`."""
        tokenizer: Any = reopen(data.tokenizer)
        encoder = TextTransformer(
            tokenizer.vocabulary_size,
            tokenizer.max_length,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        return Text(tokenizer.max_length, self.width, encoder)


@dataclasses.dataclass(frozen=True)
class WordsText(TrainedText):
    """A text read word by word, of the words that the captions have."""

    def _learn(self, texts: Sequence[str]) -> Tokenizer:
        return Words.learn(texts, self.length)


@dataclasses.dataclass(frozen=True)
class BytesText(TrainedText):
    """A text read byte by byte."""

    def _learn(self, texts: Sequence[str]) -> Tokenizer:
        longest = max(len(text.strip().encode(errors="replace")) for text in texts)
        return Bytes(self.length or max(1, longest))


@dataclasses.dataclass(frozen=True)
class MiniLMText(TextSpec):
    """A text read by a frozen sentence encoder that others have trained."""

    def _learn(self, texts: Sequence[str]) -> Tokenizer:
        if self.length is not None:
            return MiniLM.open(max_length=self.length)
        found = MiniLM.open()
        whole = found.with_length(found.sizes.max_length)
        lengths = whole.tokenize(distinct(texts)[0]).mask.sum(axis=1)
        return found.with_length(max(_LEAST_PIECES, int(lengths.max())))

    def for_data(self, data: Any) -> "Text":
        """Make the conditioner, whose rows come encoded; see `TextSpec`."""
        tokenizer: Any = reopen(data.tokenizer)
        return Text(tokenizer.max_length, tokenizer.sizes.width)


@dataclasses.dataclass(frozen=True)
class Text(Conditioner):
    """Condition on a text; rows are `Tokens` or `Encoded`, an empty mask is no text.

    Attributes:
        length: L, most tokens of a text.
        width: D of the vectors of tokens, and of that for the whole text.
        encoder: trained along, of this width and length; None if rows come encoded.
        pooled_width: P, of the vector for the whole text of rows that come encoded, if
            it is a text embedding with a space of its own, which then is a further
            token too; None if it is like those of the tokens.
    """

    length: int
    width: int
    encoder: TextTransformer | None = None
    pooled_width: int | None = None

    named: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        """Refuse an encoder of other sizes."""
        encoder = self.encoder
        if encoder is None:
            return
        sizes = (encoder.max_length, encoder.width)
        if sizes != (self.length, self.width):
            raise UserError(
                f"a text encoder of {sizes[0]} tokens, {sizes[1]} wide, for texts of "
                f"{self.length} tokens, {self.width} wide; use the same."
            )

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> Tokens | Encoded:
        """Take the texts of a batch: tokens [B, L], or encoded [B, L, D]."""
        del key, x0
        return batch["text"]

    def null(self, rows: Tokens | Encoded) -> Tokens | Encoded:
        """Put no text in the place of each: mask False, and zeros throughout."""
        return jax.tree.map(jnp.zeros_like, rows)

    def example(self, num_rows: int, shape: tuple[int, ...]) -> Tokens | Encoded:
        """Make rows without a token."""
        del shape
        mask = jnp.zeros((num_rows, self.length), bool)
        if self.encoder is not None:
            return Tokens(jnp.zeros(mask.shape, jnp.int32), mask)
        sequence = jnp.zeros((*mask.shape, self.width), jnp.float32)
        pooled = jnp.zeros((num_rows, self.pooled_width or self.width), jnp.float32)
        return Encoded(sequence, mask, pooled)

    def embedder(self, features: int) -> Embedder:
        """Make the text encoder, if it is trained, and the ways into the network."""
        return TextEmbedder(
            features, self.length, self.width, self.encoder, self.pooled_width
        )


class TextEmbedder(Embedder):
    """Texts to tokens for cross-attention, and to a vector beside the time's.

    Attributes:
        features: E.
        length: L.
        width: D.
        encoder: trained along, or None.
        pooled_width: P, of a text embedding with a space of its own, or None.
    """

    features: int
    length: int
    width: int
    encoder: TextTransformer | None = None
    pooled_width: int | None = None

    def setup(self) -> None:
        """Make the way of the vector for a whole text."""
        # No text has a vector of its own, which is learned: zeros would be what some
        # texts are near.
        init = nn.initializers.normal(1.0)
        pooled = self.pooled_width or self.width
        self.none = self.param("none", init, (pooled,), jnp.float32)
        self.norm = nn.LayerNorm()
        self.dense_0 = nn.Dense(self.features, kernel_init=default_init)
        self.dense_1 = nn.Dense(self.features, kernel_init=default_init)
        if self.pooled_width is not None:
            self.token = nn.Dense(self.width, kernel_init=default_init)

    def encode(self, rows: Tokens | Encoded, *, train: bool = False) -> Encoded:
        """Read tokens; what is encoded already stays as it is.

        Raises:
            UserError: rows that come encoded are wanted, or of another size.
        """
        if len(rows) == 2:  # ids and mask
            if self.encoder is None:
                raise UserError(
                    "got tokens for a network without a text encoder of its own; give "
                    "the text encoded."
                )
            ids, mask = rows
            sequence, pooled = self.encoder(ids, mask, train=train)
            return Encoded(sequence, mask, pooled)
        got = [jnp.shape(part) for part in rows]
        batch = got[0][0]
        wanted = [
            (batch, self.length, self.width),
            (batch, self.length),
            (batch, self.pooled_width or self.width),
        ]
        if got != wanted:
            raise UserError(
                f"got text of shapes {got}, this network wants {wanted}; use the text "
                "encoder that it was made for."
            )
        return Encoded(*rows)

    def __call__(self, rows: Tokens | Encoded, *, train: bool = False) -> Ports:
        """Map B texts to tokens [B, L, D], or one more, and a vector [B, E]."""
        sequence, mask, pooled = self.encode(rows, train=train)
        is_text = mask.any(axis=1)[:, None]
        h = self.norm(pooled.astype(jnp.float32))
        h = jnp.where(is_text, h, self.none)
        vector = self.dense_1(nn.swish(self.dense_0(h)))
        if self.pooled_width is not None:
            token = self.token(h)[:, None].astype(sequence.dtype)
            sequence = jnp.concatenate([sequence, token], axis=1)
            mask = jnp.concatenate([mask, is_text], axis=1)
        return Ports(vector, TokenSequence(sequence, mask))
