"""From a spec to the parts of training: network, objective, task."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from ddpm_jax.assembly.conditions import conditioners
from ddpm_jax.assembly.keys import init_key
from ddpm_jax.assembly.programs import kept
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.codecs import (
    Codec,
    Start,
    as_they_are,
    encoded_start,
    from_bytes,
    from_moments,
)
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioned import as_network as network
from ddpm_jax.conditioning.conditioner import null_condition, training_condition
from ddpm_jax.conditioning.self_conditioning import NAME
from ddpm_jax.diffusion.few_steps import FewStepLoss, FewStepSpec
from ddpm_jax.diffusion.self_conditioning import self_condition_half
from ddpm_jax.recipe import AsStored, Data, Diffusion, Fit
from ddpm_jax.tasks.diffusion import make_objective, summarize
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient_task, init_state
from ddpm_jax.training.task import Batch, Metrics, Objective, Step, Task


@dataclasses.dataclass(frozen=True)
class Model:
    """A diffusion model but for its parameters: what its programs are made of.

    Attributes:
        spec: what it is.
        info: what it knows of its data.
        unet: the network with its conditioners.
        codec: between items and the chain.
        mesh: the devices.
    """

    spec: Diffusion
    info: DataInfo
    unet: Conditioned
    codec: Codec
    mesh: Mesh


def model(spec: Diffusion, info: DataInfo) -> Conditioned:
    """Build the network with its conditioners, without parameters."""
    channels = info.shape[-1] * (2 if spec.learns_variance else 1)
    network = spec.network.clone(out_channels=channels)
    return Conditioned(network, conditioners(spec, info))


def dtype(spec: Diffusion) -> str:
    """Return the dtype that the network computes in, if it has a choice."""
    return getattr(spec.network, "dtype", "float32")


def init_params(spec: Diffusion, unet: Conditioned, info: DataInfo) -> Any:
    """Draw the initial parameters, a pure function of the seed."""
    x = jnp.zeros((1, *info.shape), jnp.float32)
    t = jnp.zeros((1,), jnp.float32)
    init = kept("init", spec, info, lambda: jax.jit(unet.init))
    return init(init_key(spec.seed), x, t)["params"]


def objective(
    spec: Diffusion, unet: Conditioned, info: DataInfo, fit: Fit | None = None
) -> Objective:
    """Build what training descends.

    Args:
        spec: what is trained.
        unet: the network with its conditioners.
        info: of the data.
        fit: how it is trained, for a loss of few steps; None for its defaults.
    """
    the_schedule = spec.schedule.build()
    self_conditioning = None
    if NAME in spec.conditioners:
        self_conditioning = self_condition_half(
            spec.parameterization, learns_variance=spec.learns_variance
        )
    encode = start(spec, info)

    def augmented(key: jax.Array, items: jax.Array) -> jax.Array:
        return spec.network.augment(key, encode(key, items))

    return make_objective(
        network(unet),
        the_schedule,
        spec.build_loss(the_schedule),
        start=augmented,
        condition=training_condition(
            conditioners(spec, info), spec.condition_dropout, spec.dropout_rates
        ),
        times=spec.build_times(),
        self_conditioning=self_conditioning,
        network_input=spec.parameterization.network_input,
        few_steps=few_steps(spec, info, Fit() if fit is None else fit),
    )


def few_steps(spec: Diffusion, info: DataInfo, fit: Fit) -> FewStepLoss | None:
    """Build the loss of few steps; None for a spec with another one.

    Its stages share the steps up to the first restart: more steps that are asked of a
    finished run are of the last stage.
    """
    return spec.build_few_steps(
        spec.schedule.build(),
        fit.restarts[0] if fit.restarts else fit.num_steps,
        partial(null_condition, conditioners(spec, info)),
    )


def init_carry(spec: Diffusion, info: DataInfo, fit: Fit, params: Any) -> Any:
    """Make what the objective carries into the first step, of the first parameters."""
    of_times, loss = spec.build_times().init(), few_steps(spec, info, fit)
    return of_times if loss is None else (of_times, loss.init(params))


def param_shapes(
    spec: Diffusion, info: DataInfo
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the shape of every parameter by its path, ("conv_in", "kernel")."""
    unet = model(spec, info)
    tree = jax.eval_shape(lambda: init_params(spec, unet, info))
    return traverse_util.flatten_dict(jax.tree.map(np.shape, tree))


def start_state(
    spec: Diffusion, info: DataInfo, fit: Fit, params: Any, step: int = 0
) -> TrainState:
    """Start a training at parameters, with a new optimizer and new averages.

    Args:
        spec: what is trained.
        info: of the data.
        fit: how.
        params: a tree of arrays.
        step: that they are of.
    """
    state = init_state(
        params,
        fit.transformation(),
        carry=init_carry(spec, info, fit, params),
        num_profiles=len(fit.ema_stds),
    )
    return dataclasses.replace(state, step=jnp.asarray(step, state.step.dtype))


def diffusion_task(
    spec: Diffusion,
    fit: Fit,
    info: DataInfo,
    mesh: Mesh,
    preview: Callable[[TrainState], Mapping[str, np.ndarray]] | None = None,
) -> Task:
    """Build the task of a diffusion model.

    Args:
        spec: what is trained.
        fit: how.
        info: of the data.
        mesh: the devices.
        preview: state -> pictures by name, uint8 [H, W, C]; None for none.
    """
    unet = model(spec, info)

    def draw() -> Any:
        return init_params(spec, unet, info)

    def make() -> Task:
        task = gradient_task(
            draw,
            objective(spec, unet, info, fit),
            fit.transformation(),
            ema_target=fit.ema_decay,
            mesh=mesh,
            ema_stds=fit.ema_stds,
            num_parts=fit.accumulate,
            summarize=summarize,
        )
        task = task._replace(start=lambda params: start_state(spec, info, fit, params))
        if isinstance(spec.loss, FewStepSpec):
            return task._replace(step=numbered(task.step))
        return task

    task = kept("task", spec, info, make, mesh=mesh, fit=fit)
    return task._replace(draw=draw, preview=preview)


def numbered(step: Step) -> Step:
    """Put its number into the batch of a step, as "step" [B]."""

    def with_number(
        state: TrainState, key: jax.Array, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        number = jnp.broadcast_to(state.step, batch["image"].shape[:1])
        return step(state, key, {**batch, "step": number})

    return with_number


def start(spec: Diffusion, info: DataInfo) -> Start:
    """Build what makes x0 of a training batch."""
    if info.latents is not None:
        return from_moments(num_views(spec.data))
    if not isinstance(spec.codec, AsStored):
        return encoded_start(spec.codec.build(info.item_shape, info.dtype))
    if info.dtype != "uint8":
        return as_they_are
    return from_bytes(flip=spec.data.flip and info.is_image)


def num_views(data: Data) -> int:
    """Count the pictures of each example that are encoded: it, and its mirror image."""
    return 2 if data.flip else 1
