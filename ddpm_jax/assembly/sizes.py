"""What is asked for is held against memory, before it is allocated."""

import math

import jax

from ddpm_jax.assembly.parts import dtype
from ddpm_jax.assembly.sampling import num_steps
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Sample
from ddpm_jax.runtime import capacity

_FLOAT = 4  # bytes


def memory_here() -> int | None:
    """Return the bytes of this machine, or of its devices if they have more."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":  # they share the machine's
        return capacity.machine_memory()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [limit for limit in limits if limit]
    return max(sum(known), capacity.machine_memory() or 0) or None


def least_bytes(spec: Diffusion, info: DataInfo) -> int:
    """Return the bytes of one item's way through the network, at the least."""
    bytes_each = 2 if dtype(spec) == "bfloat16" else _FLOAT
    return spec.network.least_numbers(info.shape) * bytes_each


def check_batch_memory(
    section: str, batch_size: int, item_shape: tuple[int, ...]
) -> None:
    """Refuse a batch that memory cannot hold, of its items alone.

    Args:
        section: that names its size, such as "training".
        batch_size: the size.
        item_shape: of one item.

    Raises:
        UserError: naming the largest that fits.
    """
    each = _FLOAT * math.prod(item_shape)
    capacity.check(f"config.{section}.batch_size", batch_size, each, memory_here())


def check_memory(spec: Diffusion, info: DataInfo, asked: Sample) -> None:
    """Refuse to draw more at a time, or in all, than memory holds.

    Raises:
        UserError: naming the option and the largest number that fits.
    """
    memory = memory_here()
    image, chain = math.prod(info.item_shape), math.prod(info.shape)
    # Of 8 bits each.
    capacity.check("config.sample.num_images", asked.num_images, image, memory)
    rows = min(asked.batch_size, asked.num_images)
    through = least_bytes(spec, info)
    capacity.check("config.sample.batch_size", rows, through, memory)
    filmed = min(asked.film_images, rows)
    frames = min(asked.film_frames, num_steps(spec, asked) + 1)
    frame = 2 * (chain * _FLOAT + image)  # x_t and the predicted x0
    capacity.check("config.sample.film_images", filmed, frames * frame, memory)
