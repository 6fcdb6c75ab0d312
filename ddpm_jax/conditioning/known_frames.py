"""Frames of a clip that are known, as a condition: to go on, to begin, to fill in.

One network learns p(x_0 | the frames that are known) for any set of them: none, as
without this condition; the first K, to make a clip longer or to begin with an image;
the first and the last, to fill in between; each with probability 1/2. In training one
of the four is drawn for each clip, all alike.

Known frames that a model has made itself are not quite like those of the data. As with
`low_res`, they may have noise in training, whose level the network is given:

    z = alpha_s x + sigma_s eps,   s uniform in [0, max]

Sources:
    Ho et al. 2022, "Video Diffusion Models", section 3.1, for what is asked of such a
    model; Ho et al. 2022, "Imagen Video: High Definition Video Generation with
    Diffusion Models", section 2.5, for noise on what is known.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ddpm_jax.conditioning.conditioner import Conditioner, Embedder
from ddpm_jax.conditioning.low_res import (
    AugmentedMap,
    LevelEmbedder,
    augmentation_level,
    check_most,
)
from ddpm_jax.diffusion.process import add_noise, noise_like
from ddpm_jax.errors import UserError

NAME = "frames"
"""Of the conditioner, by which `extend` finds it."""


@dataclasses.dataclass(frozen=True)
class KnownFrames(Conditioner):
    """Condition on some frames; rows are maps [B, F, H, W, C + 1] and their level.

    The first channel is 1 where a frame is known, the others what it shows; zeros where
    it is not.

    Attributes:
        max_aug_level: s is drawn uniformly from 0 to this in training, at most 1; at 0
            known frames are shown as they are, and the network is given no level.
    """

    max_aug_level: float = 0.0

    named: ClassVar[str] = NAME
    droppable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_most(self.max_aug_level, "a frame")

    def for_data(self, data: Any) -> "KnownFrames":
        """Return itself.

        Raises:
            UserError: the items are no clips.
        """
        if len(data.shape) != 4:
            raise UserError(
                "KnownFrames is of clips, and the model's items are "
                f"{'x'.join(map(str, data.shape))}; use data of clips."
            )
        return self

    def from_given(
        self,
        keys: jax.Array,
        clips: jax.Array,
        known: jax.Array,
        aug_level: jax.Array | float = 0.0,
    ) -> AugmentedMap:
        """Make rows of clips of which some frames are known.

        Args:
            keys: of the noise, typed keys [B].
            clips: [B, F, H, W, C] in [-1, 1]; frames that are not known change nothing.
            known: 1 where a frame is known and 0 elsewhere, [B, F].
            aug_level: s in [0, 1], [] or [B]; 0 in a model without augmentation.
        """
        known = jnp.asarray(known, clips.dtype)[..., None, None, None]
        level = None
        if self.max_aug_level:
            level = jnp.broadcast_to(
                jnp.asarray(aug_level, jnp.float32), clips.shape[:1]
            )
            clips = add_noise(clips, noise_like(keys, clips), augmentation_level(level))
        known = jnp.broadcast_to(known, (*clips.shape[:-1], 1))
        kept = jnp.where(known != 0, clips, 0.0)
        return AugmentedMap(jnp.concatenate([known, kept], axis=-1), level)

    def from_batch(
        self, key: jax.Array, batch: Mapping[str, Any], x0: jax.Array
    ) -> AugmentedMap:
        """Draw which frames of each clip [B, F, H, W, C] are known."""
        del batch
        count, frames = x0.shape[:2]
        key_known, key_level, key_noise = jax.random.split(key, 3)
        keys = jax.random.split(key_known, count)
        known = jax.vmap(lambda one: random_frames(one, frames))(keys)
        level = jax.random.uniform(
            key_level, (count,), jnp.float32, maxval=self.max_aug_level
        )
        return self.from_given(jax.random.split(key_noise, count), x0, known, level)

    def null(self, rows: AugmentedMap) -> AugmentedMap:
        """Let no frame be known."""
        return jax.tree.map(jnp.zeros_like, rows)

    def example(self, num_rows: int, shape: tuple[int, ...]) -> AugmentedMap:
        """Make rows of clips of which nothing is known."""
        *places, channels = shape
        level = jnp.zeros((num_rows,), jnp.float32) if self.max_aug_level else None
        maps = jnp.zeros((num_rows, *places, channels + 1), jnp.float32)
        return AugmentedMap(maps, level)

    def embedder(self, features: int) -> Embedder:
        """Make the embedding of the augmentation level, if there is one."""
        return LevelEmbedder(features)


def random_frames(key: jax.Array, num_frames: int) -> jax.Array:
    """Draw which frames are known: none, the first K, both ends, or any; float32 [F].

    Args:
        key: one key.
        num_frames: F.
    """
    which, first, each = jax.random.split(key, 3)
    frame = jnp.arange(num_frames)
    count = jax.random.randint(first, (), 1, max(2, num_frames), jnp.int32)
    kinds = jnp.stack(
        [
            jnp.zeros((num_frames,), bool),
            frame < count,
            (frame == 0) | (frame == num_frames - 1),
            jax.random.bernoulli(each, jnp.float32(0.5), (num_frames,)),
        ]
    )
    drawn = jax.random.randint(which, (), 0, len(kinds), jnp.int32)
    return kinds[drawn].astype(jnp.float32)
