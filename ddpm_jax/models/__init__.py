"""Networks: Flax modules that know nothing of diffusion mathematics or configs."""

from ddpm_jax.models.unet import UNet, check_geometry

__all__ = ["UNet", "check_geometry"]
