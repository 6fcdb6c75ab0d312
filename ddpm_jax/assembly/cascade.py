"""From configs to a cascade: the stages, their options and their conditions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.assembly.conditions import encode, sample_cond, text_cond
from ddpm_jax.assembly.keys import sample_seed
from ddpm_jax.assembly.labels_prompts import prompts, sample_labels
from ddpm_jax.assembly.latents import refuse_latents
from ddpm_jax.assembly.pictures import aug_level_of, image_map, mode_of
from ddpm_jax.assembly.sampling import denoiser, levels, sampler
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.low_res import LowRes
from ddpm_jax.errors import UserError
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


def stage_configs(config: ConfigDict, stages: Sequence[ConfigDict]) -> list[ConfigDict]:
    """Ask of each stage after the first what `config` says.

    Args:
        config: of the first; its `cascade` has what differs from the stages' own, its
            `sample` how many images, and of what.
        stages: of the other models, as they were trained.

    Raises:
        UserError: an option of `cascade` is no list of one value, or one for each.
    """
    asked = {
        name: _values(config.cascade[name], name, kind, len(stages))
        for name, (_, kind) in OF_STAGES.items()
    }
    changed = []
    for number, stage in enumerate(stages):
        own = stage.copy_and_resolve_references()
        for name, (option, _) in OF_STAGES.items():
            if asked[name]:
                own.sample[option] = asked[name][number]
        for option in _SHARED:
            own.sample[option] = config.sample[option]
        own.sample.seed = sample_seed(config)
        if "text" in own.conditioners:
            own.sample.prompt = config.sample.prompt
            own.sample.negative_prompt = config.sample.negative_prompt
        changed.append(own)
    return changed


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


def stage_of(
    config: ConfigDict, info: DataInfo, unet: Conditioned, params: Any = None
) -> CascadeStage:
    """Make a stage of a model.

    Args:
        config: of the model, with what is asked of it.
        info: of the model.
        unet: the network.
        params: its parameters; None if only shapes are looked at.
    """
    height, width, channels = info.image_shape
    low_shape = None
    conditioner = image_map(config)
    if isinstance(conditioner, LowRes):
        factor = conditioner.factor
        low_shape = (height // factor, width // factor, channels)
    return CascadeStage(
        denoiser(config, unet, params),
        sampler(config),
        info.image_shape,
        low_shape,
        aug_level_of(config),
    )


def plan_cascade(
    configs: Sequence[ConfigDict],
    infos: Sequence[DataInfo],
    unets: Sequence[Conditioned],
) -> Plan:
    """Describe a cascade; its parameters are a tuple of `codecs.Params`.

    Args:
        configs: of each model, with what is asked of it.
        infos: of each.
        unets: of each.
    """

    def model_of(config: ConfigDict, info: DataInfo, unet: Conditioned) -> CascadeModel:
        return CascadeModel(
            levels(config),
            lambda params: stage_of(config, info, unet, params.network),
            lambda params, cond: encode(unet, params.network, cond),
        )

    return cascade_plan(list(map(model_of, configs, infos, unets)))


def check_cascade(
    folders: Sequence[str],
    configs: Sequence[ConfigDict],
    infos: Sequence[DataInfo],
    stages: Sequence[CascadeStage],
) -> None:
    """Refuse models that do not make a cascade, before any compile.

    Args:
        folders: of all of them, the first included.
        configs: of each.
        infos: of each.
        stages: of each.

    Raises:
        UserError: naming the first that does not fit.
    """
    if configs[0].sample.prompt_to:
        raise UserError(
            f"config.sample.prompt_to={configs[0].sample.prompt_to!r} is for "
            "sample; leave it out."
        )
    for folder, config in zip(folders, configs, strict=True):
        refuse_latents(config, f"cascade with {folder}")
        if mode_of(config) not in (None, "upscale"):
            raise UserError(
                f"{folder} was trained for edit {mode_of(config)}; a cascade is made "
                "of a model that draws from nothing and others that enlarge."
            )
    check_stages(stages, folders)
    first = infos[0].label_names
    for folder, config, info in zip(folders, configs, infos, strict=True):
        both = "label" in config.conditioners and "label" in configs[0].conditioners
        if both and info.label_names != first:
            raise UserError(
                f"{folder} knows other classes than {folders[0]}; use models of the "
                "same, or without."
            )


def cascade_conds(
    configs: Sequence[ConfigDict], infos: Sequence[DataInfo]
) -> list[dict[str, Any] | None]:
    """Make the condition of each stage: the classes and prompts of the first.

    Raises:
        UserError: as `sample_cond`.
    """
    labels, texts = sample_labels(configs[0], infos[0]), prompts(configs[0], infos[0])
    conds = [sample_cond(configs[0], infos[0])]
    for config, info in zip(configs[1:], infos[1:], strict=True):
        cond: dict[str, Any] = {}
        if "label" in config.conditioners:
            none = np.full(config.sample.num_images, info.num_classes, np.int32)
            cond["label"] = none if labels is None else labels
        if "text" in config.conditioners and texts is not None:
            cond |= text_cond(info, texts, config.sample.negative_prompt)
        conds.append(cond or None)
    return conds
