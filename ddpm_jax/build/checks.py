"""What cannot work is refused here, before anything is compiled."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.build import names
from ddpm_jax.build.asked import check_labels, check_prompts
from ddpm_jax.build.guidance import check_guidance
from ddpm_jax.build.idle import check_sampling_effects
from ddpm_jax.build.keys import check_seed
from ddpm_jax.build.latents import check_latents
from ddpm_jax.build.parts import schedule
from ddpm_jax.build.pictures import check_picture
from ddpm_jax.build.sampling import levels
from ddpm_jax.build.sizes import check_memory
from ddpm_jax.build.source import DataInfo
from ddpm_jax.build.translation import diffusion_spec, fit_spec
from ddpm_jax.config import check_ceilings
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.errors import UserError
from ddpm_jax.networks.unet import check_geometry
from ddpm_jax.runtime.devices import check_batch_size, data_mesh
from ddpm_jax.tasks.diffusion import Diffusion
from ddpm_jax.training.ema import MAX_STD

# Below this alpha the x0 of a predicted eps is mostly error, unless it is clamped.
_LEAST_SIGNAL = 1e-3
_MOST_PARTS = 1024  # of a batch, up to which those that fit are listed


def check(config: ConfigDict, info: DataInfo) -> None:
    """Refuse a config that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    check_ceilings(config)
    _check_names(config)
    spec = diffusion_spec(config)
    fit_spec(config)
    _check_numbers(config)
    _check_averages(config)
    check_latents(config, info)
    _check_model(config, info)
    _check_variance(config, spec)
    _check_signal(config)
    _check_sampling(config, info)
    check_memory(config, info)


