"""Where diffusion takes place: in pixels, or in the latents of an autoencoder.

What lies between pictures and the chain is a `Space`. That of pixels changes nothing,
so that whoever draws or edits need not ask which it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import autoencoder as folder
from ddpm_jax.build import auxiliary
from ddpm_jax.build.autoencoder import Autoencoder
from ddpm_jax.build.source import DataInfo
from ddpm_jax.errors import UserError

COPY = "autoencoder"  # the folder in a workdir


class Params(NamedTuple):
    """All that a program which draws is given of a model.

    Attributes:
        network: of the U-Net.
        space: of the autoencoder; () in pixels.
    """

    network: Any
    space: Any = ()


class Space(NamedTuple):
    """What a chain consists of, and how pictures become that and come of it.

    Attributes:
        shape: (h, w, c) of x.
        params: of the autoencoder; () in pixels.
        encode: (params, pictures [B, H, W, C]) -> x [B, h, w, c].
        decode: (params, x) -> pictures, both floating point, [-1, 1] being the range
            of pixels.
        reduce: a mask [B, H, W, C] of pixels, 1 where known, to one of x.
    """

    shape: tuple[int, int, int]
    params: Any
    encode: Callable[[Any, jax.Array], jax.Array]
    decode: Callable[[Any, jax.Array], jax.Array]
    reduce: Callable[[jax.Array], jax.Array]


def pixels(image_shape: tuple[int, int, int]) -> Space:
    """Return the space of the images (H, W, C) themselves."""

    def unchanged(params: Any, x: jax.Array) -> jax.Array:
        del params
        return x

    return Space(image_shape, (), unchanged, unchanged, lambda mask: mask)


def latents(autoencoder: Autoencoder, image_shape: tuple[int, int, int]) -> Space:
    """Return the space of the latents that images (H, W, C) have on average."""
    shape, factor = autoencoder.shape_of(image_shape), autoencoder.factor

    def reduce(mask: jax.Array) -> jax.Array:
        """Know a latent where all pixels of its square are known."""
        square = (1, factor, factor, 1)
        known = jax.lax.reduce_window(mask, 1.0, jax.lax.min, square, square, "VALID")
        least = known.min(axis=-1, keepdims=True)
        return jnp.broadcast_to(least, (*least.shape[:-1], shape[-1]))

    return Space(
        shape, autoencoder.params, autoencoder.encode, autoencoder.decode, reduce
    )


def space(info: DataInfo, workdir: Path) -> Space:
    """Open the space that the model of a workdir works in.

    Raises:
        UserError: its autoencoder is not there, or is another.
    """
    if info.latents is None:
        return pixels(info.image_shape)
    check_copy(info, workdir)
    return latents(folder.load(workdir / COPY), info.image_shape)


# --- The autoencoder of a workdir -----------------------------------------------------


def check_copy(info: DataInfo, workdir: Path) -> None:
    """Refuse a workdir without its autoencoder, reading no weights.

    Raises:
        UserError: saying which it was.
    """
    known = info.latents
    if known is None:
        return
    found = fingerprint_in(workdir / COPY)
    if found != known.fingerprint:
        now = "holds none" if found is None else f"holds another, {found}"
        raise UserError(
            f"the model in {workdir} works in the latents of {known.name}, weights "
            f"{known.fingerprint}, and {workdir / COPY} {now}; copy the folder of that "
            "autoencoder there."
        )


def fingerprint_in(place: Path) -> str | None:
    """Read which autoencoder a folder says it holds; None if it holds none."""
    if not auxiliary.is_finished(place):
        return None
    return auxiliary.about(place, folder.KIND)["fingerprint"]


def keep_copy(autoencoder: Autoencoder, workdir: Path) -> None:
    """Lay an autoencoder beside the model that works in its latents.

    A checkpoint is then enough to draw from, wherever its folder is moved.

    Args:
        autoencoder: which one.
        workdir: of the model.

    Raises:
        UserError: it cannot be written.
    """
    place = workdir / COPY
    if fingerprint_in(place) == autoencoder.fingerprint:
        return
    folder.write(place, autoencoder, {"copy": True})


# --- What cannot work -----------------------------------------------------------------


def check_latents(config: ConfigDict, info: DataInfo) -> None:
    """Refuse what has no meaning in latents, and latents of a model of pixels.

    Raises:
        UserError: for the first rule that does not hold.
    """
    options = config.sample
    if info.latents is None:
        if config.data.latents:
            raise UserError(
                f"config.data.latents={config.data.latents!r}, but this model works in "
                "pixels; leave it out."
            )
        return
    if not config.data.latents:
        raise UserError(
            f"config.data.latents='', but this model works in the latents of "
            f"{info.latents.name}; leave the option out."
        )
    if options.dynamic_percentile:
        raise UserError(
            f"config.sample.dynamic_percentile={options.dynamic_percentile} is for "
            "pixels, which have a range; latents have none, so use 0."
        )
    if options.classifier_scale:
        raise UserError(
            f"config.sample.classifier_scale={options.classifier_scale} guides by the "
            "noised pixels, and this model works in latents; use guidance_scale."
        )


def refuse_latents(config: ConfigDict, what: str) -> None:
    """Refuse a mode that is defined on pixels alone.

    Args:
        config: of the model.
        what: is asked for, such as "--mode=colorize".

    Raises:
        UserError: the model works in latents.
    """
    if config.data.latents:
        raise UserError(
            f"{what} is of pixels, and this model works in latents; use a model of "
            "pixels, trained without config.data.latents."
        )
