"""Guidance: what is laid around the network before sampling.

The order, from the inside: the network, autoguidance, classifier-free guidance, the
classifier's gradient, thresholding.
"""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np

from ddpm_jax import data
from ddpm_jax.assembly.conditions import is_droppable
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioner import null_condition
from ddpm_jax.diffusion.denoisers import Cond, Denoiser, clip_x0
from ddpm_jax.diffusion.gaussian_classifier import gaussian_classifier
from ddpm_jax.diffusion.guidance import (
    LogProb,
    autoguidance,
    classifier_free,
    classifier_guidance,
    dynamic_threshold,
    optimized_scale,
    projected,
)
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import CodecSpec, Data, Diffusion
from ddpm_jax.requests import Sample

CLASSIFIED = "label"
"""The name of the rows that the classifier's guidance is for, whatever the network."""

# Enough to tell classes apart; more makes the eigenvectors slow to find.
_MOST_IMAGES, _MOST_LARGE_IMAGES, _LARGE = 20_000, 4096, 4096


def guided(
    spec: Diffusion,
    asked: Sample,
    unet: Conditioned,
    denoise: Denoiser,
    worse: Denoiser,
) -> Denoiser:
    """Lay around a denoiser what is asked for.

    With `classifier_scale` the data set is read, at the first use in a process.

    Args:
        spec: of the model.
        asked: how it is guided.
        unet: the network.
        denoise: the model.
        worse: a worse version of it, for autoguidance; not called without.
    """
    interval = {"low": asked.guidance_low, "high": _end(asked.guidance_high)}
    if asked.autoguidance != 1:
        denoise = autoguidance(denoise, worse, asked.autoguidance, **interval)
    if asked.guidance_scale != 1:
        null = functools.partial(null_condition, unet.conditioners)
        denoise = _with_null(asked)(denoise, asked.guidance_scale, null, **interval)
    if asked.classifier_scale:
        if CLASSIFIED not in unet.conditioners:
            denoise = _for_classifier_alone(denoise)
        denoise = classifier_guidance(
            denoise,
            _classifier(spec.data, spec.codec),
            asked.classifier_scale,
        )
    if not clips(spec, asked):
        return denoise
    if asked.dynamic_percentile:
        return dynamic_threshold(denoise, asked.dynamic_percentile)
    return clip_x0(denoise)


def _with_null(asked: Sample) -> Callable[..., Denoiser]:
    """Choose how guidance goes away from the null condition."""
    if asked.guidance_optimized:
        return optimized_scale
    if asked.guidance_parallel != 1 or asked.guidance_norm is not None:
        return functools.partial(
            projected,
            parallel=asked.guidance_parallel,
            max_norm=_end(asked.guidance_norm),
        )
    return functools.partial(classifier_free, rescale=asked.guidance_rescale)


def clips(spec: Diffusion, asked: Sample) -> bool:
    """Say whether the predicted x0 is clamped: latents have no range to clamp to."""
    return asked.clip and spec.latents_run is None


def _end(high: float | None) -> float:
    return math.inf if high is None else high


def _for_classifier_alone(denoise: Denoiser) -> Denoiser:
    """Keep the label, which is for the classifier, from an unconditional network."""

    def without(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
        kept = {name: rows for name, rows in (cond or {}).items() if name != CLASSIFIED}
        return denoise(x_t, level, kept or None)

    return without


@functools.lru_cache(maxsize=1)
def _classifier(spec: Data, codec: CodecSpec) -> LogProb:
    """Fit the closed-form classifier to the data, as the chain has them."""
    source = spec.open()
    dims = math.prod(source.shape)
    most = _MOST_IMAGES if dims <= _LARGE else _MOST_LARGE_IMAGES
    items, labels = data.in_memory(source)
    assert labels is not None  # check_guidance has refused data without
    chosen = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    items, labels = items[chosen], labels[chosen]
    if spec.flip and data.is_image(source.shape, str(source.dtype)):
        items = np.concatenate([items, items[:, :, ::-1]])
        labels = np.concatenate([labels, labels])
    built = codec.build(source.shape, str(source.dtype))
    with jax.ensure_compile_time_eval():  # a program may be being traced
        x = np.asarray(built.encode(built.params, built.load(items)))
    # Directions that a few images happen to differ in say nothing of their class.
    rank = max(1, min(1024, len(chosen) // 4))
    return gaussian_classifier(x, labels, len(source.label_names or ()), rank=rank)


def check_guidance(spec: Diffusion, info: DataInfo, asked: Sample) -> None:
    """Refuse guidance that cannot work, before any compile.

    Raises:
        UserError: an option asks for what the model lacks.
    """
    if asked.autoguidance != 1 and asked.prompt_to:
        raise UserError(
            f"config.sample.autoguidance={asked.autoguidance:g} beside prompt_to: what "
            "lies between two prompts is encoded by one network, and autoguidance has "
            "two; leave one of them out."
        )
    if asked.guidance_scale != 1 and not is_droppable(spec, info):
        raise UserError(
            f"config.sample.guidance_scale={asked.guidance_scale}, but this model "
            "was trained without labels or text; use 1, or classifier_scale."
        )
    rates = (spec.condition_dropout, *spec.dropout_rates.values())
    if asked.guidance_scale != 1 and not any(rates):
        raise UserError(
            f"config.sample.guidance_scale={asked.guidance_scale} needs a model that "
            "has also been trained without labels or text; use 1, or train with "
            "config.condition_dropout above 0, such as 0.1."
        )
    if asked.classifier_scale and info.label_names is None:
        raise UserError(
            f"config.sample.classifier_scale={asked.classifier_scale}, but "
            f"{info.name} has no labels; sort the images into one folder per class, or "
            "use 0."
        )
