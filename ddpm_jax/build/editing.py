"""From a config to the editing tasks: what to run on given pictures, as one program.

A task is one leg or several (`legs`), one after the other; each finds the results of
those before it among what is given. It owns no files and no devices.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import tasks
from ddpm_jax.build.conditions import AnyUNet
from ddpm_jax.build.guidance import MAX_SCALE, clips
from ddpm_jax.build.latents import refuse_latents
from ddpm_jax.build.legs import Given, Leg, Walk, condition
from ddpm_jax.build.pictures import mode_of
from ddpm_jax.build.sampling import denoiser, levels, sampler
from ddpm_jax.codecs import Codec, Params
from ddpm_jax.diffusion.generate import generate
from ddpm_jax.diffusion.samplers import Info
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import capacity

_OF_PIXELS = ("colorize", "upscale")  # what is measured there is linear in pixels


class Edited(NamedTuple):
    """What a task makes.

    Attributes:
        shown: [B, H, W, C], what the model was given, to be shown beside the result.
        x: [B, H, W, C], the result.
        film: [K, B, H, W, C], the reverse chain; the last frame is the result.
    """

    shown: jax.Array
    x: jax.Array
    film: jax.Array


Task = Callable[[Params, jax.Array, Given], Edited]
"""(params, keys [B], given) -> Edited. Given are rows [B, ...]: "image" in [-1, 1];
"mask", 1 where known; "other", the picture at the end of a walk; "share" [B], how far
along it; and those of `legs.TOLD`, for a conditional model."""


def edit_legs(
    config: ConfigDict, mode: str, unet: AnyUNet, codec: Codec
) -> tuple[Leg, ...]:
    """Describe the task of a mode of the program, one walk after the other.

    Args:
        config: its `sample` says how chains are run, its `edit` what is done.
        mode: a key of `tasks.TASKS`.
        unet: the network.
        codec: of the model. What is given are images, and it encodes them.
    """
    method = config.edit.method or tasks.methods_of(config, mode)[0]
    clip = clips(config)
    if {"encode", "guidance"} & {mode, method}:
        # Clipping is no part of the ODE, and what it throws away cannot be decoded; and
        # no gradient passes through a clamp that acts.
        config = config.copy_and_resolve_references()
        config.sample.clip = False
        config.sample.dynamic_percentile = 0.0

    def leg(step: tasks.Step) -> Leg:
        def walk(params: Params, keys: jax.Array, given: Given, levels: Level) -> Walk:
            chain = tasks.Chain(
                config=config,
                denoise=denoiser(config, unet, params.network),
                sampler=sampler(config),
                levels=levels,
                keys=keys,
                clip=clip,
                tell=partial(condition, unet, params.network),
                see=partial(codec.decode, params.codec),
            )
            encode = partial(codec.encode, params.codec)
            return _keep_known(
                step.walk(chain, _brought(given, encode, codec.reduce), method), given
            )

        return Leg(step.makes, step.levels(config, method), walk)

    return tuple(leg(step) for step in tasks.TASKS[mode](method))


def _brought(
    given: Given,
    encode: Callable[[jax.Array], jax.Array],
    reduce: Callable[[jax.Array], jax.Array],
) -> Given:
    """Bring what is given in pixels to where the chain is.

    Of a picture with a hole nothing in the hole is looked at.
    """
    brought = dict(given)
    if "mask" in given:
        brought["mask"] = reduce(given["mask"])
        brought["image"] = encode(_without_hole(given))
    elif "image" in given:
        brought["image"] = encode(given["image"])
    if "other" in given:
        brought["other"] = encode(given["other"])
    return brought


def _without_hole(given: Given) -> jax.Array:
    return jnp.where(given["mask"] > 0, given["image"], 0.0)  # mid grey


def _keep_known(walk: Walk, given: Given) -> Walk:
    """Lay the known pixels over the result, which may have been decoded."""
    if "mask" not in given:
        return walk
    image, known = given["image"], given["mask"]
    return walk._replace(
        shown=_without_hole(given),
        see_result=lambda x: jnp.where(known > 0, image, walk.see(x)),
    )


def task(config: ConfigDict, mode: str, unet: AnyUNet, codec: Codec) -> Task:
    """Build the task of a mode of the program; arguments as of `edit_legs`."""
    legs = edit_legs(config, mode, unet, codec)

    def run(params: Params, keys: jax.Array, given: Given) -> Edited:
        edited: Edited | None = None
        for leg in legs:
            walk = leg.walk(params, keys, given, leg.levels)
            num_steps = leg.levels.alpha.shape[0] - 1
            x, points = generate(
                keys,
                walk.sampler,
                walk.denoise,
                walk.x_init,
                leg.levels,
                cond=walk.cond,
                record=_chain_itself,
                num_records=min(config.sample.film_frames, num_steps),
            )
            given = {**given, leg.makes: x}
            # The last leg's is the result.
            film = jax.lax.map(walk.see, points)
            edited = Edited(walk.shown, walk.see_result(x), film)
        assert edited is not None  # no task is without legs
        return edited

    return run


def _chain_itself(info: Info) -> jax.Array:
    return info.x_s


def check_edit(config: ConfigDict, mode: str, image_shape: tuple[int, ...]) -> None:
    """Refuse what cannot work, before any compile.

    Raises:
        UserError: an option of `config.edit` is unknown, out of range, or does not fit
            images of this shape (H, W, C).
    """
    options, methods = config.edit, tasks.methods_of(config, mode)
    if mode in _OF_PIXELS:
        refuse_latents(config, f"edit {mode}")
    if not methods:
        raise UserError(
            f"edit {mode} with a model that was trained to draw from a picture "
            f"({config.model.picture}); use edit {mode_of(config)}, or sample."
        )
    if options.method not in (None, *methods):
        raise UserError(
            f"config.edit.method={options.method!r} is not a way to {mode}; use "
            f"{', '.join(methods)}."
        )
    if not 0 < options.strength <= 1:
        raise UserError(
            f"config.edit.strength={options.strength} is not in (0, 1]; 1 starts from "
            "pure noise, small values change little."
        )
    # A walk has two ends.
    least = {"num_images": 1, "num_points": 2, "num_resamples": 1, "iterations": 1}
    for name, lowest in least.items():
        if options[name] < lowest:
            raise UserError(
                f"config.edit.{name}={options[name]} is too small; use {lowest} or "
                "more."
            )
    each = 4 * math.prod(image_shape)
    for name in ("num_images", "num_points"):
        capacity.check(
            f"config.edit.{name}", options[name], each, capacity.machine_memory()
        )
    if not 0 < options.weight <= MAX_SCALE:
        raise UserError(
            f"config.edit.weight={options.weight} is out of range; use more than 0, up "
            f"to {MAX_SCALE:g}, such as 1."
        )
    if mode == "inpaint" and (options.method or methods[0]) == "repaint":
        # Raises if the jumps do not fit the chain.
        tasks.walked_again(config, levels(config))
    height, width, channels = image_shape
    factor = tasks.upscale_factor(config)
    if mode == "upscale" and (factor < 2 or height % factor or width % factor):
        raise UserError(
            f"config.edit.factor={factor} does not divide images of {height}x{width}; "
            "use a divisor of both sides, 2 or more."
        )
    trained = config.model.picture_factor
    if mode == "upscale" and methods == (tasks.TRAINED,) and factor != trained:
        raise UserError(
            f"config.edit.factor={factor}, but the model was trained to make pictures "
            f"{trained} times larger; leave the option out."
        )
    if mode == "colorize" and channels != 3:
        raise UserError(
            f"edit colorize got a model of {channels} channel(s); it wants one of "
            "colour images (3 channels)."
        )
