r"""A low-resolution image as a condition, for super-resolution and cascades.

A small image that another model has generated is not quite like one of the data. So the
low-resolution map has noise-conditioning augmentation in training, before it is
resized, and the network is given its level:

    (1)  z = alpha_s c + sigma_s eps,   s uniform in [0, max]
    (2)  alpha_s = cos(pi s / 2),  sigma_s = sin(pi s / 2)

In sampling the augmentation level s is a number. At s = 0 the network sees c itself;
more noise forgives more errors, and is less faithful to c. (2) is the cosine schedule
in continuous time.

Sources:
    Ho et al. 2021, "Cascaded Diffusion Models for High Fidelity Image Generation":
        Gaussian conditioning augmentation.
    Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
        Language Understanding", section 2.4: s in [0, 1], given to the network.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import limits
from ddpm_jax.conditioning.conditioner import Embedder
from ddpm_jax.conditioning.image_maps import ImageMap, Source
from ddpm_jax.diffusion.generate import fold_each
from ddpm_jax.diffusion.operators import average_pool
from ddpm_jax.diffusion.process import add_noise, noise_like
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError
from ddpm_jax.networks.layers import default_init, time_embedding
from ddpm_jax.networks.ports import Ports

NAME = "low_res"
"""Of the conditioner in models of this package, by which a cascade finds it."""

# Of the time embedding: it resolves steps of about 1.
_T = 1000.0
# By which the key of a map is split, whose noise is drawn from it as it is.
_S = 0


class AugmentedMap(NamedTuple):
    """Low-resolution maps and their augmentation level.

    Attributes:
        map: [B, H, W, C].
        aug_level: s in [0, 1], [B]; None for a network without augmentation.
    """

    map: jax.Array
    aug_level: jax.Array | None


def resize(low: jax.Array, height: int, width: int) -> jax.Array:
    """Bring a small image [B, h, w, C] to [B, height, width, C], bilinearly.

    Bilinear and not bicubic: its weights are positive, so that the result stays within
    the range of the small image; and where one loses nothing neither does the other,
    for the network sees all of the small image's numbers in both.
    """
    batch, _, _, channels = low.shape
    return jax.image.resize(low, (batch, height, width, channels), "bilinear")


def augmentation_level(s: jax.Array | float) -> Level:
    """Make the level of the augmentation s in [0, 1], eq. (2); `t` is 1000 s."""
    s = jnp.asarray(s, jnp.float32)
    angle = 0.5 * jnp.pi * s
    return Level(t=_T * s, alpha=jnp.cos(angle), sigma=jnp.sin(angle))


def check_most(max_aug_level: float, what: str) -> None:
    """Refuse a greatest augmentation level out of [0, 1].

    Args:
        max_aug_level: s at the most.
        what: has the noise, for the message.

    Raises:
        UserError: it is.
    """
    if not 0 <= max_aug_level <= 1:
        raise UserError(
            f"max_aug_level={max_aug_level} is not in [0, 1]; 0 is none, 1 as much as "
            f"leaves nothing of {what}."
        )


def from_low(
    keys: jax.Array,
    low: jax.Array,
    shape: tuple[int, ...],
    s: jax.Array | float | None,
) -> AugmentedMap:
    """Make rows of small images.

    Args:
        keys: of the noise, typed keys [B].
        low: small images [B, h, w, C].
        shape: (H, W, C) of what is generated.
        s: augmentation level, [] or [B], in [0, 1]; None for a network without
            augmentation, which is shown the image as it is.
    """
    if s is None:
        return AugmentedMap(resize(low, *shape[:2]), None)
    z = add_noise(low, noise_like(keys, low), augmentation_level(s))
    level = jnp.broadcast_to(jnp.asarray(s, jnp.float32), low.shape[:1])
    return AugmentedMap(resize(z, *shape[:2]), level)


@dataclasses.dataclass(frozen=True)
class LowRes(ImageMap):
    """Condition on an image `factor` times smaller, with noise up to a level.

    Attributes:
        factor: of both sides, 2 or more; it must divide them.
        max_aug_level: s is drawn uniformly from 0 to this in training, at most 1; at 0
            there is no augmentation, and the network is given no level.
        frequency_shift: of the embedding of the level; see `layers.time_embedding`.
    """

    factor: int = 2
    max_aug_level: float = 0.0
    frequency_shift: Literal[0, 1] = 1

    named: ClassVar[str] = NAME

    def __post_init__(self) -> None:
        limits.between(self, "factor", 2, 65_536)
        check_most(self.max_aug_level, "the image")
        if self.frequency_shift != 1 and not self.max_aug_level:
            raise UserError(
                f"frequency_shift={self.frequency_shift} does nothing without an "
                "augmentation level to embed; set max_aug_level above 0, or leave it "
                "out."
            )

    def for_data(self, data: Any) -> ImageMap:
        """Return itself.

        Raises:
            UserError: as `ImageMap`; or the factor does not divide the images' sides.
        """
        super().for_data(data)
        height, width, _ = data.image_shape
        if height % self.factor or width % self.factor:
            raise UserError(
                f"factor={self.factor} does not divide images of {height}x{width}; use "
                "a divisor of both sides, 2 or more."
            )
        return self

    def from_images(
        self,
        keys: jax.Array,
        x0: jax.Array,
        aug_level: jax.Array | float | None = None,
    ) -> AugmentedMap:
        """Average blocks of images [B, H, W, C], add noise and resize: see `ImageMap`.

        Raises:
            UserError: the factor does not divide a side.
        """
        if not self.max_aug_level:
            aug_level = None
        elif aug_level is None:
            aug_level = jax.vmap(self._draw)(fold_each(keys, _S))
        return from_low(keys, self.measure(x0), x0.shape[1:], aug_level)

    def _draw(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (), jnp.float32, maxval=self.max_aug_level)

    def measure(self, x0: jax.Array) -> jax.Array:
        """Average blocks: [B, H / factor, W / factor, C]."""
        return average_pool(self.factor).apply(x0)

    def show(self, rows: AugmentedMap) -> jax.Array:
        """Return the maps."""
        return rows.map

    def embedder(self, features: int) -> Embedder:
        """Make the embedding of the augmentation level, if there is one."""
        return LowResEmbedder(features, self.frequency_shift, self)


class LevelEmbedder(Embedder):
    """A map as it is, and a vector for its augmentation level.

    Attributes:
        features: E; the level is coded in a quarter of it, or in 4, as times are.
        frequency_shift: of the code; see `layers.time_embedding`.
    """

    features: int = 0
    frequency_shift: int = 1

    @nn.compact
    def __call__(self, rows: AugmentedMap, *, train: bool = False) -> Ports:
        """Embed B rows: maps [B, ..., K] and a vector [B, E]."""
        image, level = self.encode(rows, train=train)
        if level is None:
            return Ports(maps=image)
        width = max(4, self.features // 4)
        h = time_embedding(_T * level, width, self.frequency_shift)
        h = nn.Dense(self.features, kernel_init=default_init, name="dense_0")(h)
        h = nn.Dense(self.features, kernel_init=default_init, name="dense_1")(
            nn.swish(h)
        )
        return Ports(vector=h, maps=image)


class LowResEmbedder(LevelEmbedder):
    """The same of rows that may still be a `Source`.

    Attributes:
        conditioner: that makes the maps.
    """

    conditioner: LowRes = LowRes()  # frozen

    def encode(self, rows: AugmentedMap | Source, *, train: bool = False) -> Any:
        """Make maps of images, once before a chain."""
        del train
        return self.conditioner.from_source(rows)
