"""From a config to the editing tasks: what to run on given pictures, as one program.

A task is one leg or several (`legs`), one after the other; each finds the results of
those before it among what is given. It owns no files and no devices.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import tasks
from ddpm_jax.build.conditions import AnyUNet
from ddpm_jax.build.legs import Given, Leg, Walk, condition
from ddpm_jax.build.sampling import denoiser, levels, sampler
from ddpm_jax.diffusion.generate import generate
from ddpm_jax.diffusion.samplers import Info
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError


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


Task = Callable[[Any, jax.Array, Given], Edited]
"""(params, keys [B], given) -> Edited. Given are rows [B, ...]: "image" in [-1, 1];
"mask", 1 where known; "other", the picture at the end of a walk; "share" [B], how far
along it; and those of `legs.TOLD`, for a conditional model."""


def edit_legs(config: ConfigDict, mode: str, unet: AnyUNet) -> tuple[Leg, ...]:
    """Describe the task of a mode of the program, one walk after the other.

    Args:
        config: its `sample` says how chains are run, its `edit` what is done.
        mode: a key of `tasks.TASKS`.
        unet: the network.
    """
    method = config.edit.method or tasks.METHODS[mode][0]
    clip = config.sample.clip
    if {"encode", "guidance"} & {mode, method}:
        # Clipping is no part of the ODE, and what it throws away cannot be decoded; and
        # no gradient passes through a clamp that acts.
        config = config.copy_and_resolve_references()
        config.sample.clip = False
        config.sample.dynamic_percentile = 0.0

    def leg(step: tasks.Step) -> Leg:
        def walk(params: Any, keys: jax.Array, given: Given, levels: Level) -> Walk:
            denoise = denoiser(config, unet, params)
            tell = partial(condition, unet, params)
            method_of = sampler(config)
            chain = tasks.Chain(config, denoise, method_of, levels, keys, clip, tell)
            return step.walk(chain, given, method)

        return Leg(step.makes, step.levels(config, method), walk)

    return tuple(leg(step) for step in tasks.TASKS[mode](method))


def task(config: ConfigDict, mode: str, unet: AnyUNet) -> Task:
    """Build the task of a mode of the program; arguments as of `edit_legs`."""
    legs = edit_legs(config, mode, unet)

    def run(params: Any, keys: jax.Array, given: Given) -> Edited:
        edited: Edited | None = None
        for leg in legs:
            walk = leg.walk(params, keys, given, leg.levels)
            num_steps = leg.levels.alpha.shape[0] - 1
            x, film = generate(
                keys,
                walk.sampler,
                walk.denoise,
                walk.x_init,
                leg.levels,
                cond=walk.cond,
                record=_chain_itself,
                num_records=min(config.sample.film_frames, num_steps),
            )
            made = walk.finish(x)
            given = {**given, leg.makes: made}
            edited = Edited(walk.shown, made, film)  # the last leg's is the result
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
    options, methods = config.edit, tasks.METHODS[mode]
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
    for name in ("num_images", "num_points", "num_resamples", "iterations"):
        if options[name] < 1:
            raise UserError(
                f"config.edit.{name}={options[name]} is too small; use 1 or more."
            )
    if options.weight <= 0:
        raise UserError(
            f"config.edit.weight={options.weight} guides nowhere; use more than 0."
        )
    if mode == "inpaint" and (options.method or methods[0]) == "repaint":
        # Raises if the jumps do not fit the chain.
        tasks.walked_again(config, levels(config))
    height, width, channels = image_shape
    if mode == "upscale" and (
        options.factor < 2 or height % options.factor or width % options.factor
    ):
        raise UserError(
            f"config.edit.factor={options.factor} does not divide images of "
            f"{height}x{width}; use a divisor of both sides, 2 or more."
        )
    if mode == "colorize" and channels != 3:
        raise UserError(
            f"--mode=colorize got a model of {channels} channel(s); it wants one of "
            "colour images (3 channels)."
        )
