"""The two likelihoods: what to compute of a batch, as one program."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.assembly.conditions import encode
from ddpm_jax.assembly.idle import refuse_idle
from ddpm_jax.assembly.latents import refuse_embeddings, refuse_latents
from ddpm_jax.assembly.sampling import check_variance, denoiser
from ddpm_jax.assembly.sizes import check_batch_memory
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.diffusion import ode_likelihood as ode
from ddpm_jax.diffusion.denoisers import Cond
from ddpm_jax.diffusion.generate import fold_each, image_keys
from ddpm_jax.diffusion.grids import grid, linear_steps
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.diffusion.variational_bound import variational_bound
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Likelihood, Sample
from ddpm_jax.runtime.images import to_float
from ddpm_jax.tasks.diffusion import Diffusion

Measure = Callable[[Any, jax.Array, Any, Any, Any], dict[str, jax.Array]]
"""(params, key, indices [B], bytes [B, H, W, C], cond) -> arrays [B, ...]."""

_NOISE, _DEQUANTIZE, _PROBES = 0, 1, 2  # each image's key, by purpose


def bound_times(spec: Diffusion, asked: Likelihood) -> np.ndarray:
    """List the t of the bound's terms, rising: int [N]; all T, or N evenly spaced."""
    T = spec.schedule.num_levels
    return linear_steps(T, asked.num_steps or T)


def measure(
    spec: Diffusion, asked: Likelihood, unet: Conditioned, method: str
) -> Measure:
    """Build the evaluation of a batch by one of `requests.likelihood.METHODS`.

    Returns:
        For "bound" a function to prior [B] and steps, x0_mse, eps_mse [B, T]; for "ode"
        to bits [B] and num_calls [B].
    """
    table = {"bound": _bound, "ode": _ode}
    return table[method](spec, asked, unet)


def _bound(spec: Diffusion, asked: Likelihood, unet: Conditioned) -> Measure:
    variance = VARIANCES[asked.variance or spec.variance]
    num_steps = len(bound_times(spec, asked))
    levels = grid(spec.schedule.build(), num_steps, linear_steps)

    def evaluate(
        params: Any,
        key: jax.Array,
        indices: jax.Array,
        images: jax.Array,
        cond: Cond,
    ) -> dict[str, jax.Array]:
        bound = variational_bound(
            fold_each(image_keys(key, indices), _NOISE),
            denoiser(spec, Sample(clip=asked.clip), unet, params),
            to_float(images),
            levels,
            variance=variance,
            cond=encode(unet, params, cond),
        )
        return {name: leaf.T for name, leaf in bound._asdict().items()}

    return evaluate


def _ode(spec: Diffusion, asked: Likelihood, unet: Conditioned) -> Measure:
    the_schedule, T = spec.schedule.build(), spec.schedule.num_levels
    start, end = (the_schedule.at(jnp.asarray(t)) for t in (0, T - 1))
    if end.alpha == 0:  # pure noise lies infinitely far away; the level before is near
        end = the_schedule.at(jnp.asarray(T - 2))
    if asked.ode_steps is None:
        solve = ode.adaptive(rtol=asked.rtol, atol=asked.atol)
    else:
        solve = ode.runge_kutta(asked.ode_steps)

    def evaluate(
        params: Any,
        key: jax.Array,
        indices: jax.Array,
        images: jax.Array,
        cond: Cond,
    ) -> dict[str, jax.Array]:
        keys = image_keys(key, indices)
        is_bytes = images.dtype == jnp.uint8
        data = images
        if is_bytes:
            data = ode.dequantize(fold_each(keys, _DEQUANTIZE), to_float(images))
        if asked.num_probes:
            keys = fold_each(keys, _PROBES)
            probes = ode.sign_probes(keys, data, asked.num_probes)
        else:
            probes = ode.exact_probes(data)
        flow = ode.follow_flow(
            denoiser(spec, Sample(clip=False), unet, params),
            data,
            start,
            end,
            schedule=the_schedule,
            probes=probes,
            solve=solve,
            cond=encode(unet, params, cond),
        )
        # Floating point has no bins: its bits are those of the density itself.
        bits = -flow.log_density / math.log(2.0)
        if is_bytes:
            bits = ode.bits_of_density(flow.log_density)
        return {"bits": bits, "num_calls": flow.num_calls}

    return evaluate


def check_likelihood(spec: Diffusion, info: DataInfo, asked: Likelihood) -> None:
    """Refuse what cannot be measured of a model, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    refuse_latents(spec, "bits per dimension")
    refuse_embeddings(spec, "bits per dimension")
    if spec.map_name:
        raise UserError(
            f"the model draws from a picture ({spec.map_name}), and says how likely an "
            "image is only beside one; give a model without."
        )
    check_variance(spec, "likelihood.variance", asked.variance)
    T = spec.schedule.num_levels
    if asked.num_steps is not None and not 2 <= asked.num_steps <= T:
        raise UserError(
            f"config.likelihood.num_steps={asked.num_steps} is not in 2..T; use 2 to "
            f"{T}."
        )
    refuse_idle(spec, asked)
    check_batch_memory("likelihood", asked.batch_size, info.item_shape)
