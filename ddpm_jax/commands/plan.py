"""What a run will take, before it starts: parameters, operations, memory, hours."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.assembly.auxiliary import DIFFUSION, refuse_another_kind
from ddpm_jax.commands.begin import check_defaults
from ddpm_jax.commands.encoding import moments_shape, runs_of
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.errors import UserError
from ddpm_jax.networks.activation_memory import num_bytes, saved_bytes
from ddpm_jax.networks.cost import count_flops
from ddpm_jax.recipe import Diffusion, Fit, Recipe, UNet
from ddpm_jax.runtime import capacity
from ddpm_jax.runtime.capacity import format_bytes
from ddpm_jax.runtime.devices import data_mesh, describe, replicated, rows, spread
from ddpm_jax.training.step import compile_step

# Of the rate of matrix products, the part that training is assumed to reach.
ASSUMED_SHARE = 0.3
_MEASURE_BELOW = 3.0  # estimated seconds a step, up to which real ones are tried
_NUM_MEASURED = 3  # steps
_MATMUL_SIDE = 1024
_USABLE = 0.9  # of a device's memory
_BEYOND = 2  # times a device's memory, which no compiler makes up for
_OF_THE_LEAST = 50  # times the least that a network may need, which it may need


class Cost(NamedTuple):
    """What can be said of a run without running it.

    Attributes:
        num_params: parameters of the network.
        forward_flops: operations of one image's forward pass.
        train_flops: operations of one image's part in a training step.
        param_bytes: the parameters.
        ema_bytes: all moving averages of them.
        optimizer_bytes: the optimiser's memory.
        image_bytes: what the backward pass needs of one image.
        num_images: that a device works on at the same time.
    """

    num_params: int
    forward_flops: int
    train_flops: int
    param_bytes: int
    ema_bytes: int
    optimizer_bytes: int
    image_bytes: int
    num_images: int = 0

    @property
    def batch_bytes(self) -> int:
        """What a device needs of its images."""
        return self.num_images * self.image_bytes

    @property
    def fixed_bytes(self) -> int:
        """What a device holds whatever the batch: state and gradients."""
        return 2 * self.param_bytes + self.ema_bytes + self.optimizer_bytes


def cost_of(spec: Diffusion, fit: Fit, info: DataInfo) -> Cost:
    """Work out what a run costs, from shapes alone; nothing is compiled.

    The state is exact. The backward pass is taken as twice the forward pass, and with
    `remat` as three times. What it needs of an image is what JAX would keep between the
    passes (`saved_bytes`), which compilers come near to but do not match.
    """
    unet = assembly.model(spec, info)
    state = jax.eval_shape(
        lambda: assembly.start_state(
            spec, info, fit, assembly.init_params(spec, unet, info)
        )
    )
    apply = assembly.network(unet)
    cond = assembly.example_condition(unet, info)
    x = jax.ShapeDtypeStruct((1, *info.shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)

    def forward(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return apply(params, x, t, cond)

    def training(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return apply(params, x, t, cond, jax.random.key(0))

    flops = count_flops(forward, state.params, x, t)
    return Cost(
        num_params=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        forward_flops=flops,
        train_flops=flops * (4 if getattr(spec.network, "remat", False) else 3),
        param_bytes=num_bytes(state.params),
        ema_bytes=num_bytes((state.ema_params, state.ema_profiles)),
        optimizer_bytes=num_bytes(state.opt_state),
        image_bytes=saved_bytes(training, state.params, x, t),
        num_images=_images_at_once(fit),
    )


def device_memory() -> int | None:
    """Return the bytes that a device may use, None if that is not known.

    The devices of a CPU share the machine's memory.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        total = capacity.machine_memory()
        return None if total is None else total // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")


def matmul_rate(dtype: Any) -> float:
    """Measure the operations a second that all devices together reach in products.

    The devices of a CPU share its cores, all of which one product uses.
    """
    side = _MATMUL_SIDE
    square = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.dot)
    product(square, square).block_until_ready()
    best, turns = math.inf, 0
    until = time.perf_counter() + 0.5
    while turns < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        product(square, square).block_until_ready()
        best, turns = min(best, time.perf_counter() - started), turns + 1
    alike = 1 if jax.default_backend() == "cpu" else jax.device_count()
    return alike * 2 * side**3 / best


