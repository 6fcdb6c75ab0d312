"""What is asked of an edit, and whether a model can do it."""

import math
from typing import Any

from ddpm_jax.assembly.latents import refuse_embeddings, refuse_latents
from ddpm_jax.assembly.pictures import mode_of
from ddpm_jax.assembly.sampling import levels
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.conditioning.known_frames import NAME as FRAMES
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, LowRes
from ddpm_jax.requests import Edit, Extend, Sample, Upscale
from ddpm_jax.requests.sample import sample_of
from ddpm_jax.runtime import capacity
from ddpm_jax.sampling import edits
from ddpm_jax.specs import located

_OPTIONS = ("strength", "weight", "jump_length", "num_resamples", "iterations")


def edit_methods(spec: Diffusion, mode: str) -> tuple[str, ...]:
    """List the ways of a mode that a model knows, the first being the default.

    An image-conditional model knows one mode, and that in one way; edits of image
    embeddings are of a model that is conditioned on them (unCLIP).
    """
    if mode in edits.OF_EMBEDDINGS and NAME not in spec.conditioners:
        return ()
    trained_for = mode_of(spec)
    if FRAMES in spec.conditioners and mode in edits.OF_FRAMES:
        return (edits.TRAINED, *edits.METHODS[mode])
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
    with located(_section(asked)):
        return edits.Edit(
            asked.mode,
            method_of(spec, asked),
            factor=upscale_factor(spec, asked),
            **options,
        )


def _section(asked: Edit) -> str:
    return "config.extend" if isinstance(asked, Extend) else "config.edit"


def sample_of_edit(spec: Diffusion, asked: Edit, **changes: Any) -> Sample:
    """Ask for samples by the chain of an edit, as `check_sample` looks at it.

    Args:
        spec: of the model.
        asked: the edit.
        changes: what else is asked for.
    """
    if is_encoding(spec, asked):  # which clips nothing, though its option says so
        changes = {**changes, "clip": False}
    return sample_of(asked, **changes)


def is_encoding(spec: Diffusion, asked: Edit) -> bool:
    """Say whether both chains of an edit are deterministic DDIM, there and back."""
    return method_of(spec, asked) in edits.ENCODING


def check_edit(spec: Diffusion, asked: Edit, item_shape: tuple[int, ...]) -> None:
    """Refuse what cannot work, before any compile.

    Raises:
        UserError: an option is unknown, out of range, or does not fit items of this
            shape, (H, W, C) of images.
    """
    mode, methods = asked.mode, edit_methods(spec, asked.mode)
    if mode in edits.OF_PIXELS:
        refuse_latents(spec, f"edit {mode}")
    refuse_embeddings(spec, f"edit {mode}")
    if mode in edits.OF_EMBEDDINGS and NAME not in spec.conditioners:
        raise UserError(
            f"edit {mode} is of a decoder of image embeddings (unCLIP), and this model "
            "is conditioned on none; train one as configs/shapes_unclip.py does."
        )
    if not methods:
        raise UserError(
            f"edit {mode} with a model that was trained to draw from a picture "
            f"({spec.map_name}); use edit {mode_of(spec)}, or sample."
        )
    if method_of(spec, asked) not in methods:
        raise UserError(
            f"{_section(asked)}.method={method_of(spec, asked)!r} is not a way to "
            f"{mode}; use {', '.join(methods)}."
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
    with located(_section(asked)):
        edit.check_shape(item_shape)
    made = spec.image_map
    trained = made.factor if isinstance(made, LowRes) else edit.factor
    if mode == "upscale" and edit.method == edits.TRAINED and edit.factor != trained:
        raise UserError(
            f"config.edit.factor={edit.factor}, but the model was trained to make "
            f"pictures {trained} times larger; leave the option out."
        )
