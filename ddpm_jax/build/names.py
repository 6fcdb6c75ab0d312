"""The words a config may use, and what each stands for."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import grids, process, schedules, time_sampling
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.networks import layers

TABLES: Mapping[str, Callable[..., np.ndarray]] = {  # T -> betas
    "linear": schedules.linear_betas,
    "cosine": schedules.cosine_betas,
    "quadratic": schedules.quadratic_betas,
    "constant": schedules.constant_betas,
    "jsd": schedules.jsd_betas,
    "warmup10": lambda T: schedules.warmup_betas(T, fraction=0.1),
    "warmup50": lambda T: schedules.warmup_betas(T, fraction=0.5),
    "sigmoid": schedules.sigmoid_betas,
}
WITH_ENDS = ("linear", "quadratic")  # that also take their first and last beta
CONTINUOUS: Mapping[str, Callable[[int], Schedule]] = {
    "linear_logsnr": lambda T: schedules.linear_logsnr(num_levels=T),
    "cosine_logsnr": lambda T: schedules.cosine_logsnr(num_levels=T),
}
SCHEDULES = (*TABLES, *CONTINUOUS)
PREDICTIONS = {kind.name: kind for kind in (process.EPS, process.X0, process.V)}
VARIANCES: Mapping[str, process.Variance] = {
    "small": process.small_variance,
    "large": process.large_variance,
    "learned": process.learned_variance,
}
LOSSES = (
    "simple",
    "weighted",
    "mean",
    "bound",
    "hybrid",
    "truncated_snr",
    "min_snr",
    "p2",
)
PICTURES = ("", "low_res", "grey", "masked")
PICTURE_MODES = {"low_res": "upscale", "grey": "colorize", "masked": "inpaint"}
TIMES: Mapping[str, Callable[[int], time_sampling.TimeSampler]] = {
    "uniform": lambda T: time_sampling.UNIFORM,
    "stratified": lambda T: time_sampling.STRATIFIED,
    "antithetic": lambda T: time_sampling.ANTITHETIC,
    "importance": time_sampling.importance,
}
SPACINGS = {
    "trailing": grids.trailing_steps,
    "leading": grids.leading_steps,
    "linear": grids.linear_steps,
    "quadratic": grids.quadratic_steps,
}
CONTINUOUS_GRIDS = {"karras": grids.karras_grid, "logsnr": grids.logsnr_grid}
SAMPLERS = (
    "ancestral",
    "ddim",
    "euler",
    "heun",
    "adaptive",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_2m_sde",
    "unipc",
    "unipc_3",
    "pndm",
)
DECAYS = ("constant", "cosine")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ATTENTIONS: Mapping[str, Callable[..., jax.Array]] = {
    "plain": layers.attend,
    # Fused by cuDNN: the weights [B, heads, N, N] are never written to memory.
    "cudnn": functools.partial(jax.nn.dot_product_attention, implementation="cudnn"),
}
