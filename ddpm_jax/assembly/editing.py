"""The plan of an edit, of a model and a request."""

import math
from typing import Any

import jax

from ddpm_jax.assembly.guidance import clips
from ddpm_jax.assembly.latents import refuse_latents
from ddpm_jax.assembly.pictures import mode_of
from ddpm_jax.assembly.plans import plan_model
from ddpm_jax.assembly.sampling import levels
from ddpm_jax.codecs import Codec
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, LowRes
from ddpm_jax.requests import Edit, Sample, Upscale
from ddpm_jax.requests.sample import sample_of
from ddpm_jax.runtime import capacity
from ddpm_jax.sampling import edits
from ddpm_jax.sampling.plan import Given, ImageCondition, Plan
from ddpm_jax.specs import located

_OPTIONS = ("strength", "weight", "jump_length", "num_resamples", "iterations")


def edit_methods(spec: Diffusion, mode: str) -> tuple[str, ...]:
    """List the ways of a mode that a model knows, the first being the default.

    An image-conditional model knows one mode, and that in one way.
    """
    trained_for = mode_of(spec)
    if trained_for is None:
        return edits.METHODS[mode]
    return (edits.TRAINED,) if mode == trained_for else ()


def method_of(spec: Diffusion, asked: Edit) -> str:
    """Return the method that is asked for, or else the default; "" if there is none."""
    method: str | None = getattr(asked, "method", None)
    return next(iter(edit_methods(spec, asked.mode)), "") if method is None else method


def upscale_factor(spec: Diffusion, asked: Edit) -> int:
    """Return how many times larger an image is made; 1 if it is not."""
    if not isinstance(asked, Upscale):
        return 1
    made = spec.image_map
    trained = made.factor if isinstance(made, LowRes) else 2
    return trained if asked.factor is None else asked.factor


def edit_of(spec: Diffusion, asked: Edit) -> edits.Edit:
    """Read what is done to an image.

    Raises:
        UserError: an option is out of range.
    """
    options = {n: getattr(asked, n) for n in _OPTIONS if hasattr(asked, n)}
    with located("config.edit"):
        return edits.Edit(
            asked.mode,
            method_of(spec, asked),
            factor=upscale_factor(spec, asked),
            **options,
        )


def plan_edit(spec: Diffusion, asked: Edit, unet: Conditioned, codec: Codec) -> Plan:
    """Describe an edit.

    Args:
        spec: of the model.
        asked: what is done, and how chains are run.
        unet: the network.
        codec: of the model.
    """
    edit, chain = edit_of(spec, asked), sample_of(asked)
    clip = clips(spec, chain)
    if edit.is_unclipped:
        chain = sample_of(asked, clip=False, dynamic_percentile=0.0)
    model = plan_model(spec, chain, unet, codec)
    model = model._replace(image_condition=_image_condition(spec, chain), clip=clip)
    return edits.edit_plan(edit, model)


def _image_condition(spec: Diffusion, chain: Sample) -> ImageCondition | None:
    """Return what conditions an image-conditional model on a given image."""
    conditioner, name = spec.image_map, spec.map_name
    if conditioner is None:
        return None

    def of_image(keys: jax.Array, given: Given) -> tuple[dict[str, Any], jax.Array]:
        rows = conditioner.from_given(keys, given, chain.picture_noise)
        return {name: rows}, conditioner.show(rows)

    return of_image


def check_edit(spec: Diffusion, asked: Edit, item_shape: tuple[int, ...]) -> None:
    """Refuse what cannot work, before any compile.

    Raises:
        UserError: an option is unknown, out of range, or does not fit items of this
            shape, (H, W, C) of images.
    """
    mode, methods = asked.mode, edit_methods(spec, asked.mode)
    if mode in edits.OF_PIXELS:
        refuse_latents(spec, f"edit {mode}")
    if not methods:
        raise UserError(
            f"edit {mode} with a model that was trained to draw from a picture "
            f"({spec.map_name}); use edit {mode_of(spec)}, or sample."
        )
    if method_of(spec, asked) not in methods:
        raise UserError(
            f"config.edit.method={method_of(spec, asked)!r} is not a way to {mode}; "
            f"use {', '.join(methods)}."
        )
    edit = edit_of(spec, asked)
    each = 4 * math.prod(item_shape)
    for name in ("num_images", "num_points"):
        if hasattr(asked, name):
            count, memory = getattr(asked, name), capacity.machine_memory()
            capacity.check(f"config.edit.{name}", count, each, memory)
    if edit.method == "repaint":
        edit.repaint_levels(
            levels(spec, sample_of(asked))
        )  # raises if jumps do not fit
    with located("config.edit"):
        edit.check_shape(item_shape)
    made = spec.image_map
    trained = made.factor if isinstance(made, LowRes) else edit.factor
    if mode == "upscale" and edit.method == edits.TRAINED and edit.factor != trained:
        raise UserError(
            f"config.edit.factor={edit.factor}, but the model was trained to make "
            f"pictures {trained} times larger; leave the option out."
        )
