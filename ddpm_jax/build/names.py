"""The words a config may use, and what each stands for."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from ddpm_jax.diffusion import losses, process, schedules
from ddpm_jax.diffusion.schedules import Schedule

SCHEDULES: Mapping[str, Callable[[int], Schedule]] = {
    "linear": lambda T: schedules.from_betas(schedules.linear_betas(T)),
    "cosine": lambda T: schedules.from_betas(schedules.cosine_betas(T)),
    "quadratic": lambda T: schedules.from_betas(schedules.quadratic_betas(T)),
    "constant": lambda T: schedules.from_betas(schedules.constant_betas(T)),
    "jsd": lambda T: schedules.from_betas(schedules.jsd_betas(T)),
    "warmup10": lambda T: schedules.from_betas(schedules.warmup_betas(T, fraction=0.1)),
    "warmup50": lambda T: schedules.from_betas(schedules.warmup_betas(T, fraction=0.5)),
    "sigmoid": lambda T: schedules.from_betas(schedules.sigmoid_betas(T)),
    "linear_logsnr": lambda T: schedules.linear_logsnr(num_levels=T),
    "cosine_logsnr": lambda T: schedules.cosine_logsnr(num_levels=T),
}
PREDICTIONS = {kind.name: kind for kind in (process.EPS, process.X0, process.V)}
VARIANCES = {
    "small": process.small_variance,
    "large": process.large_variance,
    "learned": process.learned_variance,
}
LOSSES = ("simple", "weighted", "mean", "bound", "hybrid")
TIMES = {"uniform": losses.uniform_times, "stratified": losses.stratified_times}
SPACINGS = {
    "trailing": schedules.trailing_steps,
    "leading": schedules.leading_steps,
    "linear": schedules.linear_steps,
    "quadratic": schedules.quadratic_steps,
}
SAMPLERS = ("ancestral", "ddim", "heun", "dpmpp_2m")
DECAYS = ("constant", "cosine")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
