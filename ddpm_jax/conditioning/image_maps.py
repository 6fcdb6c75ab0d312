r"""Pictures as conditions: a smaller one, a grey one, one with a part that is masked.

A network that is shown a picture c learns p(x_0 | c) where an unconditional one knows
p(x_0) alone. In training c is made of x_0 itself, on the device. It travels as
`cond["picture"]`, `[B, H, W, K]` in about [-1, 1], and is joined to x_t as further
channels.

    low_res     the mean over blocks, enlarged to H x W again              K = C
    grey        the luma of a colour picture                               K = 1
    masked      where the picture is known (1 or 0), and what is known     K = C + 1

A small picture that another model has drawn is not quite like one of the data. So the
low-resolution condition is noised in training, before it is enlarged, and the network
is told how much (`cond["noise_level"]`):

    (1)  z = alpha_s c + sigma_s eps,   s uniform in [0, max]
    (2)  alpha_s = cos(pi s / 2),  sigma_s = sin(pi s / 2)

In drawing, s is a number. At s = 0 the network sees c itself; more noise forgives more
errors, and is less faithful to c. (2) is the cosine schedule in continuous time.

Sources:
    Ho et al. 2021, "Cascaded Diffusion Models for High Fidelity Image Generation":
        Gaussian conditioning augmentation.
    Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
        Language Understanding", section 2.4: s in [0, 1], told to the network.
    Saharia et al. 2022, "Palette: Image-to-Image Diffusion Models": colourisation and
        inpainting by a picture that is joined to x_t.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.conditioning.masks import random_mask
from ddpm_jax.diffusion.generate import fold_each
from ddpm_jax.diffusion.operators import average_pool, grey_operator
from ddpm_jax.diffusion.process import add_noise, noise_like
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError

PICTURE, NOISE_LEVEL = "picture", "noise_level"
"""The names of the picture and of its noise among the conditions."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey of video, ITU-R BT.601."""

Cond = dict[str, jax.Array]

# Of the time that a network is told: the code of times resolves steps of about 1.
_T = 1000.0
# Beyond the numbers by which `generate` splits an image's key; and one by which the key
# of a picture is split, whose noise is drawn from it as it is.
_PICTURE, _S = 2, 0


Make = Callable[[jax.Array, jax.Array, jax.Array | float | None], Cond]
"""(typed keys [B], x0 [B, H, W, C], s) -> conditions, row i from key i alone. `s` is []
or [B], or None for what training wants: drawn, where there is noise at all."""


class PictureOf(NamedTuple):
    """How a condition is made of clean images.

    Attributes:
        num_channels: K, joined to x_t.
        told_noise: whether the network is told the noise of the picture.
        make: the making; see `Make`.
    """

    num_channels: int
    told_noise: bool
    make: Make


def show(picture: jax.Array, num_channels: int) -> jax.Array:
    """Make of a condition [B, H, W, K] a picture for a person: [B, H, W, C].

    Args:
        picture: what the network is shown; of a masked one the mask is left out.
        num_channels: C of the images.
    """
    last = picture[..., -num_channels:]
    return jnp.broadcast_to(last, (*last.shape[:-1], num_channels))


def picture_keys(keys: jax.Array) -> jax.Array:
    """Derive from images' keys [B] those of the noise or the mask of their pictures."""
    return fold_each(keys, _PICTURE)


# --- A smaller picture ----------------------------------------------------------------


def enlarge(low: jax.Array, height: int, width: int) -> jax.Array:
    """Bring a small picture [B, h, w, C] to [B, height, width, C], bilinearly.

    Bilinear and not bicubic: its weights are positive, so that the result stays within
    the range of the small picture; and where one loses nothing neither does the other,
    for the network sees all of the small picture's numbers in both.
    """
    batch, _, _, channels = low.shape
    return jax.image.resize(low, (batch, height, width, channels), "bilinear")


