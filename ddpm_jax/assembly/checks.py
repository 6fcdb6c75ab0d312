"""What cannot work is refused here, before anything is compiled."""

import jax
import jax.numpy as jnp

from ddpm_jax.assembly.conditions import conditioners
from ddpm_jax.assembly.guidance import check_guidance
from ddpm_jax.assembly.idle import check_ranges, of_parameters, refuse, refuse_idle
from ddpm_jax.assembly.labels_prompts import check_labels, check_prompts
from ddpm_jax.assembly.latents import check_latents, check_range
from ddpm_jax.assembly.pictures import check_picture
from ddpm_jax.assembly.sampling import check_variance, levels
from ddpm_jax.assembly.sizes import check_memory
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.diffusion.few_steps import JUMP
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Fit
from ddpm_jax.requests import Sample
from ddpm_jax.requests.options import Parameters
from ddpm_jax.runtime.devices import check_batch_size
from ddpm_jax.specs import kind_of, located
from ddpm_jax.training.ema import MAX_STD

# Below this alpha the x0 of a predicted eps is mostly error, unless it is clamped.
_LEAST_SIGNAL = 1e-3
_MOST_PARTS = 1024  # of a batch, up to which those that fit are listed


def check(spec: Diffusion, info: DataInfo) -> None:
    """Refuse a model that cannot work on such data, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    check_latents(spec, info)
    with located("config.network"):
        spec.network.check(info.shape)
    conditioners(spec, info)
    _check_signal(spec)
    _check_steps(spec, "preview_steps", spec.preview_steps)


def check_parameters(asked: Parameters) -> None:
    """Refuse the length of an average that no run can have, or of raw parameters.

    Raises:
        UserError: naming the longest, or both options.
    """
    refuse(asked, of_parameters(asked))
    if asked.ema_std is not None and not 0 < asked.ema_std <= MAX_STD:
        raise UserError(
            f"config.sample.ema_std={asked.ema_std} is not in (0, {MAX_STD:.3f}]; it "
            "is the length of an average as a share of the run, such as 0.05."
        )


def check_sample(spec: Diffusion, info: DataInfo, asked: Sample) -> None:
    """Refuse a request that a model cannot answer, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    check_parameters(asked)
    check_range(info, asked)
    check_picture(spec, asked)
    _check_choices(spec, asked)
    _check_steps(spec, "sample.num_steps", asked.num_steps)
    check_guidance(spec, info, asked)
    refuse_idle(spec, asked)
    levels(spec, asked)  # refuses a spacing that fits neither the steps nor schedule
    check_ranges(spec, asked)
    check_labels(spec, info, asked)
    check_prompts(spec, info, asked)
    check_memory(spec, info, asked)


def check_batch(fit: Fit) -> None:
    """Refuse a training batch that devices and parts do not divide.

    Raises:
        UserError: naming the sizes that fit.
    """
    count = jax.device_count()
    size, parts = fit.batch_size, fit.accumulate
    check_batch_size("config.training.batch_size", size, count)
    if parts < 1 or size % (count * parts):
        most = min(size // count, _MOST_PARTS)
        fits = [str(n) for n in range(1, most + 1) if size // count % n == 0]
        raise UserError(
            f"config.training.accumulate={parts} does not divide the {size // count} "
            f"images of a batch on each device; use {', '.join(fits)}."
        )


def _check_choices(spec: Diffusion, asked: Sample) -> None:
    check_variance(spec, "sample.variance", asked.variance)
    if JUMP in spec.conditioners and asked.sampler == "ddim" and asked.eta:
        raise UserError(
            f"config.sample.eta={asked.eta} noises anew what this model, of average "
            "velocities, goes to in one step; use eta 0, or sampler consistency."
        )
    if spec.schedule.ends_in_noise and asked.sampler == "adaptive":
        raise UserError(
            "config.sample.sampler='adaptive' cannot start from pure noise, in which "
            f"config.schedule.kind={kind_of(spec.schedule)!r} ends; use another, such "
            "as unipc, heun or ddim."
        )


def _check_signal(spec: Diffusion) -> None:
    """Refuse to divide by next to nothing where no clamp makes up for it."""
    if spec.prediction != "eps" or spec.latents_run is None:
        return
    schedule = spec.schedule.build()
    noisiest = schedule.at(jnp.asarray(schedule.num_levels - 1))
    if noisiest.alpha < _LEAST_SIGNAL:
        raise UserError(
            f"config.schedule.kind={kind_of(spec.schedule)!r} ends in a signal of "
            f"{noisiest.alpha:.1g}, by which eps divides what the network errs, and "
            f"latents are not clamped; use prediction {spec.velocity} or x0, or "
            "schedule linear."
        )


def _check_steps(spec: Diffusion, option: str, steps: int | None) -> None:
    T = spec.schedule.num_levels
    if steps is not None and not 1 <= steps <= T:
        raise UserError(f"config.{option}={steps} is not in 1..T; use 1 to {T}.")
