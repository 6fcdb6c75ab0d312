"""What a drawing or an edit is made of: walks along a chain, described and not yet run.

`generate` runs a leg in one program; a page that shows the chain while it grows runs it
in parts. Both are given the same leg.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ddpm_jax.build.conditions import AnyUNet, encode
from ddpm_jax.build.guidance import CLASSIFIED
from ddpm_jax.build.sampling import denoiser, levels, sampler
from ddpm_jax.codecs import Codec, Params
from ddpm_jax.conditioning.conditioner import NEGATIVE
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.generate import initial_noise
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Level

Given = Mapping[str, Any]
"""Rows [B, ...] by name: what is known before a leg, results of earlier ones included.
Those by the names of the model's conditioners are its condition."""


class Walk(NamedTuple):
    """A chain that is ready to start. Made anew wherever it is traced: it holds arrays.

    Attributes:
        x_init: [B, ...], at the first of the leg's levels.
        sampler: the method.
        denoise: the model, and what steers it.
        cond: what the model is conditioned on.
        shown: [B, H, W, C], what the model was given, for a person to see: pixels.
        see: from a point of the chain to the pixels [B, H, W, C] it stands for.
        see_result: likewise from where the chain ends, which later legs find as it is.
    """

    x_init: jax.Array
    sampler: Sampler
    denoise: Denoiser
    cond: Cond
    shown: jax.Array
    see: Callable[[jax.Array], jax.Array]
    see_result: Callable[[jax.Array], jax.Array]


class Leg(NamedTuple):
    """One walk of a task.

    Attributes:
        makes: the name by which later legs find its result among what is given; that of
            the last leg is "x".
        levels: leaves [N + 1], in the order they are visited.
        walk: (`Params`, keys [B], given, levels) -> Walk. Pure; the levels are those
            above, given again so that a compiled program may serve others.
    """

    makes: str
    levels: Level
    walk: Callable[[Params, jax.Array, Given, Level], Walk]


def condition(network: AnyUNet, params: Any, given: Given) -> Cond:
    """Return the condition among what is given, None if there is none."""
    known = {*network.conditioners, NEGATIVE, CLASSIFIED}
    cond = {name: rows for name, rows in given.items() if name in known}
    return encode(network, params, cond)


def sampling_legs(config: ConfigDict, unet: AnyUNet, codec: Codec) -> tuple[Leg, ...]:
    """Describe the drawing of images from noise, as `config.sample` says: one leg.

    Args:
        config: all of it.
        unet: the network.
        codec: of the model.
    """

    def walk(params: Params, keys: jax.Array, given: Given, levels: Level) -> Walk:
        del levels
        noise = initial_noise(keys, codec.shape)
        see = partial(codec.decode, params.codec)
        return Walk(
            noise,
            sampler(config),
            denoiser(config, unet, params.network),
            condition(unet, params.network, given),
            see(noise),
            see,
            see,
        )

    return (Leg("x", levels(config), walk),)
