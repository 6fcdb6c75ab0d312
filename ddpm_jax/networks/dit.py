"""A diffusion transformer (DiT) on patches of pixels.

    x_t, maps -> patches -> dense -> + positions -> block_0 .. block_{L-1}
        -> adaptive norm -> dense -> pixels
    t -> timestep embedding -> + vector port -> shift, scale and gate of every branch

A block is attention among all patches, then two dense layers per patch, each a residual
branch behind a normalization whose shift and scale, and before a gate whose size, come
from the embedding of time and vector (adaLN-zero):

    h = h + gate(e) * branch(norm(h) * (1 + scale(e)) + shift(e))

All gates start at zero, and so does the last layer: every block starts as the identity
and the output as zero. Tokens enter by cross-attention after the attention of each
block, or as further tokens in front of the patches (in context). Maps are further
channels of x_t. Positions are sines of row and column, so that there is no table whose
size would fix that of the images.

The options `bottleneck`, `rotary`, `qk_norm`, norm `rms` and mlp `swiglu` are those of
Li & He's transformer, which predicts x0 (prediction x0 with loss velocity) on large
patches of raw pixels.

Parameters and output are float32 whatever the compute `dtype`.

Sources:
    Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", section 3, and
    its code for initial values and positions.
    Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise".
    Chen et al. 2024, "PixArt-alpha: Fast Training of Diffusion Transformer for
    Photorealistic Text-to-Image Synthesis", section 2.3, for the cross-attention.
    Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".
    Shazeer 2020, "GLU Variants Improve Transformer", for swiglu.
    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.geometry import divides, nearest
from ddpm_jax.networks.layers import (
    ATTENTIONS,
    CrossAttention,
    Dropout,
    check_attention,
    default_init,
    time_embedding,
    zero_init,
)
from ddpm_jax.networks.masked_attention import masked_attend
from ddpm_jax.networks.patches import depth_to_space, space_to_depth
from ddpm_jax.networks.ports import Network, Ports, TokenSequence, check_ports

EPSILON = 1e-6  # of the normalizations
FREQUENCIES = 256  # sines and cosines of the timestep embedding
_WAVELENGTH = 10000.0  # 2 pi of it is the longest, in patches

# --- Positions ------------------------------------------------------------------------


def sine_positions(height: int, width: int, num_features: int) -> np.ndarray:
    """Encode the places of a map by sines and cosines of column and row.

    Args:
        height: rows, patches.
        width: columns, patches.
        num_features: D, a multiple of 4.

    Returns:
        float32 [H W, D], row by row: sin(w_i x), cos(w_i x), sin(w_i y), cos(w_i y) of
        column x and row y, each D/4 long, with w_i = 10000^(-i / (D/4)).

    Source: Peebles & Xie 2023, published code, after Vaswani et al. 2017, section 3.5.
    """
    quarter = num_features // 4
    frequencies = _WAVELENGTH ** -(np.arange(quarter) / quarter)
    y, x = np.divmod(np.arange(height * width), width)
    angles = np.stack([x, y], axis=1)[..., None] * frequencies  # [H W, 2, D/4]
    code = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    return code.reshape(height * width, num_features).astype(np.float32)


def rotary_angles(height: int, width: int, depth: int) -> np.ndarray:
    """Give the angles by which a head's queries and keys are turned at each place.

    Args:
        height: rows, patches.
        width: columns, patches.
        depth: D, channels of a head, a multiple of 4.

    Returns:
        float32 [H W, D/2]: w_i y of row y, then w_i x of column x, each D/4 long, with
        w_i = 10000^(-i / (D/4)).

    Source: Su et al. 2021, eq. (14)-(15), one half of the channels for each axis.
    """
    quarter = depth // 4
    frequencies = _WAVELENGTH ** -(np.arange(quarter) / quarter)
    y, x = np.divmod(np.arange(height * width), width)
    angles = np.stack([y, x], axis=1)[..., None] * frequencies
    return angles.reshape(height * width, depth // 2).astype(np.float32)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turn pairs of channels by angles, in float32.

    The product of a query and a key so turned depends on where they are by the
    difference of their places alone.

    Args:
        x: queries or keys [B, N, heads, D]; channel i and i + D/2 are a pair.
        angles: [N, D/2].

    Returns:
        Of the shape and dtype of x.
    """
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return turned.astype(x.dtype)


