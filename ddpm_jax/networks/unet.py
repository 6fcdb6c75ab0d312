"""The U-Net that predicts the noise: Ho et al. 2020 and its improved-DDPM options.

Level i works on maps of 1/2^i the height and width with channels * multiplier_i
channels. On the way down every block's output is kept; on the way up, which has one
block more per level, each block takes one of them back:

    conv_in -> down_0 .. down_{L-1} -> mid -> up_{L-1} .. up_0 -> norm, swish, conv_out

Attention follows a block wherever the shorter side of its map is listed, and always
stands in the middle. Where there is text, attention to it follows attention to the map;
a vector for the whole text joins the embedding of the time. So does the amount of noise
in a picture that is given as a condition; the picture itself is further channels of x.

Parameters and output are float32 whatever the compute `dtype`.

Sources:
    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B, with the
    wiring of the published TensorFlow code.
    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models".
    Ho & Salimans 2022, "Classifier-Free Diffusion Guidance": one extra class row stands
    for "no class".
    Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
    Language Understanding", section 2.1 and appendix D.1, for how text enters.
    Ho et al. 2021, "Cascaded Diffusion Models for High Fidelity Image Generation", for
    the noise of a condition.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax.errors import UserError
from ddpm_jax.networks.convolution import upsample_nearest
from ddpm_jax.networks.geometry import check_groups, check_halves
from ddpm_jax.networks.layers import (
    Attention,
    Conv3x3,
    CrossAttention,
    GroupNorm,
    ResBlock,
    attend,
    average_pairs,
    default_init,
    time_embedding,
    zero_init,
)


def check_geometry(
    height: int,
    width: int,
    *,
    channels: int,
    channel_multipliers: Sequence[int],
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
        attention_resolutions: shorter sides, pixels, of the maps with attention.
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
    check_halves(height, width, num_levels)
    if channels < 4:
        raise UserError(
            f"channels={channels} is too narrow for the time embedding; use 4 or more."
        )
    check_groups(channels, channel_multipliers, num_groups)
    for level, multiplier in enumerate(channel_multipliers):
        side = min(height, width) >> level
        has_attention = level == num_levels - 1 or side in attention_resolutions
        name, size = "num_heads", num_heads
        if head_channels is not None:
            name, size = "head_channels", head_channels
        if has_attention and channels * multiplier % size:
            raise UserError(
                f"{name}={size} does not divide the {channels * multiplier} "
                f"channels of level {level}, which has attention; choose a divisor."
            )


class Told(NamedTuple):
    """What every block is told of its batch."""

    embedding: jax.Array  # [B, 4 * channels]: time, class, text as a whole, noise
    text: Any  # (sequence [B, L, D], mask [B, L], pooled [B, P]), or None
    train: bool


class UNet(nn.Module):
    """A U-Net of residual blocks that is told the time, and class or text if any.

    Attributes:
        out_channels: channels of the output; twice the image's if it also predicts
            a variance.
        channels: channels of the first level, and width of the time code.
        channel_multipliers: one per level, finest first.
        num_res_blocks: blocks per level on the way down; one more on the way up.
        attention_resolutions: shorter sides, pixels, of the maps with attention.
        num_heads: attention heads.
        head_channels: channels of each head; None: as `num_heads` divides them.
        dropout: rate inside the blocks while training.
        scale_shift: let the embedding scale and shift instead of being added.
        num_classes: number of labels, or None for an unconditional network.
        text_shape: (L, D, P) of the text it is told, as `conditioning.Encoded` has it:
            tokens, width of each, width of the vector for the whole; None for none.
        augmentation: whether it is told how much noise is in a picture among x.
        num_groups: groups of every normalisation.
        norm_epsilon: of every normalisation.
        frequency_shift: of the time code; see `layers.time_embedding`.
        downsample_padding: zeros before each side where a map is halved, 0 as in the
            code of Ho et al. or 1 as in most PyTorch programs.
        resample_blocks: halve and double maps inside residual blocks of their own,
            instead of by a convolution.
        dtype: dtype of the computation between parameters and output.
        remat: recompute blocks in the backward pass, trading time for memory.
        attend: how attention is computed; see `layers.Attention`.
    """

    out_channels: int
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_heads: int = 1
    head_channels: int | None = None
    dropout: float = 0.0
    scale_shift: bool = False
    num_classes: int | None = None
    text_shape: tuple[int, int, int] | None = None
    augmentation: bool = False
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    frequency_shift: int = 1
    downsample_padding: int = 0
    resample_blocks: bool = False
    dtype: Any = jnp.float32
    remat: bool = False
    attend: Callable = attend

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        label: jax.Array | None = None,
        text: Any = None,
        noise_level: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predict from noisy images.

        Args:
            x: images, [B, H, W, C], about [-1, 1], and what is joined to them.
            t: times, [B], 0..T-1 or fractions between.
            label: classes, int32 [B] in 0..num_classes, where num_classes means "no
                class"; None means "no class" for all.
            text: a `conditioning.Encoded`, or three arrays like it: sequence [B, L, D],
                mask [B, L], pooled [B, P]. A row whose mask is all False has no text;
                None means no text for all.
            noise_level: of a picture among x, [B], in the units of t; None means 0,
                no noise, for all.
            train: whether dropout acts; then `rngs={"dropout": key}` is needed.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            UserError: if the sizes do not fit, or a network is given labels, text or
                a noise level that it was not made for.
        """
        self._check_geometry(*x.shape[1:3])
        text = self._text(len(x), text)
        embedding = self._embed(t, label)  # [B, 4 * channels]
        embedding = self._embed_noise(embedding, noise_level)
        if text is not None:
            embedding = embedding + PooledText(4 * self.channels, name="text")(text)
        told = Told(embedding, text, train)
        x = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(x)
        h, skips = self._down(x, told)
        h = self._block("mid_block_0", h.shape[-1], h, told)
        h = self._attend("mid_attention", h, told)
        h = self._block("mid_block_1", h.shape[-1], h, told)
        h = self._up(h, skips, told)
        h = GroupNorm(self.num_groups, self.norm_epsilon, name="norm_out")(h)
        # In float32 even under bfloat16: the output keeps all its digits, and a
        # convolution to a few channels costs next to nothing.
        return Conv3x3(self.out_channels, kernel_init=zero_init, name="conv_out")(
            nn.swish(h)
        )

    def _check_geometry(self, height, width):
        check_geometry(
            height,
            width,
            channels=self.channels,
            channel_multipliers=self.channel_multipliers,
            attention_resolutions=self.attention_resolutions,
            num_heads=self.num_heads,
            head_channels=self.head_channels,
            num_groups=self.num_groups,
        )

    def _text(self, batch, text):
        if self.text_shape is None:
            if text is not None:
                raise UserError(
                    "got text for a network without; give text_shape to the model, or "
                    "leave the text out."
                )
            return None
        length, width, pooled = self.text_shape
        shapes = [(batch, length, width), (batch, length), (batch, pooled)]
        if text is None:
            dtypes = (jnp.float32, bool, jnp.float32)
            return tuple(map(jnp.zeros, shapes, dtypes))
        got = [jnp.shape(part) for part in text]
        if got != shapes:
            raise UserError(
                f"got text of shapes {got}, this network wants {shapes}; use the "
                "encoder that it was made for."
            )
        return tuple(text)

    def _embed(self, t, label):
        width = 4 * self.channels
        h = time_embedding(t, self.channels, self.frequency_shift)
        h = nn.Dense(width, kernel_init=default_init, name="time_0")(h)
        h = nn.Dense(width, kernel_init=default_init, name="time_1")(nn.swish(h))
        if self.num_classes is None:
            if label is not None:
                raise UserError(
                    "got labels for an unconditional network; set num_classes in the "
                    "model config, or leave the labels out."
                )
            return h
        if label is None:
            label = jnp.full(h.shape[:1], self.num_classes, jnp.int32)
        # Unit variance, as in the code of Nichol & Dhariwal 2021.
        rows = nn.Embed(
            self.num_classes + 1,
            width,
            embedding_init=nn.initializers.normal(1.0),
            name="label",
        )
        return h + rows(label)

    def _embed_noise(self, embedding, noise_level):
        if not self.augmentation:
            if noise_level is not None:
                raise UserError(
                    "got a noise level for a network that is told none; give "
                    "augmentation=True to the model, or leave the level out."
                )
            return embedding
        if noise_level is None:
            noise_level = jnp.zeros(embedding.shape[:1], jnp.float32)
        width = 4 * self.channels
        h = time_embedding(noise_level, self.channels, self.frequency_shift)
        h = nn.Dense(width, kernel_init=default_init, name="augmentation_0")(h)
        return embedding + nn.Dense(
            width, kernel_init=default_init, name="augmentation_1"
        )(nn.swish(h))

    def _down(self, h, told):
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            features = self.channels * multiplier
            for i in range(self.num_res_blocks):
                h = self._stage(f"down_{level}", i, features, h, told)
                skips.append(h)
            if level < len(self.channel_multipliers) - 1:
                h = self._halve(f"down_{level}_downsample", h, told)
                skips.append(h)
        return h, skips

    def _halve(self, name, h, told):
        if self.resample_blocks:
            width = h.shape[-1]
            return self._block(name, width, h, told, average_pairs)
        conv = Conv3x3(h.shape[-1], stride=2, dtype=self.dtype, name=name)
        if not self.downsample_padding:
            return conv(h)
        # A zero before each side moves every window by one; the zero after it, and the
        # last output, are only there to keep the sides even.
        h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return conv(h)[:, :-1, :-1]

    def _up(self, h, skips, told):
        skips = list(skips)
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            features = self.channels * multiplier
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._stage(f"up_{level}", i, features, h, told)
            if level > 0:
                h = self._double(f"up_{level}_upsample", h, told)
        return h

    def _double(self, name, h, told):
        width = h.shape[-1]
        if self.resample_blocks:
            return self._block(name, width, h, told, upsample_nearest)
        return Conv3x3(width, upsample=True, dtype=self.dtype, name=name)(h)

    def _stage(self, name, i, features, h, told):
        h = self._block(f"{name}_block_{i}", features, h, told)
        if min(h.shape[1:3]) in self.attention_resolutions:
            h = self._attend(f"{name}_attention_{i}", h, told)
        return h

    def _block(self, name, features, h, told, resample=None):
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
        )(h, told.embedding, told.train)

    def _attend(self, name, h, told):
        heads = self.num_heads
        if self.head_channels is not None:
            heads = h.shape[-1] // self.head_channels
        options = (heads, self.num_groups, self.dtype, self.norm_epsilon)
        h = Attention(*options, self.attend, name=name)(h)
        if told.text is None:
            return h
        sequence, mask, _ = told.text
        return CrossAttention(*options, name=f"{name}_text")(h, sequence, mask)


class PooledText(nn.Module):
    """The vector for a whole text as part of the embedding of the time."""

    features: int

    @nn.compact
    def __call__(self, text):
        """Map (sequence [B, L, D], mask [B, L], pooled [B, P]) to [B, features]."""
        _, mask, pooled = text
        # No text has a vector of its own, which is learned: zeros would be what some
        # texts are near.
        init, width = nn.initializers.normal(1.0), pooled.shape[-1:]
        none = self.param("none", init, width, jnp.float32)
        h = nn.LayerNorm(name="norm")(pooled.astype(jnp.float32))
        h = jnp.where(mask.any(axis=1)[:, None], h, none)
        h = nn.Dense(self.features, kernel_init=default_init, name="dense_0")(h)
        return nn.Dense(self.features, kernel_init=default_init, name="dense_1")(
            nn.swish(h)
        )
