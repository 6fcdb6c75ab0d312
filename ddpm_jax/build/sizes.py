"""What is asked for is held against memory, before it is allocated."""

import math

import jax
from ml_collections import ConfigDict

from ddpm_jax.build.sampling import num_steps
from ddpm_jax.build.source import DataInfo
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


def least_bytes(config: ConfigDict, info: DataInfo) -> int:
    """Return the bytes of one image's way through the network, at the least.

    The input of each residual block of the way down, of which the way up needs all.
    """
    height, width, _ = info.shape
    options, total = config.model, 0
    for depth, multiplier in enumerate(options.channel_multipliers):
        side = 2**depth
        maps = max(height // side, 1) * max(width // side, 1)
        total += maps * options.channels * multiplier * options.num_res_blocks
    return total * (2 if options.dtype == "bfloat16" else _FLOAT)


def check_batch_memory(config: ConfigDict, section: str, info: DataInfo) -> None:
    """Refuse a batch of a section that memory cannot hold, of its images alone.

    Raises:
        UserError: naming the largest that fits.
    """
    each = _FLOAT * math.prod(info.item_shape)
    size = config[section].batch_size
    capacity.check(f"config.{section}.batch_size", size, each, memory_here())


def check_memory(config: ConfigDict, info: DataInfo) -> None:
    """Refuse to draw or measure more at a time, or in all, than memory holds.

    Raises:
        UserError: naming the option and the largest number that fits.
    """
    memory, options = memory_here(), config.sample
    image, chain = math.prod(info.item_shape), math.prod(info.shape)
    # Of 8 bits each.
    capacity.check("config.sample.num_images", options.num_images, image, memory)
    rows = min(options.batch_size, options.num_images)
    through = least_bytes(config, info)
    capacity.check("config.sample.batch_size", rows, through, memory)
    filmed = min(options.film_images, rows)
    frames = min(options.film_frames, num_steps(config) + 1)
    frame = 2 * (chain * _FLOAT + image)  # x_t and the predicted x0
    capacity.check("config.sample.film_images", filmed, frames * frame, memory)
    for section in ("evaluate", "likelihood"):  # filled up, however few there are
        check_batch_memory(config, section, info)