def batch_that_fits(cost: Cost, memory: int, num_devices: int) -> int:
    """Return the largest batch, over all devices, that the memory is enough for."""
    left = int(memory * _USABLE) - cost.fixed_bytes
    return max(left // cost.image_bytes, 0) * num_devices


def plan(recipe: Recipe[Diffusion], workdir: Path) -> int:
    """Print what training by a recipe will take."""
    refuse_another_kind(workdir, DIFFUSION, "the plan")
    spec, fit = recipe.task, recipe.training
    source = spec.data.open()
    opened = runs_of(spec, workdir)
    info = assembly.data_info(source, spec, opened)
    assembly.check(spec, info)
    assembly.check_images(spec, source, opened)
    check_defaults(recipe, info)
    assembly.check_training_effects(spec, fit, info)
    assembly.check_batch(fit)
    cost = cost_of(spec, fit, info)
    shape = "x".join(map(str, info.item_shape))
    kind = "images" if info.is_image else f"{info.dtype} arrays"
    if info.latents is not None:
        shape += f", in latents of {'x'.join(map(str, info.shape))}"
    lines = [
        f"data      {info.name}, {len(source):,} {kind} of {shape}. {source.note}",
        f"network   {cost.num_params:,} parameters",
        f"work      {cost.forward_flops / 1e9:,.3g} GFLOP an image forward, "
        f"{cost.train_flops / 1e9:,.3g} in a training step "
        f"({cost.train_flops // cost.forward_flops} times; a multiply-add is 2)",
        f"device    {describe()}, {assembly.dtype(spec)}",
        *_memory(fit, cost),
    ]
    print("\n".join(line.rstrip() for line in lines), flush=True)
    seconds, how = _step_seconds(spec, fit, info, cost)
    print("\n".join(_time(fit, seconds, how, len(source))))
    return 0


def refuse_beyond_memory(
    spec: Diffusion, fit: Fit, num_shares: int, info: DataInfo
) -> None:
    """Refuse training that needs twice the memory there is, by what is known of it.

    The estimate is of what JAX keeps, of which a compiler may save some.

    Args:
        spec: what is trained.
        fit: how.
        num_shares: devices that share the parameters out among them.
        info: of the data.

    Raises:
        UserError: saying what is needed for what.
    """
    memory = device_memory()
    if memory is None or not _may_be_large(spec, fit, info, memory):
        return
    cost = cost_of(spec, fit, info)
    fixed, images = cost.fixed_bytes // num_shares, cost.batch_bytes
    if fixed + images <= _BEYOND * memory:
        return
    left = max(int(memory * _USABLE) - fixed, 0)
    fits = left // cost.image_bytes * jax.device_count() * fit.accumulate
    what = (
        f"use config.training.batch_size={fits} or less, or "
        "config.network.remat=True and config.training.accumulate"
        if fits
        else "use smaller images or a smaller network, or share it by "
        "config.devices.fsdp"
    )
    raise UserError(
        f"training needs about {format_bytes(fixed + images)} on a device of "
        f"{format_bytes(memory)}: "
        f"{format_bytes(fixed)} for parameters, averages and optimiser, "
        f"{format_bytes(images)} for "
        f"{cost.num_images} images at a time; {what}."
    )


def _may_be_large(spec: Diffusion, fit: Fit, info: DataInfo, memory: int) -> bool:
    """Say whether it is worth the seconds that `cost_of` takes."""
    net = spec.network
    if not isinstance(net, UNet):
        return True
    widths = [net.channels * m for m in net.channel_multipliers]
    kernels = sum(2 * 9 * width**2 for width in widths) * net.num_res_blocks
    state = 4 * (5 + len(fit.ema_stds)) * kernels
    images = _images_at_once(fit) * assembly.least_bytes(spec, info)
    return _OF_THE_LEAST * (state + images) > memory


def short_plan(spec: Diffusion, fit: Fit, info: DataInfo) -> list[str]:
    """Say in two lines what training will take, as an estimate."""
    cost = cost_of(spec, fit, info)
    seconds, how = _estimate(spec, fit, cost)
    needed, memory = cost.fixed_bytes + cost.batch_bytes, device_memory()
    of = f" of {format_bytes(memory)}" if memory else ""
    hours = seconds * fit.num_steps / 3600
    return [
        f"memory   about {format_bytes(needed)} a device{of}",
        f"time     about {_hours(hours)} for {fit.num_steps:,} steps ({how})",
    ]


def _images_at_once(fit: Fit) -> int:
    """How many images a device works on at the same time."""
    return -(-fit.batch_size // (jax.device_count() * fit.accumulate))


def _memory(fit: Fit, cost: Cost) -> list[str]:
    images = cost.batch_bytes
    lines = [
        f"memory    {format_bytes(cost.fixed_bytes + images)} a device:",
        f"          {format_bytes(cost.fixed_bytes)} exactly: parameters and gradients "
        f"{format_bytes(cost.param_bytes)} each, averages "
        f"{format_bytes(cost.ema_bytes)}, Adam "
        f"{format_bytes(cost.optimizer_bytes)}",
        f"          {format_bytes(images)} about: {cost.num_images} images of "
        f"{format_bytes(cost.image_bytes)}, what JAX keeps for the backward pass",
    ]
    memory = device_memory()
    if memory is not None:
        fits = batch_that_fits(cost, memory, jax.device_count()) * fit.accumulate
        what = f"batch {fits:,} would fit" if fits else "no batch fits"
        lines.append(
            f"          {format_bytes(memory)} are there: {what}; config.network."
            "remat=True and config.training.accumulate need less"
        )
    return lines


def _estimate(spec: Diffusion, fit: Fit, cost: Cost) -> tuple[float, str]:
    rate = matmul_rate(assembly.dtype(spec))
    seconds = cost.train_flops * fit.batch_size / (rate * ASSUMED_SHARE)
    how = (
        f"an estimate: {ASSUMED_SHARE:.0%} of the {rate / 1e9:,.0f} GFLOP/s of matrix "
        "products here"
    )
    return seconds, how


def _step_seconds(
    spec: Diffusion, fit: Fit, info: DataInfo, cost: Cost
) -> tuple[float, str]:
    """Return the seconds of a training step, and how they are known."""
    estimate, how = _estimate(spec, fit, cost)
    needed, memory = cost.fixed_bytes + cost.batch_bytes, device_memory()
    if estimate > _MEASURE_BELOW or (memory and needed > _USABLE * memory):
        return estimate, how
    return _measure(spec, fit, info), f"measured: the best of {_NUM_MEASURED} steps"


def _measure(spec: Diffusion, fit: Fit, info: DataInfo) -> float:
    mesh, size = data_mesh(), fit.batch_size
    task = assembly.diffusion_task(spec, fit, info, mesh)
    state = jax.device_put(task.start(task.draw()), replicated(mesh))
    step = compile_step(task.step, mesh)
    zeros: dict[str, np.ndarray] = {}
    if info.latents is None:
        zeros["image"] = np.zeros((size, *info.item_shape), info.dtype)
    else:
        moments = moments_shape(assembly.num_views(spec.data), info.latents.shape)
        zeros["image"] = np.zeros((size, *moments), np.float32)
    if info.label_names is not None:
        zeros["label"] = np.zeros(size, np.int32)
    if spec.text is not None:
        some = [info.captions[i % len(info.captions)] for i in range(size)]
        zeros |= assembly.text_cond(info, some)
    if NAME in spec.conditioners:
        width = info.runs[assembly.CLIP].sizes["width"]
        zeros[NAME] = np.zeros((size, width), np.float32)
    batch = jax.tree.map(lambda part: spread(part, rows(mesh)), zeros)
    key, best = assembly.train_key(spec.seed), math.inf
    for turn in range(_NUM_MEASURED + 1):
        started = time.perf_counter()
        state, metrics = step(state, key, batch)
        jax.block_until_ready((state, metrics))
        if turn:  # the first compiles
            best = min(best, time.perf_counter() - started)
    return best


def _time(fit: Fit, seconds: float, how: str, num_images: int) -> list[str]:
    size, num_steps = fit.batch_size, fit.num_steps
    epochs = size * num_steps / num_images
    return [
        f"speed     {1 / seconds:,.3g} steps a second of {size} images, "
        f"{size / seconds:,.3g} images a second",
        f"          ({how})",
        f"time      {_hours(seconds * num_steps / 3600)} for {num_steps:,} steps, in "
        f"which each image is seen {epochs:,.0f} times",
    ]


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:,.0f} minutes"
    return f"{hours:,.1f} hours" + (f" ({hours / 24:,.0f} days)" if hours > 48 else "")
