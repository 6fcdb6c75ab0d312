"""The parts of the U-Net: embeddings, convolutions, normalization, blocks.

Feature maps are [B, H, W, C] throughout. Parameters are float32; a layer computes in
its `dtype`, except that the statistics of a normalization and the softmax of an
attention are always float32. Layers that end a residual branch start at zero, so that
every block starts as the identity.

Sources:
    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B, and the
    published TensorFlow code for what the paper leaves open (epsilons, initializers).
    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models",
    section 2.5 and appendix A, for several heads and the scale-shift conditioning.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.errors import UserError
from ddpm_jax.networks.convolution import conv3x3, conv3x3_of_upsampled
from ddpm_jax.networks.masked_attention import masked_attend

default_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zero_init = nn.initializers.zeros_init()


def time_embedding(
    t: jax.Array, num_features: int, frequency_shift: int = 1
) -> jax.Array:
    """Encode times as sines followed by cosines of geometrically spaced frequencies.

    Args:
        t: times as the network's input, [B], 0..T-1 or fractions between.
        num_features: width d of the code, at least 4; an odd width ends in a zero.
        frequency_shift: with 1 the last frequency is 1/10000, with 0 the one after it.

    Returns:
        [B, d] float32: sin(w_i t) for i < d/2, then cos(w_i t), with
        w_i = 10000^(-i / (d/2 - frequency_shift)).

    Raises:
        UserError: the width is less than 4, which has no geometric spacing.

    Source: Ho et al. 2020, appendix B, after Vaswani et al. 2017, section 3.5; the
        order and the d/2 - 1 are those of the published code; a shift of 0 is that of
        the code of Nichol & Dhariwal 2021.
    """
    if num_features < 4:
        raise UserError(f"a time embedding of width {num_features}; use 4 or more.")
    half = num_features // 2
    frequencies = 10000.0 ** (
        -jnp.arange(half, dtype=jnp.float32) / (half - frequency_shift)
    )
    angles = jnp.asarray(t, jnp.float32)[:, None] * frequencies  # [B, d/2]
    code = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(code, ((0, 0), (0, num_features % 2)))


def average_pairs(x):
    """Halve even height and width by averaging: [B, H, W, C] -> [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    pairs = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return pairs.mean(axis=(2, 4), dtype=jnp.float32).astype(x.dtype)


class Conv3x3(nn.Module):
    """A 3x3 convolution with a bias; see `convolution.conv3x3`.

    With `upsample` the map is first doubled by repeating pixels.
    """

    features: int
    stride: int = 1
    upsample: bool = False
    kernel_init: Any = default_init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Map [B, H, W, C] to its size, half or twice it, with C = features."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", zero_init, (self.features,), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.upsample:
            y = conv3x3_of_upsampled(x, kernel)
        else:
            y = conv3x3(x, kernel, self.stride)
        return y + bias.astype(self.dtype)


class Dropout(nn.Module):
    """Set a share of the values to zero, and scale the others up.

    Flax's module of this name draws its mask in the default floating point type, so
    that a key's mask would change with `jax_enable_x64`; this one is the same as that
    without, always.
    """

    rate: float

    @nn.compact
    def __call__(self, x, *, deterministic):
        """Map [...] to the same shape; unchanged if `deterministic`."""
        if deterministic or not self.rate:
            return x
        keep = 1.0 - self.rate
        kept = jax.random.bernoulli(
            self.make_rng("dropout"), jnp.float32(keep), x.shape
        )
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


class GroupNorm(nn.Module):
    """Normalize each group of neighbouring channels over space, then scale and shift.

    Source: Wu & He 2018, "Group Normalization", eq. (1)-(4); epsilon as in the
        published code of Ho et al. 2020.
    """

    num_groups: int
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Map [B, H, W, C] to the same shape; the statistics are float32."""
        channels = x.shape[-1]
        scale = self.param(
            "scale", nn.initializers.ones_init(), (channels,), jnp.float32
        )
        bias = self.param("bias", zero_init, (channels,), jnp.float32)

        def group_mean(h):
            # Over space first, with the channels innermost, then over each group.
            # Reducing [B, HW, G, C/G] over both at once was 2 to 3 times slower on the
            # CPU when a group is 2 channels wide (jaxlib 0.10.2, 2 busy cores, fastest
            # of 20, 128 maps of 8x8x64 with swish: 2.2 against 1.0 ms forward, 7.7
            # against 2.3 ms with gradient), and no different when it is 8 wide.
            means = h.mean(axis=(1, 2)).reshape(-1, self.num_groups, size).mean(axis=2)
            return jnp.repeat(means, size, axis=1)[:, None, None, :]  # [B, 1, 1, C]

        size = channels // self.num_groups
        h = x.astype(jnp.float32)
        h = h - group_mean(h)
        gain = jax.lax.rsqrt(group_mean(jnp.square(h)) + self.epsilon) * scale
        return (h * gain + bias).astype(self.dtype)


class ResBlock(nn.Module):
    """Two convolutions around the time embedding, if there is one, and a shortcut.

    With `scale_shift` the embedding scales and shifts the second normalization instead
    of being added before it. `resample` halves or doubles the map on both ways.

    Source: Ho et al. 2020, appendix B; Nichol & Dhariwal 2021, appendix A; Dhariwal &
        Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", section 3, for
        resampling.
    """

    features: int
    num_groups: int
    dropout: float = 0.0
    scale_shift: bool = False
    dtype: Any = jnp.float32
    epsilon: float = 1e-6  # of the normalizations
    resample: Callable | None = None  # upsample_nearest or average_pairs

    @nn.compact
    def __call__(self, x, embedding, train):
        """Map [B, H, W, C] and an embedding [B, E], or None, to [B, H, W, features].

        With `resample`, height and width are what it makes of them.
        """
        norm = partial(GroupNorm, self.num_groups, self.epsilon, self.dtype)
        h = nn.swish(norm(name="norm_0")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = Conv3x3(self.features, dtype=self.dtype, name="conv_0")(h)
        if embedding is None:
            h = norm(name="norm_1")(h)
        elif self.scale_shift:
            scale, shift = jnp.split(self._condition(2, embedding), 2, axis=-1)
            h = norm(name="norm_1")(h) * (1 + scale) + shift
        else:
            h = norm(name="norm_1")(h + self._condition(1, embedding))
        h = Dropout(self.dropout)(nn.swish(h), deterministic=not train)
        h = Conv3x3(
            self.features, kernel_init=zero_init, dtype=self.dtype, name="conv_1"
        )(h)

        if x.shape[-1] != self.features:
            x = nn.Dense(
                self.features,
                kernel_init=default_init,
                dtype=self.dtype,
                name="shortcut",
            )(x)
        return x + h

    def _condition(self, times, embedding):
        width = times * self.features
        return nn.Dense(
            width, kernel_init=default_init, dtype=self.dtype, name="embedding"
        )(nn.swish(embedding))[:, None, None, :]


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Mix values by the softmax of q k^T / sqrt(D), which is float32.

    Args:
        q: queries, [B, N, heads, D].
        k: keys, of the same shape.
        v: values, of the same shape.

    Returns:
        [B, N, heads, D], of the values' dtype.

    Source: Vaswani et al. 2017, "Attention Is All You Need", eq. (1).
    """
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    weights = nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1)  # [B, heads, N, N]
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


