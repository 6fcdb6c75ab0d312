"""A U-Net and the encoder that learns to read for it, as one module.

Their parameters are trained together, as {"unet": ..., "encoder": ...}. Reading apart
from drawing, `encode`, so that a chain of a thousand steps reads its prompt once.
"""

from typing import Any

import jax
from flax import linen as nn

from ddpm_jax.networks.text import TextTransformer
from ddpm_jax.networks.unet import UNet


class TextUNet(nn.Module):
    """A U-Net that is given words.

    Attributes:
        unet: with `text_shape` (L, D, D) of the encoder.
        encoder: of width D.
    """

    unet: UNet
    encoder: TextTransformer

    @property
    def out_channels(self) -> int:
        """Of the U-Net."""
        return self.unet.out_channels

    @property
    def num_classes(self) -> int | None:
        """Of the U-Net."""
        return self.unet.num_classes

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
        """Predict from noisy images, as `UNet` does.

        Args:
            x: images, [B, H, W, C].
            t: times, [B].
            label: classes, int32 [B], or None.
            text: a pair of token numbers and mask, both [B, L]; or what `encode` has
                made of them; or None for no text.
            noise_level: of a picture among x, [B], or None.
            train: whether dropout acts.

        Returns:
            float32 [B, H, W, out_channels].
        """
        if text is None:
            length = self.encoder.max_length
            ids = jax.numpy.zeros((len(x), length), jax.numpy.int32)
            text = ids, ids > 0
        if len(text) == 2:
            text = self.encode(text, train=train)
        return self.unet(x, t, label, text, noise_level, train=train)

    def encode(self, tokens: Any, *, train: bool = False) -> tuple:
        """Read.

        Args:
            tokens: numbers int32 [B, L], and True where there is one [B, L].
            train: whether dropout acts.

        Returns:
            Sequence [B, L, D], mask [B, L] and pooled [B, D], as
            `conditioning.Encoded`.
        """
        ids, mask = tokens
        sequence, pooled = self.encoder(ids, mask, train=train)
        return sequence, mask, pooled
