"""Networks: Flax modules that know nothing of diffusion mathematics or configs."""

from ddpm_jax.networks.ports import Ports, TokenSequence, join_ports
from ddpm_jax.networks.unet import UNet, check_geometry

__all__ = ["Ports", "TokenSequence", "UNet", "check_geometry", "join_ports"]
