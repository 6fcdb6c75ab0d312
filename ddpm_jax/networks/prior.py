"""The transformer of a diffusion prior: from a text to an image embedding.

    [ text tokens | text embedding | time | x_t | query ] -> blocks -> query's output

All tokens attend to each other but for those under a mask. What the network predicts is
the output of a query that is learned. The text comes by the port of tokens, its
embedding among them, and by the port of vectors, which is added to the time token.

Without text, as under condition dropout and in the unconditional branch of guidance,
the text's tokens are masked; x_t stays.

Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP
    Latents", section 2.2. Its causal mask is left out: with one output, at the end,
    it only keeps the other tokens from seeing the query.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import default_init, time_embedding, zero_init
from ddpm_jax.networks.ports import Network, Ports, from_data
from ddpm_jax.networks.text import EPSILON, Block, check_geometry


class PriorTransformer(Network):
    """A transformer on vectors x_t [B, D], conditioned on tokens.

    Attributes:
        out_channels: of the output; twice D if it also predicts a variance.
        width: of its tokens, a multiple of `num_heads`.
        depth: blocks.
        num_heads: of each attention.
        dropout: part of each branch's output that is dropped while training.
    """

    out_channels: int = from_data(64)
    width: int = 128
    depth: int = 3
    num_heads: int = 4
    dropout: float = 0.0

    @property
    def embedding_width(self) -> int:
        """E, the width of the vector port."""
        return self.width

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse numbers out of range, and items that are no vectors.

        Raises:
            UserError: for the first rule that does not hold.
        """
        limits.between(self, "width", 4, 65_536)
        limits.between(self, "depth", 1, 1000)
        limits.at_least(self, 1, "num_heads")
        limits.share(self, "dropout")
        check_geometry(self.width, self.num_heads)
        if len(shape) != 1:
            raise UserError(
                "a prior transformer takes vectors, and these items are "
                f"{'x'.join(map(str, shape))}; use codec embeddings, or network unet."
            )

    def least_numbers(self, shape: tuple[int, ...]) -> int:
        """Count the inputs of the blocks at the last three tokens, for one item."""
        del shape
        return 3 * self.width * self.depth

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        ports: Ports | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predict from noisy vectors.

        Args:
            x_t: [B, D].
            t: times, [B].
            ports: what it is conditioned on: tokens of any width, and a vector.
            train: whether dropout acts; then `rngs={"dropout": key}` is needed.

        Returns:
            float32 [B, out_channels].

        Raises:
            UserError: it is given maps, for which vectors have no place.
        """
        ports = Ports() if ports is None else ports
        if ports.maps is not None:
            raise UserError(
                "a prior transformer has no place for maps; condition it on text or a "
                "vector, or use network unet."
            )

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, kernel_init=default_init, name=name)

        time = dense(self.width, "time_0")(time_embedding(t, self.width))
        time = dense(self.width, "time_1")(nn.swish(time))
        if ports.vector is not None:
            time = time + ports.vector
        noised = dense(self.width, "x_t")(x_t)
        query = self.param(
            "query", nn.initializers.normal(1.0), (self.width,), jnp.float32
        )
        query = jnp.broadcast_to(query, noised.shape)
        sequence = jnp.stack([time, noised, query], axis=1)
        mask = jnp.ones(sequence.shape[:2], bool)
        if ports.tokens is not None:
            text = dense(self.width, "tokens_in")(ports.tokens.vectors)
            sequence = jnp.concatenate([text, sequence], axis=1)
            mask = jnp.concatenate([ports.tokens.mask, mask], axis=1)
        for index in range(self.depth):
            block = Block(self.num_heads, self.dropout, name=f"block_{index}")
            sequence = block(sequence, mask, train)
        last = nn.LayerNorm(EPSILON, name="norm_out")(sequence[:, -1])
        return nn.Dense(self.out_channels, kernel_init=zero_init, name="out")(last)
