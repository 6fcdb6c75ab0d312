"""The words that a request may use, and what each stands for."""

from ddpm_jax.diffusion import grids, process

VARIANCES = process.VARIANCES
SPACINGS = {
    "trailing": grids.trailing_steps,
    "leading": grids.leading_steps,
    "linear": grids.linear_steps,
    "quadratic": grids.quadratic_steps,
}
CONTINUOUS_GRIDS = {"karras": grids.karras_grid, "logsnr": grids.logsnr_grid}