def check_batch(config: ConfigDict, section: str = "training") -> None:
    """Refuse a section's training batch that devices and parts do not divide.

    Raises:
        UserError: naming the sizes that fit.
    """
    options, count = config[section], jax.device_count()
    size, parts = options.batch_size, options.get("accumulate", 1)
    check_batch_size(f"config.{section}.batch_size", size, count)
    if parts < 1 or size % (count * parts):
        most = min(size // count, _MOST_PARTS)
        fits = [str(n) for n in range(1, most + 1) if size // count % n == 0]
        raise UserError(
            f"config.{section}.accumulate={parts} does not divide the {size // count} "
            f"images of a batch on each device; use {', '.join(fits)}."
        )


def mesh(config: ConfigDict) -> Mesh:
    """Lay out the devices at hand as the config says.

    Raises:
        UserError: if they cannot be laid out so.
    """
    return data_mesh(config.mesh.fsdp)


def _check_names(config: ConfigDict) -> None:
    choices = {
        "model.dtype": names.DTYPES,
        "model.attention": names.ATTENTIONS,
        "sample.sampler": names.SAMPLERS,
        "sample.variance": (None, *VARIANCES),
    }
    for option, known in choices.items():
        section, name = option.split(".")
        value = config[section][name]
        if value not in known:
            listed = ", ".join(str(k) for k in known if k is not None)
            raise UserError(f"config.{option}={value!r} is not known; use {listed}.")


def _check_numbers(config: ConfigDict) -> None:
    at_least = {
        "training.sample_num_steps": 1,
        "model.num_res_blocks": 1,
        "model.num_heads": 1,
        "model.num_groups": 1,
        "data.on_device_mb": 0,
        "sample.num_images": 1,
        "sample.batch_size": 1,
        "sample.film_frames": 2,
        "sample.film_images": 1,
    }
    for option, lowest in at_least.items():
        section, name = option.split(".")
        if not config[section][name] >= lowest:
            raise UserError(
                f"config.{option}={config[section][name]} is too small; "
                f"use {lowest} or more."
            )
    _check_network_numbers(config)
    for option in (
        "model.dropout",
        "training.label_dropout",
    ):
        section, name = option.split(".")
        if not 0 <= config[section][name] < 1:
            raise UserError(
                f"config.{option}={config[section][name]} is not in [0, 1); "
                "use 0 to switch it off."
            )
    for option, seed in (("seed", config.seed), ("sample.seed", config.sample.seed)):
        if seed is not None:
            check_seed(f"config.{option}", seed)


def _check_network_numbers(config: ConfigDict) -> None:
    model = config.model
    if model.head_channels is not None and model.head_channels < 1:
        raise UserError(
            f"config.model.head_channels={model.head_channels} is too small; use 1 or "
            "more, or leave it out."
        )
    if not 0 < model.norm_epsilon < 1:
        raise UserError(
            f"config.model.norm_epsilon={model.norm_epsilon} is not in (0, 1); use a "
            "small number such as 1e-6."
        )
    for name in ("frequency_shift", "downsample_padding"):
        if model[name] not in (0, 1):
            raise UserError(
                f"config.model.{name}={model[name]} is not known; use 0, 1."
            )


def _check_averages(config: ConfigDict) -> None:
    std = config.sample.ema_std
    if std is not None and not 0 < std <= MAX_STD:
        raise UserError(
            f"config.sample.ema_std={std} is not in (0, {MAX_STD:.3f}]; it is the "
            "length of an average as a share of the run, such as 0.05."
        )
    if std is not None and not config.sample.ema:
        raise UserError(
            f"config.sample.ema_std={std} asks for averaged parameters and "
            "config.sample.ema=False for raw ones; leave one of them out."
        )


def _check_model(config: ConfigDict, info: DataInfo) -> None:
    if len(info.shape) != 3:
        shape = "x".join(map(str, info.shape))
        raise UserError(
            f"the U-Net takes items of height x width x channels, and those of "
            f"{info.name} are {shape}; use data of images, or train a network of your "
            "own with ddpm_jax.training.fit (docs/library.md)."
        )
    height, width, _ = info.shape
    check_geometry(
        height,
        width,
        channels=config.model.channels,
        channel_multipliers=config.model.channel_multipliers,
        attention_resolutions=config.model.attention_resolutions,
        num_heads=config.model.num_heads,
        head_channels=config.model.head_channels,
        num_groups=config.model.num_groups,
    )
    if config.model.attention == "cudnn":
        _check_cudnn(config)
    check_picture(config, info)
    if config.model.class_conditional and info.label_names is None:
        raise UserError(
            f"config.model.class_conditional=True, but {info.name} has no labels; sort "
            "the images into one folder per class, or set it to False."
        )


def _check_cudnn(config: ConfigDict) -> None:
    platform, dtype = jax.default_backend(), config.model.dtype
    if platform != "gpu" or dtype != "bfloat16":
        raise UserError(
            f"config.model.attention='cudnn' with {dtype} on {platform}; it needs "
            "bfloat16 on a GPU: set model.dtype so, or use plain."
        )


def _check_variance(config: ConfigDict, spec: Diffusion) -> None:
    if config.sample.variance == "learned" and not spec.learns_variance:
        raise UserError(
            "config.sample.variance='learned', but the network predicts none; use "
            "small or large."
        )
    if spec.schedule.ends_in_noise and config.sample.sampler == "adaptive":
        raise UserError(
            "config.sample.sampler='adaptive' cannot start from pure noise, in which "
            f"config.diffusion.schedule={config.diffusion.schedule!r} ends; use "
            "another, such as unipc, heun or ddim."
        )


def _check_signal(config: ConfigDict) -> None:
    """Refuse to divide by next to nothing where no clamp makes up for it."""
    noisiest = schedule(config).at(jnp.asarray(config.diffusion.num_levels - 1))
    told = config.diffusion.prediction == "eps" and config.data.latents
    if told and noisiest.alpha < _LEAST_SIGNAL:
        raise UserError(
            f"config.diffusion.schedule={config.diffusion.schedule!r} ends in a signal "
            f"of {noisiest.alpha:.1g}, by which eps divides what the network errs, and "
            "latents are not clamped; use prediction v or x0, or schedule linear."
        )


def _check_sampling(config: ConfigDict, info: DataInfo) -> None:
    T = config.diffusion.num_levels
    for option, value in (
        ("sample.num_steps", config.sample.num_steps),
        ("training.sample_num_steps", config.training.sample_num_steps),
    ):
        if value is not None and not 1 <= value <= T:
            raise UserError(f"config.{option}={value} is not in 1..T; use 1 to {T}.")
    if not 0 <= config.sample.eta <= 1:
        raise UserError(
            f"config.sample.eta={config.sample.eta} is not in [0, 1]; 0 is "
            "deterministic DDIM, 1 the ancestral sampler."
        )
    _check_churn_and_tolerance(config)
    check_guidance(config, info)
    levels(config)  # refuses a spacing that fits neither the steps nor the schedule
    check_sampling_effects(config)
    check_labels(config, info)
    check_prompts(config, info)


def _check_churn_and_tolerance(config: ConfigDict) -> None:
    options = config.sample
    if not 0 <= options.churn < math.inf:
        raise UserError(
            f"config.sample.churn={options.churn} is not 0 or more; 0 is the "
            "deterministic sampler."
        )
    if options.churn and options.sampler not in ("euler", "heun"):
        raise UserError(
            f"config.sample.churn={options.churn} does nothing with sampler "
            f"{options.sampler!r}; use euler or heun, or churn 0."
        )
    high = math.inf if options.churn_high is None else options.churn_high
    if not 0 <= options.churn_low <= high:
        raise UserError(
            f"config.sample.churn_low={options.churn_low} and churn_high={high} are no "
            "range of sigma / alpha; use 0 <= low <= high."
        )
    if not 0 < options.churn_noise < math.inf:
        raise UserError(
            f"config.sample.churn_noise={options.churn_noise} is not positive; 1 is as "
            "much noise as the level asks for."
        )
    for name in ("rtol", "atol"):
        if not 1e-6 <= options[name] < math.inf:
            raise UserError(
                f"config.sample.{name}={options[name]} is out of reach in float32; use "
                "1e-6 or more, such as 1e-4."
            )
