"""A cascade: its stages, what is asked of each, and their conditions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.assembly.conditions import encode_for, sample_cond, text_cond
from ddpm_jax.assembly.labels_prompts import prompts, sample_labels
from ddpm_jax.assembly.latents import refuse_latents
from ddpm_jax.assembly.pictures import aug_level_of, mode_of
from ddpm_jax.assembly.sampling import denoiser, levels, sampler
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.codecs import Params
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, LowRes
from ddpm_jax.requests import Cascade, Sample
from ddpm_jax.sampling.plan import Plan
from ddpm_jax.sampling.stages import (
    CascadeModel,
    CascadeStage,
    cascade_plan,
    check_stages,
)

OF_STAGES = {
    "samplers": ("sampler", str),
    "num_steps": ("num_steps", int),
    "guidance_scales": ("guidance_scale", float),
    "dynamic_percentiles": ("dynamic_percentile", float),
    "noise": ("picture_noise", float),
}
"""Option of `config.cascade` -> that of a stage's `config.sample`, and its type."""
_SHARED = ("num_images", "batch_size", "film_frames", "film_images")
_SHAPES = Params(None)


class Member(NamedTuple):
    """A model of a cascade, and what is asked of it.

    Attributes:
        spec: of the model.
        asked: of it.
        info: of its data.
        unet: the network.
    """

    spec: Diffusion
    asked: Sample
    info: DataInfo
    unet: Conditioned


def stage_folders(stages: str) -> list[str]:
    """List the workdirs of the stages after the first, of `config.cascade.stages`.

    Raises:
        UserError: there are none.
    """
    folders = [word.strip() for word in stages.split(",")]
    folders = [folder for folder in folders if folder]
    if not folders:
        raise UserError(
            "cascade needs models that enlarge what this one draws; give "
            "--config.cascade.stages=DIR, or several with commas."
        )
    return folders


def stage_options(asked: Cascade, seed: int, count: int) -> list[dict[str, Any]]:
    """List what a cascade asks of each stage after the first, by fields of `Sample`.

    Args:
        asked: of the cascade.
        seed: of it.
        count: of these stages.

    Raises:
        UserError: an option is no list of one value, or one for each.
    """
    own = {
        option: _values(getattr(asked, f"stage_{name}"), name, kind, count)
        for name, (option, kind) in OF_STAGES.items()
    }
    shared = {name: getattr(asked, name) for name in _SHARED} | {"seed": seed}
    return [
        shared | {option: given[i] for option, given in own.items() if given}
        for i in range(count)
    ]


def ask_stage(
    spec: Diffusion, own: Sample, options: Mapping[str, Any], first: Cascade
) -> Sample:
    """Ask a stage for what a cascade is asked for.

    Args:
        spec: of the model.
        own: what its recipe asks it for.
        options: of `stage_options`.
        first: of the cascade, whose prompts it is given if it reads any.

    Raises:
        UserError: a value cannot be.
    """
    changes = dict(options)
    if spec.text is not None:
        changes |= {"prompt": first.prompt, "negative_prompt": first.negative_prompt}
    return dataclasses.replace(own, **changes)


def _values(text: str, name: str, kind: type, count: int) -> list[Any]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    try:
        values = [kind(word) for word in words]
    except ValueError:
        raise UserError(
            f"config.cascade.{name}={text!r} is no list of numbers; write it like "
            "20,50, a number for each of the stages."
        ) from None
    if len(values) not in (0, 1, count):
        raise UserError(
            f"config.cascade.{name}={text!r} has {len(values)} values for {count} "
            "stages after the first; give one for all, or one for each."
        )
    return values * count if len(values) == 1 else values


def stage_of(member: Member, params: Params = _SHAPES) -> CascadeStage:
    """Make a stage of a model.

    Args:
        member: the model.
        params: its parameters; left out if only shapes are looked at.
    """
    spec, asked, info, unet = member
    height, width, channels = info.image_shape
    low_shape = None
    conditioner = spec.image_map
    if isinstance(conditioner, LowRes):
        factor = conditioner.factor
        low_shape = (height // factor, width // factor, channels)
    return CascadeStage(
        denoiser(spec, asked, unet, params.network, params.worse),
        sampler(spec, asked),
        info.image_shape,
        low_shape,
        aug_level_of(spec, asked),
    )


def plan_cascade(members: Sequence[Member]) -> Plan:
    """Describe a cascade; its parameters are a tuple of `codecs.Params`."""

    def model_of(member: Member) -> CascadeModel:
        return CascadeModel(
            levels(member.spec, member.asked),
            lambda params: stage_of(member, params),
            lambda params, cond: encode_for(member.unet, params, cond),
        )

    return cascade_plan(list(map(model_of, members)))


def check_cascade(folders: Sequence[str], members: Sequence[Member]) -> None:
    """Refuse models that do not make a cascade, before any compile.

    Args:
        folders: of all of them, the first included.
        members: the models.

    Raises:
        UserError: naming the first that does not fit.
    """
    for folder, (spec, *_) in zip(folders, members, strict=True):
        refuse_latents(spec, f"cascade with {folder}")
        if mode_of(spec) not in (None, "upscale"):
            raise UserError(
                f"{folder} was trained for edit {mode_of(spec)}; a cascade is made of "
                "a base model and super-resolution models."
            )
    check_stages([stage_of(member) for member in members], folders)
    first = members[0]
    for folder, (spec, _, info, _) in zip(folders, members, strict=True):
        both = "label" in spec.conditioners and "label" in first.spec.conditioners
        if both and info.label_names != first.info.label_names:
            raise UserError(
                f"{folder} knows other classes than {folders[0]}; use models of the "
                "same, or without."
            )


def cascade_conds(members: Sequence[Member]) -> list[dict[str, Any] | None]:
    """Make the condition of each stage: the classes and prompts of the first.

    Raises:
        UserError: as `sample_cond`.
    """
    spec, asked, info, _ = members[0]
    labels, texts = sample_labels(spec, info, asked), prompts(spec, info, asked)
    conds = [sample_cond(spec, info, asked)]
    for stage, of_stage, known, _ in members[1:]:
        cond: dict[str, Any] = {}
        if "label" in stage.conditioners:
            none = np.full(of_stage.num_images, known.num_classes, np.int32)
            cond["label"] = none if labels is None else labels
        if stage.text is not None and texts is not None:
            cond |= text_cond(known, texts, of_stage.negative_prompt)
        conds.append(cond or None)
    return conds