def augmentation_level(s: jax.Array | float) -> Level:
    """Make the level of the augmentation s in [0, 1], eq. (2); `t` is 1000 s."""
    s = jnp.asarray(s, jnp.float32)
    angle = 0.5 * jnp.pi * s
    return Level(t=_T * s, alpha=jnp.cos(angle), sigma=jnp.sin(angle))


def low_res_cond(
    keys: jax.Array,
    low: jax.Array,
    shape: tuple[int, ...],
    s: jax.Array | float | None,
) -> Cond:
    """Make the conditions of a network that enlarges pictures.

    Args:
        keys: of the noise, typed keys [B].
        low: small pictures [B, h, w, C].
        shape: (H, W, C) of what is drawn.
        s: of the noise, [] or [B], in [0, 1]; None for a network that is told none,
            and that is shown the picture as it is.
    """
    if s is None:
        return {PICTURE: enlarge(low, *shape[:2])}
    level = augmentation_level(s)
    z = add_noise(low, noise_like(keys, low), level)
    told = jnp.broadcast_to(level.t, low.shape[:1])
    return {PICTURE: enlarge(z, *shape[:2]), NOISE_LEVEL: told}


def low_res(factor: int, num_channels: int, max_augmentation: float = 0.0) -> PictureOf:
    """Show the network a picture `factor` times smaller, noised by up to a level.

    Args:
        factor: of both sides, 2 or more; it must divide them.
        num_channels: C of the images.
        max_augmentation: s is drawn uniformly from 0 to this, at most 1; at 0 the
            network is told no noise.

    Raises:
        UserError: if a number is out of range, or (from `make`) the factor does not
            divide a side.
    """
    if factor < 2 or not 0 <= max_augmentation <= 1:
        raise UserError(
            f"factor={factor} and max_augmentation={max_augmentation}; use a factor of "
            "2 or more, and an augmentation in [0, 1]."
        )
    pool = average_pool(factor)

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (), jnp.float32, maxval=max_augmentation)

    def make(
        keys: jax.Array, x0: jax.Array, s: jax.Array | float | None = None
    ) -> Cond:
        if not max_augmentation:
            s = None
        elif s is None:
            s = jax.vmap(draw)(fold_each(keys, _S))
        return low_res_cond(keys, pool.apply(x0), x0.shape[1:], s)

    return PictureOf(num_channels, max_augmentation > 0, make)


# --- Without colour, and with a hole --------------------------------------------------


def grey_cond(x0: jax.Array) -> Cond:
    """Take the luma of colour pictures: `[B, H, W, 3]` to a condition of one channel.

    By which nearly every program turns colour into grey: a grey photograph is then what
    the network has seen in training.
    """
    return {PICTURE: grey_operator(3, LUMA).apply(x0)}


def grey() -> PictureOf:
    """Show the network the luma of a colour picture."""

    def make(
        keys: jax.Array, x0: jax.Array, s: jax.Array | float | None = None
    ) -> Cond:
        del keys, s
        return grey_cond(x0)

    return PictureOf(1, False, make)


def masked_cond(x0: jax.Array, known: jax.Array) -> Cond:
    """Show what is known of a picture, and where that is.

    Args:
        x0: [B, H, W, C]; what stands where nothing is known changes nothing.
        known: 1 where known and 0 elsewhere, [B, H, W, 1].
    """
    known = jnp.asarray(known, x0.dtype)
    kept = jnp.where(known != 0, x0, 0.0)
    return {PICTURE: jnp.concatenate([known, kept], axis=-1)}


def masked(num_channels: int) -> PictureOf:
    """Show the network a picture with a random part masked; see `masks.random_mask`.

    Args:
        num_channels: C of the images.
    """

    def make(
        keys: jax.Array, x0: jax.Array, s: jax.Array | float | None = None
    ) -> Cond:
        del s
        shape = (x0.shape[1], x0.shape[2])
        known = jax.vmap(lambda key: random_mask(key, shape))(keys)
        return masked_cond(x0, known[..., None])

    return PictureOf(num_channels + 1, False, make)
