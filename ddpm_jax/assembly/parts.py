"""From a config to the parts of training: schedule, network, objective, optimiser."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.assembly.conditions import conditioners
from ddpm_jax.assembly.keys import init_key
from ddpm_jax.assembly.programs import kept
from ddpm_jax.assembly.source import DataInfo, codec_spec
from ddpm_jax.assembly.translation import (
    diffusion_spec,
    fit_spec,
    read_node,
    schedule_spec,
)
from ddpm_jax.codecs import (
    AsStored,
    Start,
    as_they_are,
    encoded_start,
    from_bytes,
    from_moments,
)
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioned import as_network as network
from ddpm_jax.conditioning.conditioner import training_condition
from ddpm_jax.conditioning.self_conditioning import NAME
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.self_conditioning import self_condition_half
from ddpm_jax.diffusion.time_sampling import TimeSampler
from ddpm_jax.networks.ports import Network
from ddpm_jax.tasks.diffusion import make_objective, summarize
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Objective, Task


def schedule(config: ConfigDict) -> Schedule:
    """Build the noise schedule."""
    return schedule_spec(config).build()


def model(config: ConfigDict, info: DataInfo) -> Conditioned:
    """Build the network with its conditioners, without parameters."""
    learns_variance = config.variance == "learned"
    channels = info.shape[-1] * (2 if learns_variance else 1)
    spec = network_spec(config)
    return Conditioned(spec.clone(out_channels=channels), conditioners(config, info))


def network_spec(config: ConfigDict) -> Network:
    """Read the network, which is its own spec; see `read_node`."""
    return read_node(config, "network", Network)


def dtype(config: ConfigDict) -> str:
    """Return the dtype that the network computes in, if it has a choice."""
    found: str = config.network.get("dtype", "float32")
    return found


def init_params(config: ConfigDict, unet: Conditioned, info: DataInfo) -> Any:
    """Draw the initial parameters, a pure function of the seed."""
    x = jnp.zeros((1, *info.shape), jnp.float32)
    t = jnp.zeros((1,), jnp.float32)
    init = kept("init", config, info, lambda own: jax.jit(unet.init))
    return init(init_key(config.seed), x, t)["params"]


def objective(config: ConfigDict, unet: Conditioned, info: DataInfo) -> Objective:
    """Build what training descends."""
    spec = diffusion_spec(config)
    the_schedule = spec.schedule.build()
    self_conditioning = None
    if NAME in config.conditioners:
        self_conditioning = self_condition_half(
            spec.parameterization, learns_variance=spec.learns_variance
        )
    return make_objective(
        network(unet),
        the_schedule,
        spec.build_loss(the_schedule),
        start=start(config, info),
        condition=training_condition(
            conditioners(config, info), config.condition_dropout
        ),
        times=spec.build_times(),
        self_conditioning=self_conditioning,
        network_input=spec.parameterization.network_input,
    )


def diffusion_task(
    config: ConfigDict,
    unet: Conditioned,
    info: DataInfo,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    preview: Callable[[TrainState], Mapping[str, np.ndarray]] | None = None,
) -> Task:
    """Build the task of a diffusion model.

    Args:
        config: all of it.
        unet: the network.
        info: of the data.
        optimizer: optax's.
        mesh: the devices.
        preview: state -> pictures by name, uint8 [H, W, C]; None for none.
    """

    def draw() -> Any:
        return init_params(config, unet, info)

    def make(own: ConfigDict) -> Task:
        return gradient_task(
            draw,
            objective(own, unet, info),
            optimizer,
            ema_target=own.training.ema_decay,
            mesh=mesh,
            ema_stds=tuple(own.training.ema_stds),
            carry=time_sampler(own).init(),
            num_parts=own.training.accumulate,
            summarize=summarize,
        )

    task = kept("task", config, info, make, mesh=mesh, training=True)
    return task._replace(draw=draw, preview=preview)


def start(config: ConfigDict, info: DataInfo) -> Start:
    """Build what makes x0 of a training batch."""
    if info.latents is not None:
        return from_moments(num_views(config))
    spec = codec_spec(config)
    if not isinstance(spec, AsStored):
        return encoded_start(spec.build(info.item_shape, info.dtype))
    if info.dtype != "uint8":
        return as_they_are
    return from_bytes(flip=config.data.flip and info.is_image)


def num_views(config: ConfigDict) -> int:
    """Count the pictures of each example that are encoded: it, and its mirror image."""
    return 2 if config.data.flip else 1


def time_sampler(config: ConfigDict) -> TimeSampler:
    """Build what draws training levels; its carry is part of the training state."""
    return diffusion_spec(config).build_times()


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Build the optimiser."""
    return fit_spec(config).transformation()
