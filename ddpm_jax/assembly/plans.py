"""From a config to sampling plans: the model that a plan's chains are made with."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.assembly.conditions import encode
from ddpm_jax.assembly.guidance import CLASSIFIED, clips
from ddpm_jax.assembly.sampling import denoiser, levels, sampler
from ddpm_jax.codecs import Codec
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioner import NEGATIVE
from ddpm_jax.diffusion.denoisers import Cond
from ddpm_jax.sampling.plan import Given, Model, Plan, sample_plan
from ddpm_jax.specs import to_json

# Options that reach a compiled program through its arguments or the record of the plan,
# or not at all.
NOT_COMPILED: Mapping[str, frozenset[str]] = {
    "sample": frozenset(
        {
            *("labels", "cond", "prompt", "negative_prompt", "prompt_to", "picture"),
            *("seed", "num_images", "batch_size", "film_frames", "film_images"),
            *("step", "ema", "ema_std"),
        }
    ),
    "edit": frozenset({"image", "mask", "num_images", "num_points"}),
    "likelihood": frozenset({"source", "split", "seed", "num_images", "batch_size"}),
}


def compiled_options(config: ConfigDict, *sections: str) -> dict[str, Any]:
    """Return the options of requests that are built into a compiled program.

    The classifier's guidance is fitted to the data, which are named with it.

    Args:
        config: all of it.
        sections: those beside `sample`.
    """
    stored = to_json(config)
    options = {
        name: {k: v for k, v in stored[name].items() if k not in NOT_COMPILED[name]}
        for name in ("sample", *sections)
    }
    if config.sample.classifier_scale:
        options["data"] = stored["data"]
    return options


def condition(network: Conditioned, params: Any, given: Given) -> Cond:
    """Return the condition among what is given, None if there is none."""
    known = {*network.conditioners, NEGATIVE, CLASSIFIED}
    cond = {name: rows for name, rows in given.items() if name in known}
    return encode(network, params, cond)


def plan_model(config: ConfigDict, unet: Conditioned, codec: Codec) -> Model:
    """Describe what the chains of a plan are made with.

    Args:
        config: its `sample` says how chains are run.
        unet: the network.
        codec: of the model.
    """
    return Model(
        codec,
        levels(config),
        partial(sampler, config),
        partial(denoiser, config, unet),
        partial(condition, unet),
        clip=clips(config),
    )


def sampling_plan(config: ConfigDict, unet: Conditioned, codec: Codec) -> Plan:
    """Describe sampling from noise, as `config.sample` says; as of `plan_model`."""
    return sample_plan(plan_model(config, unet, codec))
