"""From a config to the parts of training: schedule, network, objective, optimiser."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.build import names
from ddpm_jax.build.conditions import conditioners
from ddpm_jax.build.keys import init_key
from ddpm_jax.build.source import DataInfo
from ddpm_jax.build.translation import diffusion_spec, fit_spec, schedule_spec
from ddpm_jax.codecs import Start, as_they_are, from_bytes, from_moments
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioned import as_network as network
from ddpm_jax.conditioning.conditioner import training_condition
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.self_conditioning import self_condition_half
from ddpm_jax.diffusion.time_sampling import TimeSampler
from ddpm_jax.networks.unet import UNet
from ddpm_jax.tasks.diffusion import make_objective, summarize
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Objective, Task


def schedule(config: ConfigDict) -> Schedule:
    """Build the noise schedule."""
    return schedule_spec(config).build()


def dtype(config: ConfigDict) -> Any:
    """Return the dtype that the network computes in."""
    return names.DTYPES[config.model.dtype]


def model(config: ConfigDict, info: DataInfo) -> Conditioned:
    """Build the network with its conditioners, without parameters."""
    options = config.model
    learns_variance = config.diffusion.variance == "learned"
    unet = UNet(
        out_channels=info.shape[-1] * (2 if learns_variance else 1),
        channels=options.channels,
        channel_multipliers=tuple(options.channel_multipliers),
        num_res_blocks=options.num_res_blocks,
        attention_resolutions=tuple(options.attention_resolutions),
        num_heads=options.num_heads,
        head_channels=options.head_channels,
        dropout=options.dropout,
        scale_shift=options.scale_shift,
        num_groups=options.num_groups,
        norm_epsilon=options.norm_epsilon,
        frequency_shift=options.frequency_shift,
        downsample_padding=options.downsample_padding,
        resample_blocks=options.resample_blocks,
        dtype=dtype(config),
        remat=options.remat,
        attend=names.ATTENTIONS[options.attention],
    )
    return Conditioned(unet, conditioners(config, info))


def init_params(config: ConfigDict, unet: Conditioned, info: DataInfo) -> Any:
    """Draw the initial parameters, a pure function of the seed."""
    x = jnp.zeros((1, *info.shape), jnp.float32)
    t = jnp.zeros((1,), jnp.float32)
    return jax.jit(unet.init)(init_key(config), x, t)["params"]


def objective(config: ConfigDict, unet: Conditioned, info: DataInfo) -> Objective:
    """Build what training descends."""
    spec = diffusion_spec(config)
    the_schedule = spec.schedule.build()
    self_conditioning = None
    if config.model.self_conditioning:
        self_conditioning = self_condition_half(
            spec.parameterization, learns_variance=spec.learns_variance
        )
    return make_objective(
        network(unet),
        the_schedule,
        spec.build_loss(the_schedule),
        start=start(config, info),
        condition=training_condition(
            conditioners(config, info), config.training.label_dropout
        ),
        times=spec.build_times(),
        self_conditioning=self_conditioning,
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
    return gradient_task(
        lambda: init_params(config, unet, info),
        objective(config, unet, info),
        optimizer,
        ema_target=config.training.ema_decay,
        mesh=mesh,
        ema_stds=tuple(config.training.ema_stds),
        memory=time_sampler(config).init(),
        num_parts=config.training.accumulate,
        summarize=summarize,
        preview=preview,
    )


def start(config: ConfigDict, info: DataInfo) -> Start:
    """Build what makes x0 of a training batch."""
    if info.latents is None and info.dtype != "uint8":
        return as_they_are
    if info.latents is None:
        return from_bytes(flip=config.data.flip and info.is_image)
    return from_moments(num_views(config))


def num_views(config: ConfigDict) -> int:
    """Count the pictures of each example that are encoded: it, and its mirror image."""
    return 2 if config.data.flip else 1


def time_sampler(config: ConfigDict) -> TimeSampler:
    """Build what draws training levels; its memory is part of the training state."""
    return diffusion_spec(config).build_times()


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """Build the learning rate as a function of the step."""
    return fit_spec(config).rate()


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Build the optimiser."""
    return fit_spec(config).transformation()
