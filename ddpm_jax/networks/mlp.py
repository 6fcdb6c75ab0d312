"""A multilayer perceptron, for points and small images: it trains in seconds on a CPU.

    x_t, its Fourier features, maps -> dense -> blocks -> norm, dense -> output
    t -> timestep embedding -> added in each block, with the vector port

The Fourier features are sines and cosines of pi 2^k x for k < num_frequencies: a plain
perceptron is slow to learn what varies over short distances, such as Gaussians that are
a hundredth of the plane wide. An image is the vector of all its numbers: every pixel
sees every other, and nothing says which of them are neighbors.

Sources:
    Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in
    Low Dimensional Domains".
    He et al. 2016, "Identity Mappings in Deep Residual Networks", for the blocks.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import default_init, time_embedding, zero_init
from ddpm_jax.networks.ports import Network, Ports, from_data


def fourier_features(x: jax.Array, num_frequencies: int) -> jax.Array:
    """Return sines and cosines of pi 2^k x, [..., 2 K D] of x [..., D], k < K."""
    scales = math.pi * 2.0 ** jnp.arange(num_frequencies, dtype=jnp.float32)
    angles = (x[..., None] * scales).reshape(*x.shape[:-1], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


_MOST_NUMBERS = 4096
"""Of an item: the first and the last layer have a weight for each, and unit."""


class MLP(Network):
    """A residual perceptron on items [B, D], or [B, ..., C] of D numbers each.

    Attributes:
        out_channels: of the output, in the place of D or C; twice as many if it also
            predicts a variance.
        width: of the hidden layers, and of the timestep embedding.
        depth: residual blocks.
        num_frequencies: K, of the Fourier features of x_t; 0 for none.
    """

    out_channels: int = from_data(2)
    width: int = 64
    depth: int = 4
    num_frequencies: int = 3

    @property
    def embedding_width(self) -> int:
        """E, the width of the vector port."""
        return self.width

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse numbers out of range, and items that are too large.

        Raises:
            UserError: for the first rule that does not hold.
        """
        limits.between(self, "width", 4, 65_536)
        limits.between(self, "depth", 1, 1000)
        limits.between(self, "num_frequencies", 0, 32)
        if math.prod(shape) > _MOST_NUMBERS:
            raise UserError(
                f"an MLP takes items of at most {_MOST_NUMBERS:,} numbers, and these "
                f"are {'x'.join(map(str, shape))}; use smaller ones, or network unet."
            )

    def least_numbers(self, shape: tuple[int, ...]) -> int:
        """Count the inputs of the blocks, for one item."""
        del shape
        return self.width * self.depth

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        ports: Ports | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predict from noisy items.

        Args:
            x_t: [B, D], or [B, ..., C].
            t: times, [B].
            ports: what it is conditioned on: a vector, or maps [B, ..., K] beside x_t.
            train: changes nothing; there is no dropout.

        Returns:
            float32 [B, out_channels], or [B, ..., out_channels].

        Raises:
            UserError: it is given tokens, for which it has no attention.
        """
        del train
        ports = Ports() if ports is None else ports
        if ports.tokens is not None:
            raise UserError(
                "an MLP has no attention for tokens; condition it on a label or a "
                "vector, or use network unet."
            )
        rows, *places, _ = x_t.shape
        flat = x_t.reshape(rows, -1)
        inputs = [flat]
        if self.num_frequencies:
            inputs.append(fourier_features(flat, self.num_frequencies))
        if ports.maps is not None:
            inputs.append(ports.maps.reshape(rows, -1))

        def dense(name: str, features: int = self.width) -> nn.Dense:
            return nn.Dense(features, kernel_init=default_init, name=name)

        embedding = dense("time_0")(time_embedding(t, self.width))
        embedding = dense("time_1")(nn.swish(embedding))
        if ports.vector is not None:
            embedding = embedding + ports.vector
        embedding = nn.swish(embedding)
        h = dense("in")(jnp.concatenate(inputs, axis=-1))
        for block in range(self.depth):
            inner = nn.LayerNorm(name=f"block_{block}_norm")(h)
            inner = dense(f"block_{block}_dense_0")(nn.swish(inner))
            inner = inner + dense(f"block_{block}_time")(embedding)
            h = h + dense(f"block_{block}_dense_1")(nn.swish(inner))
        h = nn.swish(nn.LayerNorm(name="norm_out")(h))
        numbers = math.prod(places) * self.out_channels
        out = nn.Dense(numbers, kernel_init=zero_init, name="out")(h)
        return out.reshape(rows, *places, self.out_channels)
