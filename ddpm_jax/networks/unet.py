"""The U-Net that predicts the noise: Ho et al. 2020 and its improved-DDPM options.

Level i works on maps of 1/2^i the height and width with channels * multiplier_i
channels. On the way down every block's output is kept; on the way up, which has one
block more per level, each block takes one of them back:

    conv_in -> down_0 .. down_{L-1} -> mid -> up_{L-1} .. up_0 -> norm, swish, conv_out

Attention follows a block wherever the shorter side of its map is listed, and always
stands in the middle. What the network is conditioned on comes through ports: the vector
is added to the time embedding, cross-attention to the tokens follows each attention to
the map, and maps are further channels of x_t.

With `patch` p the whole network works on patches of p x p pixels: x_t and the maps are
rearranged before it, the output after it, and level i has maps of 1/(p 2^i). It costs
about 1/p^2 of the network without, at the same channels.

Parameters and output are float32 whatever the compute `dtype`.

Sources:
    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B, with the
    wiring of the published TensorFlow code.
    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models".
    Luhman & Luhman 2022, "Improving Diffusion Model Efficiency Through Patching", for
    the patches.
    Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
    Language Understanding", section 2.1 and appendix D.1, for cross-attention.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.convolution import upsample_nearest
from ddpm_jax.networks.geometry import check_groups, check_halves
from ddpm_jax.networks.layers import (
    ATTENTIONS,
    Attention,
    Conv3x3,
    CrossAttention,
    GroupNorm,
    ResBlock,
    average_pairs,
    check_attention,
    default_init,
    time_embedding,
    zero_init,
)
from ddpm_jax.networks.patches import depth_to_space, space_to_depth
from ddpm_jax.networks.ports import (
    Network,
    Ports,
    TokenSequence,
    check_ports,
    from_data,
)


def check_geometry(
    height: int,
    width: int,
    *,
    channels: int,
    channel_multipliers: Sequence[int],
    patch: int = 1,
    attention_resolutions: Sequence[int] = (),
    num_heads: int = 1,
    head_channels: int | None = None,
    num_groups: int = 32,
) -> None:
    """Refuse image sizes and channel counts that the U-Net cannot be built for.

    Args:
        height: rows of the images, pixels.
        width: columns of the images, pixels.
        channels: channels of the first level.
        channel_multipliers: channels of each level, in units of `channels`.
        patch: side of the patches, pixels, that the first level works on.
        attention_resolutions: shorter sides, patches, of the maps with attention.
        num_heads: attention heads.
        head_channels: channels of each head, in the place of their number.
        num_groups: groups of every normalisation.

    Raises:
        UserError: for the first rule that does not hold.
    """
    num_levels = len(channel_multipliers)
    whole = all(isinstance(m, int) and m > 0 for m in channel_multipliers)
    if num_levels == 0 or not whole:
        raise UserError(
            f"channel_multipliers={tuple(channel_multipliers)}; give one whole number "
            "of 1 or more per level, such as (1, 2, 2, 2)."
        )
    check_halves(height, width, num_levels, patch)
    if channels < 4:
        raise UserError(
            f"channels={channels} is too narrow for the time embedding; use 4 or more."
        )
    check_groups(channels, channel_multipliers, num_groups)
    for level, multiplier in enumerate(channel_multipliers):
        side = min(height, width) // patch >> level
        has_attention = level == num_levels - 1 or side in attention_resolutions
        name, size = "num_heads", num_heads
        if head_channels is not None:
            name, size = "head_channels", head_channels
        if has_attention and channels * multiplier % size:
            raise UserError(
                f"{name}={size} does not divide the {channels * multiplier} "
                f"channels of level {level}, which has attention; choose a divisor."
            )


class Given(NamedTuple):
    """What every block is given beside its map."""

    embedding: jax.Array  # [B, 4 * channels]: of the time, and the vector port
    tokens: TokenSequence | None
    train: bool


class UNet(Network):
    """A U-Net of residual blocks, given the time, and conditions through its ports.

    Attributes:
        out_channels: channels of the output; twice the image's if it also predicts
            a variance.
        channels: channels of the first level, and width of the timestep embedding.
        channel_multipliers: one per level, finest first.
        num_res_blocks: blocks per level on the way down; one more on the way up.
        attention_resolutions: shorter sides of the network's maps with attention, in
            places of these maps, which are pixels without `patch`.
        num_heads: attention heads.
        head_channels: channels of each head; None: as `num_heads` divides them.
        dropout: rate inside the blocks while training.
        scale_shift: let the embedding scale and shift instead of being added.
        num_groups: groups of every normalisation.
        norm_epsilon: of every normalisation.
        frequency_shift: of the timestep embedding; see `layers.time_embedding`.
        downsample_padding: zeros before each side where a map is halved, 0 as in the
            code of Ho et al. or 1 as in most PyTorch programs.
        resample_blocks: halve and double maps inside residual blocks of their own,
            instead of by a convolution.
        dtype: of the computation between parameters and output.
        remat: recompute blocks in the backward pass, trading time for memory.
        attention: how it is computed: plain, or cudnn, fused, on GPUs and in bfloat16
            alone.
        patch: side of the squares of pixels that are one place of the first level.
    """

    out_channels: int = from_data(3)
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_heads: int = 1
    head_channels: int | None = None
    dropout: float = 0.0
    scale_shift: bool = False
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    frequency_shift: int = 1
    downsample_padding: int = 0
    resample_blocks: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention: Literal["plain", "cudnn"] = "plain"
    patch: int = 1

    @property
    def embedding_width(self) -> int:
        """E, the width of the vector port and of the time embedding."""
        return 4 * self.channels

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse numbers out of range, and images (H, W, C) that do not fit.

        Raises:
            UserError: for the first rule that does not hold.
        """
        limits.at_least(self, 1, "num_res_blocks", "num_heads", "num_groups")
        limits.between(self, "patch", 1, 64)
        if self.head_channels is not None:
            limits.at_least(self, 1, "head_channels")
        limits.share(self, "dropout")
        if not 0 < self.norm_epsilon < 1:
            raise UserError(
                f"norm_epsilon={self.norm_epsilon} is not in (0, 1); use a small "
                "number such as 1e-6."
            )
        for name in ("frequency_shift", "downsample_padding"):
            if getattr(self, name) not in (0, 1):
                raise UserError(f"{name}={getattr(self, name)} is not known; use 0, 1.")
        if len(shape) != 3:
            raise UserError(
                "the U-Net takes items of height x width x channels, and these are "
                f"{'x'.join(map(str, shape))}; use data of images, or another network."
            )
        self._check_geometry(*shape[:2])
        check_attention(self.attention, self.dtype)

    def least_numbers(self, shape: tuple[int, ...]) -> int:
        """Count the inputs of the residual blocks of the way down, for one image.

        The way up needs all of them.

        Args:
            shape: (H, W, C).
        """
        height, width, _ = shape
        total = 0
        for depth, multiplier in enumerate(self.channel_multipliers):
            sides = (max(side // self.patch >> depth, 1) for side in (height, width))
            maps = math.prod(sides)
            total += maps * self.channels * multiplier * self.num_res_blocks
        return total

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
        self._check_geometry(*x_t.shape[1:3])
        ports = Ports() if ports is None else ports
        check_ports(x_t, ports, self.embedding_width)
        return self._predict(x_t, t, ports, train)

    def _predict(self, x_t, t, ports, train):
        """Predict from checked input; `t`, vector and tokens may have fewer rows."""
        given = Given(self._embed(t, ports.vector), ports.tokens, train)
        h = space_to_depth(x_t, self.patch)
        if ports.maps is not None:
            maps = space_to_depth(ports.maps, self.patch)
            h = jnp.concatenate([h, maps], axis=-1)
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(h)
        h, skips = self._down(h, given)
        h = self._block("mid_block_0", h.shape[-1], h, given)
        h = self._attend("mid_attention", h, given)
        h = self._block("mid_block_1", h.shape[-1], h, given)
        h = self._up(h, skips, given)
        h = GroupNorm(self.num_groups, self.norm_epsilon, name="norm_out")(h)
        # In float32 even under bfloat16: the output keeps all its digits, and a
        # convolution to a few channels costs next to nothing.
        features = self.patch**2 * self.out_channels
        h = Conv3x3(features, kernel_init=zero_init, name="conv_out")(nn.swish(h))
        return depth_to_space(h, self.patch)

    def _check_geometry(self, height, width):
        check_geometry(
            height,
            width,
            channels=self.channels,
            channel_multipliers=self.channel_multipliers,
            patch=self.patch,
            attention_resolutions=self.attention_resolutions,
            num_heads=self.num_heads,
            head_channels=self.head_channels,
            num_groups=self.num_groups,
        )

    def _embed(self, t, vector):
        width = self.embedding_width
        h = time_embedding(t, self.channels, self.frequency_shift)
        h = nn.Dense(width, kernel_init=default_init, name="time_0")(h)
        h = nn.Dense(width, kernel_init=default_init, name="time_1")(nn.swish(h))
        return h if vector is None else h + vector

    def _down(self, h, given):
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            features = self.channels * multiplier
            for i in range(self.num_res_blocks):
                h = self._stage(f"down_{level}", i, features, h, given)
                skips.append(h)
            if level < len(self.channel_multipliers) - 1:
                h = self._halve(f"down_{level}_downsample", h, given)
                skips.append(h)
        return h, skips

    def _halve(self, name, h, given):
        if self.resample_blocks:
            width = h.shape[-1]
            return self._block(name, width, h, given, average_pairs)
        conv = Conv3x3(h.shape[-1], stride=2, dtype=self.dtype, name=name)
        if not self.downsample_padding:
            return conv(h)
        # A zero before each side moves every window by one; the zero after it, and the
        # last output, are only there to keep the sides even.
        h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return conv(h)[:, :-1, :-1]

    def _up(self, h, skips, given):
        skips = list(skips)
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            features = self.channels * multiplier
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._stage(f"up_{level}", i, features, h, given)
            if level > 0:
                h = self._double(f"up_{level}_upsample", h, given)
        return h

    def _double(self, name, h, given):
        width = h.shape[-1]
        if self.resample_blocks:
            return self._block(name, width, h, given, upsample_nearest)
        return Conv3x3(width, upsample=True, dtype=self.dtype, name=name)(h)

    def _stage(self, name, i, features, h, given):
        h = self._block(f"{name}_block_{i}", features, h, given)
        if min(h.shape[1:3]) in self.attention_resolutions:
            h = self._attend(f"{name}_attention_{i}", h, given)
        return h

    def _block(self, name, features, h, given, resample=None):
        # `train` is argument 3 of the block, counting the module itself.
        block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        return block(
            features,
            num_groups=self.num_groups,
            dropout=self.dropout,
            scale_shift=self.scale_shift,
            dtype=self.dtype,
            epsilon=self.norm_epsilon,
            resample=resample,
            name=name,
        )(h, given.embedding, given.train)

    def _attend(self, name, h, given):
        heads = self._num_heads(h.shape[-1])
        options = (heads, self.num_groups, self.dtype, self.norm_epsilon)
        h = Attention(*options, ATTENTIONS[self.attention], name=name)(h)
        if given.tokens is None:
            return h
        return CrossAttention(*options, name=f"{name}_text")(h, *given.tokens)

    def _num_heads(self, channels):
        if self.head_channels is None:
            return self.num_heads
        return channels // self.head_channels
