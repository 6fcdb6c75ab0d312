"""From a config to the parts of sampling: denoiser, sampler, levels."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.assembly import names
from ddpm_jax.assembly.guidance import guided
from ddpm_jax.assembly.parts import network, schedule
from ddpm_jax.assembly.translation import diffusion_spec
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.self_conditioning import NAME
from ddpm_jax.diffusion import karras, multistep, ode, samplers
from ddpm_jax.diffusion.denoisers import Denoiser, from_network
from ddpm_jax.diffusion.grids import grid, section_steps
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.diffusion.self_conditioning import self_conditioned
from ddpm_jax.errors import UserError


def denoiser(config: ConfigDict, unet: Conditioned, params: Any) -> Denoiser:
    """Build the denoiser that samplers see, guidance and clipping included."""
    built = from_network(
        network(unet),
        params,
        diffusion_spec(config).parameterization,
        learns_variance=config.variance == "learned",
    )
    return guided(config, unet, built)


SAMPLERS: Mapping[str, Callable[[ConfigDict], samplers.Sampler]] = {
    "ancestral": lambda config: samplers.ancestral(
        names.VARIANCES[config.sample.variance or config.variance]
    ),
    "ddim": lambda config: samplers.ddim(config.sample.eta),
    "euler": lambda config: karras.euler(_churn(config)),
    "heun": lambda config: karras.heun(_churn(config)),
    "adaptive": lambda config: ode.adaptive(
        schedule(config), rtol=config.sample.rtol, atol=config.sample.atol
    ),
    "dpmpp_2m": lambda config: multistep.dpmpp_2m(),
    "dpmpp_3m": lambda config: multistep.dpmpp_3m(),
    "dpmpp_2m_sde": lambda config: multistep.dpmpp_2m_sde(),
    "unipc": lambda config: multistep.unipc(),
    "unipc_3": lambda config: multistep.unipc(3),
    "pndm": lambda config: multistep.pndm(),
}
"""By the names that `config.sample.sampler` may have: config -> sampler."""


def sampler(config: ConfigDict) -> samplers.Sampler:
    """Build the sampler of `config.sample`."""
    built = SAMPLERS[config.sample.sampler](config)
    is_self_conditioned = NAME in config.conditioners
    return self_conditioned(built) if is_self_conditioned else built


def levels(config: ConfigDict) -> Level:
    """Lay out the levels that `config.sample` visits, [N + 1].

    Raises:
        UserError: if the spacing is not known, or does not fit the steps or schedule.
    """
    steps, spacing = num_steps(config), config.sample.spacing
    if spacing in names.CONTINUOUS_GRIDS:
        return names.CONTINUOUS_GRIDS[spacing](schedule(config), steps)
    sections = _sections(spacing)
    return grid(
        schedule(config),
        steps,
        section_steps(sections) if sections else names.SPACINGS[spacing],
    )


def num_steps(config: ConfigDict) -> int:
    """Count the steps of `config.sample`.

    Left unset it is all T, or what the sections add up to, or, for the adaptive method,
    whose grid decides nothing else, as many as the film has frames after the first.

    Raises:
        UserError: if the spacing is not known.
    """
    options, T = config.sample, config.schedule.num_levels
    sections = _sections(options.spacing)
    if options.num_steps is not None:
        return options.num_steps
    if sections:
        return sum(sections)
    if options.sampler == "adaptive":
        return min(T, max(1, options.film_frames - 1))
    return T


def _sections(spacing: str) -> tuple[int, ...] | None:
    """Read "sections:10,10,20"; None for the spacings that are one word."""
    if spacing in names.SPACINGS or spacing in names.CONTINUOUS_GRIDS:
        return None
    word, _, listed_counts = spacing.partition(":")
    counts = [count.strip() for count in listed_counts.split(",")]
    if word != "sections" or not all(c.isdecimal() and int(c) for c in counts):
        listed = ", ".join([*names.SPACINGS, *names.CONTINUOUS_GRIDS])
        raise UserError(
            f"config.sample.spacing={spacing!r} is not known; use {listed}, or steps "
            "by section from the image to the noise, such as sections:20,10,10."
        )
    return tuple(int(count) for count in counts)


def _churn(config: ConfigDict) -> karras.Churn | None:
    options = config.sample
    if options.churn == 0:
        return None
    return karras.Churn(
        schedule(config),
        amount=options.churn,
        num_steps=num_steps(config),
        low=options.churn_low,
        high=math.inf if options.churn_high is None else options.churn_high,
        noise=options.churn_noise,
    )