# --- The network ----------------------------------------------------------------------


class Given(NamedTuple):
    """What every block is given beside its tokens; None where there is nothing."""

    embedding: jax.Array  # [B, E], behind its nonlinearity
    text: TokenSequence | None  # for cross-attention
    mask: jax.Array | None  # [B, N] of the tokens, if some may be missing
    angles: jax.Array | None  # [N, channels of a head / 2]


class DiT(Network):
    """A transformer on patches of images, given the time, and conditions by its ports.

    It takes images of any size that its patches divide.

    Attributes:
        out_channels: of the output; twice the image's if it also predicts a variance.
        patch: side of the patches, pixels.
        width: of the tokens, and of the time embedding; a multiple of 4 and of
            `num_heads`.
        depth: blocks.
        num_heads: of each attention.
        mlp_ratio: hidden features of the two dense layers, in units of `width`; two
            thirds as many with swiglu, which has three layers.
        mlp: gelu, or swiglu, a gated linear unit.
        norm: layer, or rms, which leaves the mean.
        bottleneck: features between two dense layers that embed a patch; 0: one layer.
        rotary: turn queries and keys by their places, beside the sines that are added.
        qk_norm: normalize queries and keys, each head by itself.
        tokens: how they enter: cross, by cross-attention, or context, in front of the
            patches.
        dropout: part of each branch's output that is dropped while training.
        dtype: of the computation between parameters and output.
        remat: recompute blocks in the backward pass, trading time for memory.
        attention: how it is computed: plain, or cudnn, fused, on GPUs and in bfloat16
            alone.
    """

    patch: int = 2
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    mlp: Literal["gelu", "swiglu"] = "gelu"
    norm: Literal["layer", "rms"] = "layer"
    bottleneck: int = 0
    rotary: bool = False
    qk_norm: bool = False
    tokens: Literal["cross", "context"] = "cross"
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention: Literal["plain", "cudnn"] = "plain"

    @property
    def embedding_width(self) -> int:
        """E, the width of the vector port."""
        return self.width

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse numbers out of range, and images (H, W, C) that do not fit.

        Raises:
            UserError: for the first rule that does not hold.
        """
        limits.between(self, "patch", 1, 256)
        limits.between(self, "width", 4, 65_536)
        limits.between(self, "depth", 1, 1000)
        limits.at_least(self, 1, "num_heads")
        limits.between(self, "bottleneck", 0, 65_536)
        limits.share(self, "dropout")
        if not 0 < self.mlp_ratio <= 64 or self._hidden < 1:
            raise UserError(
                f"mlp_ratio={self.mlp_ratio} makes {self._hidden} hidden features of a "
                f"width of {self.width}; use a ratio such as 4, and at most 64."
            )
        if len(shape) != 3:
            raise UserError(
                "a diffusion transformer takes items of height x width x channels, and "
                f"these are {'x'.join(map(str, shape))}; use data of images, or "
                "another network."
            )
        self._check_geometry(*shape[:2])
        check_attention(self.attention, self.dtype)

    def least_numbers(self, shape: tuple[int, ...]) -> int:
        """Count the inputs of the blocks, for one image.

        Args:
            shape: (H, W, C).
        """
        height, width, _ = shape
        return height // self.patch * (width // self.patch) * self.width * self.depth

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        ports: Ports | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predict from noisy images.

        Args:
            x_t: images, [B, H, W, C], about [-1, 1].
            t: times, [B], 0..T-1 or fractions between.
            ports: what it is conditioned on. Which ports are used decides which
                parameters there are, and is the same at each call.
            train: whether dropout acts; then `rngs={"dropout": key}` is needed.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            UserError: if the sizes do not fit.
        """
        batch, height, width, _ = x_t.shape
        self._check_geometry(height, width)
        ports = Ports() if ports is None else ports
        check_ports(x_t, ports, self.embedding_width)
        vector, text, maps = ports
        rows, columns = height // self.patch, width // self.patch
        if maps is not None:
            x_t = jnp.concatenate([x_t, maps], axis=-1)
        h = space_to_depth(x_t, self.patch).reshape(batch, rows * columns, -1)
        h = self._embed(h) + sine_positions(rows, columns, self.width)
        h = h.astype(self.dtype)
        angles = self._angles(rows, columns)
        mask, num_others = None, 0
        if text is not None and self.tokens == "context":
            h, mask, angles = self._in_front(text, h, angles)
            num_others, text = text.vectors.shape[1], None
        given = Given(nn.swish(self._time(t, vector)), text, mask, angles)
        # `train` is argument 3 of the block, counting the module itself.
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for index in range(self.depth):
            h = block(
                self.num_heads,
                self._hidden,
                mlp=self.mlp,
                norm=self.norm,
                qk_norm=self.qk_norm,
                dropout=self.dropout,
                dtype=self.dtype,
                attention=self.attention,
                name=f"block_{index}",
            )(h, given, train)
        # In float32 even under bfloat16: the output keeps all its digits.
        h = h[:, num_others:].astype(jnp.float32)
        shift, scale = _modulation(2, given.embedding, jnp.float32, "modulation_out")
        h = normalize(h, self.norm) * (1 + scale) + shift
        features = self.patch**2 * self.out_channels
        h = TokenDense(features, kernel_init=zero_init, name="out")(h)
        return depth_to_space(h.reshape(batch, rows, columns, features), self.patch)

    @property
    def _hidden(self) -> int:
        share = 2 / 3 if self.mlp == "swiglu" else 1
        return int(self.width * self.mlp_ratio * share)

    def _check_geometry(self, height: int, width: int) -> None:
        if not divides(self.patch, height, width):
            raise UserError(
                f"images of {height}x{width} do not divide into patches of "
                f"{self.patch}x{self.patch}; resize or pad to "
                f"{nearest(self.patch, height, width)} in the data config, or use "
                "another patch."
            )
        if self.width % 4:
            raise UserError(
                f"width={self.width} is not a multiple of 4, for sine and cosine of "
                "row and column; use one that is."
            )
        if self.width % self.num_heads:
            raise UserError(
                f"num_heads={self.num_heads} does not divide width={self.width}; "
                "choose a divisor."
            )
        if self.rotary and self.width // self.num_heads % 4:
            raise UserError(
                f"rotary turns pairs for rows and for columns, and a head of "
                f"{self.width // self.num_heads} channels is not a multiple of 4; use "
                "another width or num_heads."
            )

    def _embed(self, patches: jax.Array) -> jax.Array:
        """[B, N, p p C] -> [B, N, width], through the bottleneck if there is one."""
        if self.bottleneck:
            patches = TokenDense(
                self.bottleneck,
                use_bias=False,
                kernel_init=default_init,
                dtype=self.dtype,
                name="bottleneck",
            )(patches)
        return TokenDense(
            self.width, kernel_init=default_init, dtype=self.dtype, name="patch_in"
        )(patches)

    def _time(self, t: jax.Array, vector: jax.Array | None) -> jax.Array:
        init = nn.initializers.normal(0.02)
        h = time_embedding(t, FREQUENCIES)
        h = nn.Dense(self.width, kernel_init=init, name="time_0")(h)
        h = nn.Dense(self.width, kernel_init=init, name="time_1")(nn.swish(h))
        return h if vector is None else h + vector

    def _angles(self, rows: int, columns: int) -> jax.Array | None:
        if not self.rotary:
            return None
        return jnp.asarray(rotary_angles(rows, columns, self.width // self.num_heads))

    def _in_front(
        self, text: TokenSequence, h: jax.Array, angles: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Put tokens before the patches, with their mask; they are not turned."""
        vectors = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm_text")(
            text.vectors
        )
        vectors = TokenDense(
            self.width, kernel_init=default_init, dtype=self.dtype, name="text_in"
        )(vectors)
        mask = jnp.concatenate([text.mask, jnp.ones(h.shape[:2], bool)], axis=1)
        if angles is not None:
            angles = jnp.pad(angles, ((vectors.shape[1], 0), (0, 0)))
        return jnp.concatenate([vectors, h], axis=1), mask, angles


class Block(nn.Module):
    """Attention, cross-attention if there is a text, and dense layers, each added.

    Attributes:
        num_heads: of the attention.
        hidden: features between the dense layers.
        mlp: gelu or swiglu.
        norm: layer or rms.
        qk_norm: normalize queries and keys.
        dropout: part of a branch's output that is dropped.
        dtype: of the computation.
        attention: plain or cudnn.
    """

    num_heads: int
    hidden: int
    mlp: str = "gelu"
    norm: str = "layer"
    qk_norm: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32
    attention: str = "plain"

    @nn.compact
    def __call__(self, x: jax.Array, given: Given, train: bool) -> jax.Array:
        """Map tokens [B, N, D] to the same shape."""
        shift, scale, gate, shift_1, scale_1, gate_1 = _modulation(
            6, given.embedding, self.dtype, "modulation"
        )

        def dropped(h: jax.Array) -> jax.Array:
            return Dropout(self.dropout)(h, deterministic=not train)

        h = normalize(x, self.norm) * (1 + scale) + shift
        x = x + gate * dropped(self._attend(h, given))
        if given.text is not None:
            x = TextAttention(self.num_heads, 0, self.dtype, EPSILON, name="text")(
                x, *given.text
            )
        h = normalize(x, self.norm) * (1 + scale_1) + shift_1
        return x + gate_1 * dropped(self._feed_forward(h))

    def _dense(self, features: int, name: str) -> "TokenDense":
        return TokenDense(
            features, kernel_init=default_init, dtype=self.dtype, name=name
        )

    def _attend(self, h: jax.Array, given: Given) -> jax.Array:
        batch, length, width = h.shape
        q, k, v = (
            self._dense(width, name)(h).reshape(batch, length, self.num_heads, -1)
            for name in ("query", "key", "value")
        )
        if self.qk_norm:
            q, k = (
                nn.RMSNorm(EPSILON, dtype=self.dtype, name=f"norm_{name}")(value)
                for name, value in (("query", q), ("key", k))
            )
        if given.angles is not None:
            q, k = rotate(q, given.angles), rotate(k, given.angles)
        if given.mask is None:
            mixed = ATTENTIONS[self.attention](q, k, v)
        elif self.attention == "plain":
            mixed = masked_attend(q, k, v, given.mask)
        else:
            there = given.mask[:, None, None, :]
            mixed = ATTENTIONS[self.attention](q, k, v, mask=there)
        return self._dense(width, "out")(mixed.reshape(h.shape))

    def _feed_forward(self, h: jax.Array) -> jax.Array:
        width = h.shape[-1]
        if self.mlp == "gelu":
            h = nn.gelu(self._dense(self.hidden, "dense_0")(h))
            return self._dense(width, "dense_1")(h)
        h, gate = jnp.split(self._dense(2 * self.hidden, "dense_0")(h), 2, axis=-1)
        return self._dense(width, "dense_1")(nn.swish(gate) * h)


class TokenDense(nn.Dense):
    """A dense layer whose products are of two matrices, [B N, D] and [D, D'].

    Of tokens [B, N, D] they would be of three axes, whose gradients XLA computes more
    slowly on the CPU: 35.8 against 18.4 ms for 64 x 64 tokens from 128 to 512 features,
    and 7.4 against 5.0 ms to 128 (jaxlib 0.10.2, CPU time of one core, least of 12).
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map [B, N, D] to [B, N, features]."""
        h = super().__call__(inputs.reshape(-1, inputs.shape[-1]))
        return h.reshape(*inputs.shape[:-1], self.features)


class TextAttention(CrossAttention):
    """Cross-attention whose normalization is that of each token by itself."""

    def normalize(self, x):
        """Normalize tokens [B, N, D]."""
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)


def normalize(x: jax.Array, norm: str) -> jax.Array:
    """Scale tokens [..., D] to unit variance, or to unit mean square, in float32.

    Args:
        x: of any dtype, which the result has.
        norm: layer, about their mean, or rms, about zero.

    Source: Ba et al. 2016, "Layer Normalization"; Zhang & Sennrich 2019, eq. (4); both
        without parameters of their own.
    """
    h = x.astype(jnp.float32)
    if norm == "layer":
        h = h - h.mean(axis=-1, keepdims=True)
    square = jnp.square(h).mean(axis=-1, keepdims=True)
    return (h * jax.lax.rsqrt(square + EPSILON)).astype(x.dtype)


def _modulation(
    num_parts: int, embedding: jax.Array, dtype: Any, name: str
) -> list[jax.Array]:
    """Make shifts, scales and gates [B, 1, D] of an embedding [B, D]; zero at first."""
    width = num_parts * embedding.shape[-1]
    h = nn.Dense(width, kernel_init=zero_init, dtype=dtype, name=name)(embedding)
    return jnp.split(h[:, None, :], num_parts, axis=-1)
