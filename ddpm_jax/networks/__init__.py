"""Networks: Flax modules that know nothing of diffusion mathematics or configs."""

from ddpm_jax.networks.unet import UNet, check_geometry

__all__ = ["UNet", "check_geometry"]
