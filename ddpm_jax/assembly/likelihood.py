"""From a config to the two likelihoods: what to compute of a batch, as one program."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.assembly import names
from ddpm_jax.assembly.conditions import encode
from ddpm_jax.assembly.idle import LIKELIHOOD, refuse_idle
from ddpm_jax.assembly.latents import refuse_latents
from ddpm_jax.assembly.parts import schedule
from ddpm_jax.assembly.pictures import map_name
from ddpm_jax.assembly.sampling import denoiser
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.diffusion import ode_likelihood as ode
from ddpm_jax.diffusion.denoisers import Cond
from ddpm_jax.diffusion.generate import fold_each, image_keys
from ddpm_jax.diffusion.grids import grid, linear_steps
from ddpm_jax.diffusion.variational_bound import variational_bound
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import to_float
from ddpm_jax.runtime.keys import check_seed, root_key

METHODS = ("bound", "ode")

Measure = Callable[[Any, jax.Array, Any, Any, Any], dict[str, jax.Array]]
"""(params, key, indices [B], bytes [B, H, W, C], cond) -> arrays [B, ...]."""

_LIKELIHOOD = 3  # a purpose of the seed, besides those of `parts`
_NOISE, _DEQUANTIZE, _PROBES = 0, 1, 2  # each image's key, by purpose


def likelihood_key(config: ConfigDict) -> jax.Array:
    """Return the key that the images' keys are derived from."""
    seed = config.seed if config.likelihood.seed is None else config.likelihood.seed
    return jax.random.fold_in(root_key(seed), _LIKELIHOOD)


def likelihood_methods(method: str) -> tuple[str, ...]:
    """List what `config.likelihood.method` asks for."""
    return METHODS if method == "both" else (method,)


def bound_times(config: ConfigDict) -> np.ndarray:
    """List the t of the bound's terms, rising: int [N]; all T, or N evenly spaced."""
    T = config.schedule.num_levels
    return linear_steps(T, config.likelihood.num_steps or T)


def measure(config: ConfigDict, unet: Conditioned, method: str) -> Measure:
    """Build the evaluation of a batch.

    Returns:
        For "bound" a function to prior [B] and steps, x0_mse, eps_mse [B, T]; for "ode"
        to bits [B] and num_calls [B].
    """
    table = {"bound": _bound, "ode": _ode}
    return table[method](config, unet)


def _bound(config: ConfigDict, unet: Conditioned) -> Measure:
    options = config.likelihood
    variance = names.VARIANCES[options.variance or config.variance]
    levels = grid(schedule(config), len(bound_times(config)), linear_steps)

    def evaluate(
        params: Any,
        key: jax.Array,
        indices: jax.Array,
        images: jax.Array,
        cond: Cond,
    ) -> dict[str, jax.Array]:
        bound = variational_bound(
            fold_each(image_keys(key, indices), _NOISE),
            _denoiser(config, unet, params, clip=options.clip),
            to_float(images),
            levels,
            variance=variance,
            cond=encode(unet, params, cond),
        )
        return {name: leaf.T for name, leaf in bound._asdict().items()}

    return evaluate


def _ode(config: ConfigDict, unet: Conditioned) -> Measure:
    options, the_schedule = config.likelihood, schedule(config)
    T = config.schedule.num_levels
    start, end = (the_schedule.at(jnp.asarray(t)) for t in (0, T - 1))
    if end.alpha == 0:  # pure noise lies infinitely far away; the level before is near
        end = the_schedule.at(jnp.asarray(T - 2))
    if options.ode_steps is None:
        solve = ode.adaptive(rtol=options.rtol, atol=options.atol)
    else:
        solve = ode.runge_kutta(options.ode_steps)

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
        if options.num_probes:
            keys = fold_each(keys, _PROBES)
            probes = ode.sign_probes(keys, data, options.num_probes)
        else:
            probes = ode.exact_probes(data)
        flow = ode.follow_flow(
            _denoiser(config, unet, params, clip=False),
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


def _denoiser(config: ConfigDict, unet: Conditioned, params: Any, *, clip: bool) -> Any:
    chosen = config.copy_and_resolve_references()
    chosen.sample.clip = clip
    # A guided model is no distribution whose likelihood could be measured.
    chosen.sample.guidance_scale = 1.0
    chosen.sample.classifier_scale = 0.0
    chosen.sample.dynamic_percentile = 0.0
    return denoiser(chosen, unet, params)


def check_likelihood(config: ConfigDict) -> None:
    """Refuse options that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    options = config.likelihood
    refuse_latents(config, "bits per dimension")
    if map_name(config):
        raise UserError(
            f"the model draws from a picture ({map_name(config)}), and says how "
            "likely an image is only beside one; give a model without."
        )
    if options.method not in (*METHODS, "both"):
        raise UserError(
            f"config.likelihood.method={options.method!r} is not known; use bound, ode "
            "or both."
        )
    if options.variance not in (None, *names.VARIANCES):
        raise UserError(
            f"config.likelihood.variance={options.variance!r} is not known; use "
            f"{', '.join(names.VARIANCES)}."
        )
    if options.variance == "learned" and config.variance != "learned":
        raise UserError(
            "config.likelihood.variance='learned', but the network predicts none; use "
            "small or large."
        )
    lowest = {"num_images": 1, "batch_size": 1, "ode_steps": 1, "num_probes": 0}
    for name, least in lowest.items():
        if options[name] is not None and options[name] < least:
            raise UserError(
                f"config.likelihood.{name}={options[name]} is too small; use {least} "
                "or more."
            )
    T = config.schedule.num_levels
    if options.num_steps is not None and not 2 <= options.num_steps <= T:
        raise UserError(
            f"config.likelihood.num_steps={options.num_steps} is not in 2..T; use 2 to "
            f"{T}."
        )
    if options.seed is not None:
        check_seed("config.likelihood.seed", options.seed)
    refuse_idle(config, LIKELIHOOD)
    for name in ("rtol", "atol"):
        if not 1e-6 <= options[name] < math.inf:
            raise UserError(
                f"config.likelihood.{name}={options[name]} is out of reach in float32; "
                "use 1e-6 or more, such as 1e-4."
            )
