"""Sampling plans: the model that the chains of a plan are made with."""

import dataclasses
from functools import partial
from typing import Any

from ddpm_jax.assembly.conditions import encode
from ddpm_jax.assembly.guidance import CLASSIFIED, clips
from ddpm_jax.assembly.sampling import denoiser, levels, sampler
from ddpm_jax.codecs import Codec
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioner import NEGATIVE
from ddpm_jax.diffusion.denoisers import Cond
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Request, Sample
from ddpm_jax.sampling.plan import Given, Model, Plan, sample_plan
from ddpm_jax.specs import to_json

NOT_COMPILED = frozenset(
    {
        *("run", "out", "step", "ema", "ema_std", "seed", "num_images", "batch_size"),
        *("label", "cond", "prompt", "negative_prompt", "prompt_to", "picture"),
        *("film_frames", "film_images", "image", "mask", "num_points"),
        *("source", "split"),
    }
)
"""Fields of requests that reach a compiled program through its arguments or the record
of the plan, or not at all."""


def compiled_options(spec: Diffusion, asked: Request) -> dict[str, Any]:
    """Return what of a request is built into a compiled program, as plain data.

    The classifier's guidance is fitted to the data, which are named with it.

    Args:
        spec: of the model.
        asked: the request.
    """
    stored = dataclasses.asdict(asked)
    options = {k: v for k, v in stored.items() if k not in NOT_COMPILED}
    if options.get("classifier_scale"):
        options["data"] = to_json(spec.data)
    return options


def condition(network: Conditioned, params: Any, given: Given) -> Cond:
    """Return the condition among what is given, None if there is none."""
    known = {*network.conditioners, NEGATIVE, CLASSIFIED}
    cond = {name: rows for name, rows in given.items() if name in known}
    return encode(network, params, cond)


def plan_model(
    spec: Diffusion, asked: Sample, unet: Conditioned, codec: Codec
) -> Model:
    """Describe what the chains of a plan are made with.

    Args:
        spec: of the model.
        asked: how chains are run.
        unet: the network.
        codec: of the model.
    """
    return Model(
        codec,
        levels(spec, asked),
        partial(sampler, spec, asked),
        partial(denoiser, spec, asked, unet),
        partial(condition, unet),
        clip=clips(spec, asked),
    )


def sampling_plan(
    spec: Diffusion, asked: Sample, unet: Conditioned, codec: Codec
) -> Plan:
    """Describe sampling from noise; as of `plan_model`."""
    return sample_plan(plan_model(spec, asked, unet, codec))