ATTENTIONS: Mapping[str, Callable[..., jax.Array]] = {
    "plain": attend,
    # Fused by cuDNN: the weights [B, heads, N, N] are never written to memory.
    "cudnn": partial(jax.nn.dot_product_attention, implementation="cudnn"),
}
"""How attention may be computed."""


def check_attention(attention: str, dtype: str) -> None:
    """Refuse fused attention where there is none.

    Args:
        attention: of `ATTENTIONS`.
        dtype: of the computation.

    Raises:
        UserError: it is fused, and the device or the dtype is another.
    """
    platform = jax.default_backend()
    if attention == "cudnn" and (platform, dtype) != ("gpu", "bfloat16"):
        raise UserError(
            f"attention='cudnn' with {dtype} on {platform}; it needs bfloat16 on a "
            "GPU: set dtype so, or use plain."
        )


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, added to its input.

    `attend` is the function of that name, or one that computes the same in another way.

    Source: Ho et al. 2020, appendix B (one head); Nichol & Dhariwal 2021, section 2.5
        (several). Logits are scaled by (channels of a head)^(-1/2).
    """

    num_heads: int
    num_groups: int
    dtype: Any = jnp.float32
    epsilon: float = 1e-6  # of the normalization
    attend: Callable = attend

    @nn.compact
    def __call__(self, x):
        """Map [B, H, W, C] to the same shape."""
        batch, height, width, channels = x.shape
        depth = channels // self.num_heads

        dense = partial(nn.Dense, channels, kernel_init=default_init, dtype=self.dtype)
        h = GroupNorm(self.num_groups, self.epsilon, self.dtype, name="norm")(x)
        q, k, v = (
            dense(name=name)(h).reshape(batch, height * width, self.num_heads, depth)
            for name in ("query", "key", "value")
        )  # [B, HW, heads, depth]
        h = self.attend(q, k, v).reshape(x.shape)
        return x + dense(kernel_init=zero_init, name="out")(h)


class CrossAttention(nn.Module):
    """Attention from all positions of a feature map to the tokens of a text.

    `normalize` is what a network with another normalization overrides.

    One key more than there are tokens is learned and always there, so that a position
    may attend to no token, and a row without text attends to nothing else.

    Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
        Models", section 3.3; Saharia et al. 2022, "Photorealistic Text-to-Image
        Diffusion Models with Deep Language Understanding", appendix D.1, for the
        normalization of the text.
    """

    num_heads: int
    num_groups: int
    dtype: Any = jnp.float32
    epsilon: float = 1e-6  # of the normalization of the map

    @nn.compact
    def __call__(self, x, sequence, mask):
        """Map [B, ..., C], given tokens [B, L, D] and where they are, to its shape."""
        batch, channels = x.shape[0], x.shape[-1]
        depth = channels // self.num_heads

        dense = partial(nn.Dense, channels, kernel_init=default_init, dtype=self.dtype)

        def with_none(h, name):
            init = nn.initializers.normal(0.02)
            none = self.param(f"no_{name}", init, (channels,), jnp.float32)
            none = jnp.broadcast_to(none.astype(h.dtype), (batch, 1, channels))
            h = jnp.concatenate([none, h], axis=1)
            return h.reshape(batch, -1, self.num_heads, depth)

        h = self.normalize(x)
        q = dense(name="query")(h).reshape(batch, -1, self.num_heads, depth)
        tokens = nn.LayerNorm(dtype=self.dtype, name="norm_text")(sequence)
        k, v = (with_none(dense(name=name)(tokens), name) for name in ("key", "value"))
        there = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        h = masked_attend(q, k, v, there).reshape(x.shape)
        return x + dense(kernel_init=zero_init, name="out")(h)

    def normalize(self, x):
        """Normalize the map."""
        return GroupNorm(self.num_groups, self.epsilon, self.dtype, name="norm")(x)
