"""A transformer encoder that learns to read captions along with what it conditions.

Its parameters are part of the model that uses it. It knows no words, only their numbers
and a mask of where there are any; conditioning/tokens.py makes both.

Sources:
    Vaswani et al. 2017, "Attention Is All You Need", section 3.
    Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture",
    section 3.3, for the normalisation before each branch, and one at the end.
    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision", and its code, for learned positions and the scale of both tables.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import Dropout, default_init, zero_init
from ddpm_jax.networks.masked_attention import masked_attend, masked_mean

EPSILON = 1e-5  # of the normalisations
_TOKEN_SCALE, _POSITION_SCALE = 0.02, 0.01  # standard deviations, as in CLIP's code


class TextTransformer(nn.Module):
    """Captions as numbers of tokens to a vector for each token and one for the whole.

    Branches end in zeros, so that at first a token is its own embedding. Parameters are
    float32; normalisation, softmax and the mean are computed in float32.

    Attributes:
        vocabulary_size: numbers of tokens are below it.
        max_length: most tokens in a caption.
        width: D, a multiple of `num_heads`.
        depth: number of blocks.
        num_heads: of each attention.
        dropout: part of each branch's output, and of the embeddings, that is dropped.
        dtype: computed in.
    """

    vocabulary_size: int
    max_length: int
    width: int = 128
    depth: int = 2
    num_heads: int = 4
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: jax.Array, mask: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Encode captions; what stands under mask False changes nothing.

        Args:
            ids: int32 [B, L], L at most `max_length`.
            mask: True where there is a token, [B, L]; a row may be False throughout.
            train: whether to drop; needs a key named "dropout".

        Returns:
            The sequence [B, L, D] in `dtype`, zero under mask False; its mean over the
            tokens, [B, D] float32, zero for a row without any.

        Raises:
            UserError: a width that the heads cannot share, or too many tokens.
        """
        check_geometry(self.width, self.num_heads)
        length = ids.shape[1]
        if length > self.max_length:
            raise UserError(
                f"captions are {length} tokens long, and this encoder reads at most "
                f"{self.max_length}; use the tokenizer that it was made with."
            )

        def table(rows, scale, name):
            init = nn.initializers.normal(scale)
            return nn.Embed(rows, self.width, embedding_init=init, name=name)

        # Any number may stand under the mask, even one that the table does not have.
        tokens = table(self.vocabulary_size, _TOKEN_SCALE, "tokens")(ids * mask)
        positions = table(self.max_length, _POSITION_SCALE, "positions")
        x = (tokens + positions(jnp.arange(length))).astype(self.dtype)
        x = Dropout(self.dropout)(x, deterministic=not train)
        for index in range(self.depth):
            x = Block(self.num_heads, self.dropout, self.dtype, name=f"block_{index}")(
                x, mask, train
            )
        x = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)
        x = jnp.where(mask[..., None], x, 0)
        return x, masked_mean(x, mask)


class Block(nn.Module):
    """Attention, then two dense layers, each behind a normalisation and added."""

    num_heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask, train):
        """Map [B, L, D] to the same shape, with the keys of mask [B, L]."""
        batch, length, width = x.shape

        def dense(features, name, kernel_init=default_init):
            return nn.Dense(
                features, kernel_init=kernel_init, dtype=self.dtype, name=name
            )

        h = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm_0")(x)
        q, k, v = (
            dense(width, name)(h).reshape(batch, length, self.num_heads, -1)
            for name in ("query", "key", "value")
        )
        h = masked_attend(q, k, v, mask).reshape(x.shape)
        h = dense(width, "out", zero_init)(h)
        x = x + Dropout(self.dropout)(h, deterministic=not train)

        h = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm_1")(x)
        h = nn.gelu(dense(4 * width, "dense_0")(h))
        h = dense(width, "dense_1", zero_init)(h)
        return x + Dropout(self.dropout)(h, deterministic=not train)


def check_geometry(width: int, num_heads: int) -> None:
    """Refuse a width that the heads cannot share.

    Raises:
        UserError: it is no multiple of their number.
    """
    if width % num_heads:
        raise UserError(
            f"a text encoder {width} wide cannot be shared by {num_heads} heads; make "
            "the width a multiple of their number."
        )
