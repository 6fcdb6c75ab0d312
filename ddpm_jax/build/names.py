"""The words a config may use, and what each stands for."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import grids, process
from ddpm_jax.networks import layers

PREDICTIONS, VARIANCES = process.PREDICTIONS, process.VARIANCES
PICTURES = ("", "low_res", "grey", "masked")
PICTURE_MODES = {"low_res": "upscale", "grey": "colorize", "masked": "inpaint"}
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
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ATTENTIONS: Mapping[str, Callable[..., jax.Array]] = {
    "plain": layers.attend,
    # Fused by cuDNN: the weights [B, heads, N, N] are never written to memory.
    "cudnn": functools.partial(jax.nn.dot_product_attention, implementation="cudnn"),
}
