"""What cannot work is refused here, before anything is compiled."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.assembly.conditions import conditioners
from ddpm_jax.assembly.guidance import check_guidance
from ddpm_jax.assembly.idle import check_sampling_effects
from ddpm_jax.assembly.labels_prompts import check_labels, check_prompts
from ddpm_jax.assembly.latents import check_latents
from ddpm_jax.assembly.parts import network_spec
from ddpm_jax.assembly.pictures import check_picture
from ddpm_jax.assembly.sampling import SAMPLERS, levels
from ddpm_jax.assembly.sizes import check_ceilings, check_memory
from ddpm_jax.assembly.source import DataInfo, latents_run
from ddpm_jax.assembly.translation import diffusion_spec, fit_spec
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import check_batch_size, data_mesh
from ddpm_jax.runtime.keys import check_seed
from ddpm_jax.specs import located
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
    spec = diffusion_spec(config)
    fit_spec(config)
    _check_asked(config)
    check_latents(config, info)
    network = network_spec(config)
    with located("config.network"):
        network.check(info.shape)
    conditioners(config, info)
    check_picture(config)
    _check_variance(config, spec)
    _check_signal(config, spec)
    _check_sampling(config, spec, info)
    check_memory(config, info)


def check_batch(config: ConfigDict) -> None:
    """Refuse a training batch that devices and parts do not divide.

    Raises:
        UserError: naming the sizes that fit.
    """
    options, count = config.training, jax.device_count()
    size, parts = options.batch_size, options.accumulate
    check_batch_size("config.training.batch_size", size, count)
    if parts < 1 or size % (count * parts):
        most = min(size // count, _MOST_PARTS)
        fits = [str(n) for n in range(1, most + 1) if size // count % n == 0]
        raise UserError(
            f"config.training.accumulate={parts} does not divide the {size // count} "
            f"images of a batch on each device; use {', '.join(fits)}."
        )


def mesh(config: ConfigDict) -> Mesh:
    """Lay out the devices at hand as the config says.

    Raises:
        UserError: if they cannot be laid out so.
    """
    return data_mesh(config.devices.fsdp)


def _check_asked(config: ConfigDict) -> None:
    """Refuse what is asked for in names or numbers that cannot be."""
    options = config.sample
    choices = {"sampler": SAMPLERS, "variance": (None, *VARIANCES)}
    for name, known in choices.items():
        if options[name] not in known:
            listed = ", ".join(str(k) for k in known if k is not None)
            raise UserError(
                f"config.sample.{name}={options[name]!r} is not known; use {listed}."
            )
    at_least = {"num_images": 1, "batch_size": 1, "film_frames": 2, "film_images": 1}
    for name, lowest in at_least.items():
        if not options[name] >= lowest:
            raise UserError(
                f"config.sample.{name}={options[name]} is too small; use {lowest} or "
                "more."
            )
    if options.seed is not None:
        check_seed("config.sample.seed", options.seed)
    _check_averages(config)


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


def _check_variance(config: ConfigDict, spec: Diffusion) -> None:
    if config.sample.variance == "learned" and not spec.learns_variance:
        raise UserError(
            "config.sample.variance='learned', but the network predicts none; use "
            "small or large."
        )
    if spec.schedule.ends_in_noise and config.sample.sampler == "adaptive":
        raise UserError(
            "config.sample.sampler='adaptive' cannot start from pure noise, in which "
            f"config.schedule.kind={config.schedule.kind!r} ends; use "
            "another, such as unipc, heun or ddim."
        )


def _check_signal(config: ConfigDict, spec: Diffusion) -> None:
    """Refuse to divide by next to nothing where no clamp makes up for it."""
    if spec.prediction != "eps" or latents_run(config) is None:
        return
    schedule = spec.schedule.build()
    noisiest = schedule.at(jnp.asarray(schedule.num_levels - 1))
    if noisiest.alpha < _LEAST_SIGNAL:
        raise UserError(
            f"config.schedule.kind={config.schedule.kind!r} ends in a signal of "
            f"{noisiest.alpha:.1g}, by which eps divides what the network errs, and "
            f"latents are not clamped; use prediction {spec.velocity} or x0, or "
            "schedule linear."
        )


def _check_sampling(config: ConfigDict, spec: Diffusion, info: DataInfo) -> None:
    T = spec.schedule.num_levels
    for option, value in (
        ("sample.num_steps", config.sample.num_steps),
        ("preview_steps", config.preview_steps),
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
