"""The U-Net of clips: that of images for each frame, and attention along the frames.

Frames are folded into the batch, so that every convolution, normalization and spatial
attention sees one frame; after each spatial attention follows one over the frames at
each place of the map, with a bias that knows how far frames are apart:

    clip [B, F, H, W, C] -> frames [B F, H, W, C]
    ... block -> attention in space -> attention in time -> block ...

Its last layer starts at zero: a new network of clips is the network of images, frame by
frame, and the parameters of one fit into the other but for those of attention in time.
A frame that sees no other is left as it is, whatever was learned. So a clip of one
frame is an image, and so is each of the independent frames of joint training.

Source: Ho, Salimans, Gritsenko, Chan, Norouzi, Fleet 2022, "Video Diffusion Models",
    section 3, and 3.2 for joint training. Its frames attend to themselves where they
    are masked; here they are left alone.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import GroupNorm, default_init, zero_init
from ddpm_jax.networks.ports import Ports, check_ports
from ddpm_jax.networks.unet import UNet


class TemporalAttention(nn.Module):
    """Attention along the frames, at each place of the maps, added to its input.

    Attributes:
        num_heads: heads.
        num_groups: groups of the normalization, which is of one frame.
        dtype: of the computation.
        epsilon: of the normalization.
        max_distance: frames further apart than this have the bias of this distance.
        causal: see no later frame.
        num_alone: so many frames, the last ones, see no other and are not seen.
    """

    num_heads: int
    num_groups: int
    dtype: Any = jnp.float32
    epsilon: float = 1e-6
    max_distance: int = 16
    causal: bool = False
    num_alone: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, num_frames: int) -> jax.Array:
        """Map [B F, H, W, C] to the same shape.

        Args:
            x: maps of frames, those of a clip one after the other.
            num_frames: F.
        """
        channels = x.shape[-1]
        clips = (-1, num_frames, *x.shape[1:3])
        heads = (*clips, self.num_heads, channels // self.num_heads)
        dense = partial(nn.Dense, channels, kernel_init=default_init, dtype=self.dtype)
        h = GroupNorm(self.num_groups, self.epsilon, self.dtype, name="norm")(x)
        q, k, v = (
            dense(name=name)(h).reshape(heads) for name in ("query", "key", "value")
        )  # [B, F, H, W, heads, depth]
        bias = self.param(
            "relative_bias",
            nn.initializers.zeros,
            (self.num_heads, 2 * self.max_distance + 1),
            jnp.float32,
        )
        frame = np.arange(num_frames)
        apart = np.clip(frame - frame[:, None], -self.max_distance, self.max_distance)
        seen = self._seen(num_frames)
        logits = jnp.einsum(
            "bfhwnd,bghwnd->bhwnfg", q, k, preferred_element_type=jnp.float32
        )
        logits = logits * q.shape[-1] ** -0.5 + bias[:, apart + self.max_distance]
        floor = jnp.finfo(jnp.float32).min  # each frame sees itself at the least
        weights = nn.softmax(jnp.where(seen, logits, floor), axis=-1)
        h = jnp.einsum("bhwnfg,bghwnd->bfhwnd", weights.astype(v.dtype), v)
        h = dense(kernel_init=zero_init, name="out")(h.reshape(*clips, channels))
        is_alone = (seen.sum(axis=1) == 1)[:, None, None, None]
        return x + jnp.where(is_alone, 0, h).reshape(x.shape)

    def _seen(self, num_frames: int) -> np.ndarray:
        """Say which frame sees which: bool [F, F]."""
        seen = np.ones((num_frames, num_frames), bool)
        if self.causal:
            seen = np.tril(seen)
        alone = np.arange(num_frames) >= num_frames - self.num_alone
        return seen & ~alone & ~alone[:, None] | np.eye(num_frames, dtype=bool)


class VideoUNet(UNet):
    """A U-Net of clips [F, H, W, C]; see the module.

    It takes clips of any length, also of more frames than it was trained on.

    Attributes:
        max_distance: frames further apart than this are as far apart as this.
        causal: let frames see none that comes later.
        joint_images: train on so many further frames of each clip as well, each an
            image of its own with noise of its own. More frames for one clip: less
            variance of the gradient.
    """

    max_distance: int = 16
    causal: bool = False
    joint_images: int = 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse numbers out of range, and clips (F, H, W, C) that do not fit.

        Raises:
            UserError: for the first rule that does not hold.
        """
        limits.between(self, "max_distance", 1, 4096)
        limits.between(self, "joint_images", 0, 4096)
        if len(shape) != 4:
            raise UserError(
                "the U-Net of clips takes items of frames x height x width x channels, "
                f"and these are {'x'.join(map(str, shape))}; use data of clips, or "
                "network unet."
            )
        if shape[0] < 2 and (self.causal or self.joint_images):
            raise UserError(
                f"causal={self.causal} and joint_images={self.joint_images} do nothing "
                "in clips of one frame; leave them out."
            )
        super().check(shape[1:])

    def is_new(self, name: str) -> bool:
        """Tell whether a parameter is one that the U-Net of images has not."""
        return name.split("/")[0].endswith("_time")

    def augment(self, key: jax.Array, x0: jax.Array) -> jax.Array:
        """Add frames of each clip, drawn from it, behind its own.

        Args:
            key: of the choice.
            x0: clips [B, F, H, W, C].

        Returns:
            [B, F + joint_images, H, W, C].
        """
        if not self.joint_images:
            return x0
        batch, frames = x0.shape[:2]
        key = jax.random.fold_in(key, 1)  # the key itself is the codec's
        chosen = jax.random.randint(
            key, (batch, self.joint_images), 0, frames, jnp.int32
        )
        images = jnp.take_along_axis(x0, chosen[..., None, None, None], axis=1)
        return jnp.concatenate([x0, images], axis=1)

    def least_numbers(self, shape: tuple[int, ...]) -> int:
        """Count the inputs of the residual blocks of the way down, for one clip.

        Args:
            shape: (F, H, W, C).
        """
        return (shape[0] + self.joint_images) * super().least_numbers(shape[1:])

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        ports: Ports | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predict from noisy clips.

        Args:
            x_t: [B, F, H, W, C], about [-1, 1]; in training the last `joint_images` of
                the frames are images of their own.
            t: times, [B], of all frames of a clip.
            ports: a vector and tokens of the clip, maps [B, F, H, W, K] of its frames.
            train: whether dropout acts, and images are apart.

        Returns:
            float32 [B, F, H, W, out_channels].

        Raises:
            UserError: if the sizes do not fit.
        """
        self._check_geometry(*x_t.shape[2:4])
        ports = Ports() if ports is None else ports
        check_ports(x_t, ports, self.embedding_width)
        if ports.maps is not None:
            ports = ports._replace(maps=_folded(ports.maps))
        frames = self._predict(_folded(x_t), t, ports, train)
        return frames.reshape(*x_t.shape[:-1], self.out_channels)

    def _block(self, name, features, h, given, resample=None):
        rows = _num_frames(h, given)
        embedding = jnp.repeat(given.embedding, rows, axis=0)
        given = given._replace(embedding=embedding)
        return super()._block(name, features, h, given, resample)

    def _attend(self, name, h, given):
        rows = _num_frames(h, given)
        of_frames = given
        if given.tokens is not None:
            tokens = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=0), given.tokens)
            of_frames = given._replace(tokens=tokens)
        h = super()._attend(name, h, of_frames)
        return TemporalAttention(
            self._num_heads(h.shape[-1]),
            self.num_groups,
            self.dtype,
            self.norm_epsilon,
            self.max_distance,
            self.causal,
            self.joint_images if given.train else 0,
            name=f"{name}_time",
        )(h, rows)


def _folded(x: jax.Array) -> jax.Array:
    """[B, F, ...] -> [B F, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _num_frames(h: jax.Array, given: Any) -> int:
    """F of maps [B F, ...] and an embedding [B, E]."""
    return len(h) // len(given.embedding)
