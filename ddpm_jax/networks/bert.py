"""The encoder of BERT, as sentence encoders use it: tokens in, last hidden states out.

Read here and never trained: no dropout, no pooler, no second segment. The names of
its parameters lead, by `torch_name`, to those in a published file.

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for
    Language Understanding", section 3, and its code, for what is not in the paper: the
    normalization after each addition (as Vaswani et al. 2017 have it), the exact GELU.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.networks.masked_attention import masked_attend


class Sizes(NamedTuple):
    """The numbers that make a BERT encoder.

    Attributes:
        vocabulary_size: numbers of tokens are below it.
        max_length: most tokens in a text.
        num_segments: rows of the table of segments, of which the first is used.
        width: D.
        hidden: width between the two dense layers of a block.
        depth: number of blocks.
        num_heads: of each attention.
        epsilon: of the normalizations.
    """

    vocabulary_size: int
    max_length: int
    num_segments: int
    width: int
    hidden: int
    depth: int
    num_heads: int
    epsilon: float


class Bert(nn.Module):
    """Texts as numbers of tokens to a vector for each token, in float32."""

    sizes: Sizes

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Compute the last hidden states.

        Args:
            ids: int32 [B, L], L at most `max_length`.
            mask: True where there is a token, [B, L].

        Returns:
            float32 [B, L, D], zero under mask False.
        """
        sizes = self.sizes

        def table(rows, name):
            return nn.Embed(rows, sizes.width, name=name)

        x = table(sizes.vocabulary_size, "tokens")(ids * mask)
        x += table(sizes.max_length, "positions")(jnp.arange(ids.shape[1]))
        x += table(sizes.num_segments, "segments")(jnp.zeros_like(ids))
        x = nn.LayerNorm(sizes.epsilon, name="norm")(x)
        for index in range(sizes.depth):
            x = _Block(sizes, name=f"layer_{index}")(x, mask)
        return jnp.where(mask[..., None], x, 0.0)


class _Block(nn.Module):
    """Attention, then two dense layers, each added and then normalized."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x, mask):
        batch, length, width = x.shape
        q, k, v = (
            nn.Dense(width, name=name)(x).reshape(
                batch, length, self.sizes.num_heads, -1
            )
            for name in ("query", "key", "value")
        )
        h = masked_attend(q, k, v, mask).reshape(x.shape)
        x = x + nn.Dense(width, name="out")(h)
        x = nn.LayerNorm(self.sizes.epsilon, name="norm_0")(x)
        h = nn.Dense(self.sizes.hidden, name="dense_0")(x)
        h = nn.Dense(width, name="dense_1")(nn.gelu(h, approximate=False))
        return nn.LayerNorm(self.sizes.epsilon, name="norm_1")(x + h)


_ABOVE = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_IN_A_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm_0": "attention.output.LayerNorm",
    "dense_0": "intermediate.dense",
    "dense_1": "output.dense",
    "norm_1": "output.LayerNorm",
}


def torch_name(path: tuple[str, ...]) -> str:
    """Name the tensor of a published file that a parameter is read from.

    Args:
        path: of the parameter: ("layer_0", "query", "kernel").
    """
    *modules, leaf = path
    kind = "bias" if leaf == "bias" else "weight"
    if len(modules) == 1:
        return f"{_ABOVE[modules[0]]}.{kind}"
    layer, module = modules
    index = layer.removeprefix("layer_")
    return f"encoder.layer.{index}.{_IN_A_LAYER[module]}.{kind}"


def parameter_shapes(sizes: Sizes) -> dict[str, Any]:
    """Return the tree of parameters as shapes and types, without computing any."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    return jax.eval_shape(Bert(sizes).init, jax.random.key(0), ids, mask)["params"]
