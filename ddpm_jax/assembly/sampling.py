"""The parts of sampling: denoiser, sampler, levels, of a model and a request."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.assembly.guidance import guided
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioned import as_network as network
from ddpm_jax.conditioning.self_conditioning import NAME
from ddpm_jax.diffusion import grids, karras, multistep, ode, samplers
from ddpm_jax.diffusion.denoisers import Denoiser, from_network
from ddpm_jax.diffusion.few_steps import JUMP, jumping
from ddpm_jax.diffusion.guidance import zero_init
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.diffusion.self_conditioning import self_conditioned
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Sample
from ddpm_jax.requests.options import section_counts

SPACINGS = {
    "trailing": grids.trailing_steps,
    "leading": grids.leading_steps,
    "linear": grids.linear_steps,
    "quadratic": grids.quadratic_steps,
}
CONTINUOUS_GRIDS = {"karras": grids.karras_grid, "logsnr": grids.logsnr_grid}
"""With `SPACINGS`, by the names that a request may use."""


def denoiser(
    spec: Diffusion, asked: Sample, unet: Conditioned, params: Any, worse: Any = None
) -> Denoiser:
    """Build the denoiser that samplers see, guidance and clipping included.

    Args:
        spec: of the model.
        asked: how it is guided.
        unet: the network.
        params: of the network.
        worse: parameters that autoguidance goes away from; None without.
    """

    def of(params: Any) -> Denoiser:
        return from_network(
            network(unet),
            params,
            spec.parameterization,
            learns_variance=spec.learns_variance,
        )

    built = guided(spec, asked, unet, of(params), of(worse))
    if asked.zero_init_steps:
        return zero_init(built, _noisier_than(spec, asked, asked.zero_init_steps))
    return built


def _noisier_than(spec: Diffusion, asked: Sample, count: int) -> jax.Array:
    """Return a sigma / alpha between the first levels of a chain and the next one."""
    level = levels(spec, asked)
    angles = jnp.arctan2(level.sigma, level.alpha)  # finite, also of pure noise
    return jnp.tan((angles[count - 1] + angles[count]) / 2)


SAMPLERS: Mapping[str, Callable[[Diffusion, Sample], samplers.Sampler]] = {
    "ancestral": lambda spec, asked: samplers.ancestral(
        VARIANCES[asked.variance or spec.variance]
    ),
    "ddim": lambda spec, asked: samplers.ddim(asked.eta),
    "euler": lambda spec, asked: karras.euler(_churn(spec, asked)),
    "heun": lambda spec, asked: karras.heun(_churn(spec, asked)),
    "adaptive": lambda spec, asked: ode.adaptive(
        spec.schedule.build(), rtol=asked.rtol, atol=asked.atol
    ),
    "dpmpp_2m": lambda spec, asked: multistep.dpmpp_2m(),
    "dpmpp_3m": lambda spec, asked: multistep.dpmpp_3m(),
    "dpmpp_2m_sde": lambda spec, asked: multistep.dpmpp_2m_sde(),
    "unipc": lambda spec, asked: multistep.unipc(),
    "unipc_3": lambda spec, asked: multistep.unipc(3),
    "pndm": lambda spec, asked: multistep.pndm(),
    "consistency": lambda spec, asked: samplers.consistency(),
}
"""By the names that a request may use: (model, request) -> sampler."""


_JUMPING = ("ddim", "consistency")  # the others want the velocity at one level


def sampler(spec: Diffusion, asked: Sample) -> samplers.Sampler:
    """Build the sampler that is asked for."""
    built = SAMPLERS[asked.sampler](spec, asked)
    if JUMP in spec.conditioners and asked.sampler in _JUMPING:
        schedule = spec.schedule.build()
        with jax.ensure_compile_time_eval():
            clean_t = float(schedule.at(jnp.asarray(-1)).t)
        return jumping(built, clean_t if asked.sampler == "consistency" else None)
    return self_conditioned(built) if NAME in spec.conditioners else built


def check_variance(spec: Diffusion, option: str, variance: str | None) -> None:
    """Refuse a variance that the network does not predict.

    Args:
        spec: of the model.
        option: that asks for it, such as "sample.variance".
        variance: None for that of the model.

    Raises:
        UserError: naming the others.
    """
    if variance == "learned" and not spec.learns_variance:
        raise UserError(
            f"config.{option}='learned', but the network predicts none; use small or "
            "large."
        )


def levels(spec: Diffusion, asked: Sample) -> Level:
    """Lay out the levels that a chain visits, [N + 1].

    Raises:
        UserError: if the spacing does not fit the steps or the schedule.
    """
    schedule, steps = spec.schedule.build(), num_steps(spec, asked)
    if asked.spacing in CONTINUOUS_GRIDS:
        return CONTINUOUS_GRIDS[asked.spacing](schedule, steps)
    sections = section_counts(asked.spacing)
    return grids.grid(
        schedule,
        steps,
        grids.section_steps(sections) if sections else SPACINGS[asked.spacing],
    )


def num_steps(spec: Diffusion, asked: Sample) -> int:
    """Count the steps of a chain.

    Left unset it is all T, or what the sections add up to, or, for the adaptive method,
    whose grid decides nothing else, as many as the film has frames after the first.
    """
    T, sections = spec.schedule.num_levels, section_counts(asked.spacing)
    if asked.num_steps is not None:
        return asked.num_steps
    if sections:
        return sum(sections)
    if asked.sampler == "adaptive":
        return min(T, max(1, asked.film_frames - 1))
    return T


def _churn(spec: Diffusion, asked: Sample) -> karras.Churn | None:
    if asked.churn == 0:
        return None
    return karras.Churn(
        spec.schedule.build(),
        amount=asked.churn,
        num_steps=num_steps(spec, asked),
        low=asked.churn_low,
        high=math.inf if asked.churn_high is None else asked.churn_high,
        noise=asked.churn_noise,
    )
