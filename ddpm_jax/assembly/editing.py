"""From a config to the plan of an edit."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.assembly.guidance import clips
from ddpm_jax.assembly.latents import refuse_latents
from ddpm_jax.assembly.pictures import image_map, map_name, mode_of
from ddpm_jax.assembly.plans import plan_model
from ddpm_jax.assembly.sampling import levels
from ddpm_jax.codecs import Codec
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.low_res import LowRes
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import capacity
from ddpm_jax.sampling.edits import METHODS, OF_PIXELS, TRAINED, Edit, edit_plan
from ddpm_jax.sampling.plan import Given, ImageCondition, Plan
from ddpm_jax.specs import located


def edit_methods(config: ConfigDict, mode: str) -> tuple[str, ...]:
    """List the ways of a mode that a model knows, the first being the default.

    An image-conditional model knows one mode, and that in one way.
    """
    trained_for = mode_of(config)
    if trained_for is None:
        return METHODS[mode]
    return (TRAINED,) if mode == trained_for else ()


def upscale_factor(config: ConfigDict) -> int:
    """Return how many times larger an image is made."""
    if config.edit.factor is not None:
        return config.edit.factor
    made = image_map(config)
    return made.factor if isinstance(made, LowRes) else 2


def edit_of(config: ConfigDict, mode: str) -> Edit:
    """Read what is done to an image.

    Raises:
        UserError: an option is out of range.
    """
    options = config.edit
    same = ("strength", "weight", "jump_length", "num_resamples", "iterations")
    with located("config.edit"):
        return Edit(
            mode,
            options.method or edit_methods(config, mode)[0],
            factor=upscale_factor(config),
            **{name: options[name] for name in same},
        )


def plan_edit(config: ConfigDict, mode: str, unet: Conditioned, codec: Codec) -> Plan:
    """Describe an edit of the program.

    Args:
        config: its `sample` says how chains are run, its `edit` what is done.
        mode: a key of `sampling.edits.METHODS`.
        unet: the network.
        codec: of the model.
    """
    edit, clip = edit_of(config, mode), clips(config)
    if edit.is_unclipped:
        config = config.copy_and_resolve_references()
        config.sample.clip = False
        config.sample.dynamic_percentile = 0.0
    model = plan_model(config, unet, codec)
    model = model._replace(image_condition=_image_condition(config), clip=clip)
    return edit_plan(edit, model)


def _image_condition(config: ConfigDict) -> ImageCondition | None:
    """Return what conditions an image-conditional model on a given image."""
    conditioner, name = image_map(config), map_name(config)
    if conditioner is None:
        return None
    aug_level = config.sample.picture_noise

    def of_image(keys: jax.Array, given: Given) -> tuple[dict[str, Any], jax.Array]:
        rows = conditioner.from_given(keys, given, aug_level)
        return {name: rows}, conditioner.show(rows)

    return of_image


def check_edit(config: ConfigDict, mode: str, item_shape: tuple[int, ...]) -> None:
    """Refuse what cannot work, before any compile.

    Raises:
        UserError: an option of `config.edit` is unknown, out of range, or does not fit
            items of this shape, (H, W, C) of images.
    """
    options, methods = config.edit, edit_methods(config, mode)
    if mode in OF_PIXELS:
        refuse_latents(config, f"edit {mode}")
    if not methods:
        raise UserError(
            f"edit {mode} with a model that was trained to draw from a picture "
            f"({map_name(config)}); use edit {mode_of(config)}, or sample."
        )
    if options.method not in (None, *methods):
        raise UserError(
            f"config.edit.method={options.method!r} is not a way to {mode}; use "
            f"{', '.join(methods)}."
        )
    edit = edit_of(config, mode)
    # An interpolation has two ends.
    for name, lowest in {"num_images": 1, "num_points": 2}.items():
        if options[name] < lowest:
            raise UserError(
                f"config.edit.{name}={options[name]} is too small; use {lowest} or "
                "more."
            )
    each = 4 * math.prod(item_shape)
    for name in ("num_images", "num_points"):
        capacity.check(
            f"config.edit.{name}", options[name], each, capacity.machine_memory()
        )
    if edit.method == "repaint":
        edit.repaint_levels(levels(config))  # raises if the jumps do not fit the chain
    with located("config.edit"):
        edit.check_shape(item_shape)
    made = image_map(config)
    trained = made.factor if isinstance(made, LowRes) else edit.factor
    if mode == "upscale" and edit.method == TRAINED and edit.factor != trained:
        raise UserError(
            f"config.edit.factor={edit.factor}, but the model was trained to make "
            f"pictures {trained} times larger; leave the option out."
        )
