"""What is asked for is held against memory, before it is allocated."""

import math

import jax
from ml_collections import ConfigDict

from ddpm_jax.assembly.parts import dtype, network_spec
from ddpm_jax.assembly.sampling import num_steps
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.errors import UserError
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
    """Return the bytes of one item's way through the network, at the least."""
    bytes_each = 2 if dtype(config) == "bfloat16" else _FLOAT
    return network_spec(config).least_numbers(info.shape) * bytes_each


def check_batch_memory(config: ConfigDict, section: str, info: DataInfo) -> None:
    """Refuse a batch of a section that memory cannot hold, of its items alone.

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


# By the name of an option, in whatever section: more is a slip, and costs hours or all
# memory before anything comes of it.
_CEILINGS = {
    "num_levels": 1_000_000,
    "num_seeds": 10_000,
    "num_points": 10_000,
    "num_resamples": 10_000,
    "iterations": 10_000,
    "num_probes": 100_000,
    "channels": 65_536,
    "latent_channels": 65_536,
    "num_layers": 30,
    "num_features": 1_000_000,
    "num_res_blocks": 1000,
    "batch_size": 2**31 - 1,  # rows are counted in int32
    "num_images": 2**31 - 1,
}


def check_ceilings(config: ConfigDict, prefix: str = "config") -> None:
    """Refuse numbers so large that they are a slip, or that no array can count.

    Raises:
        UserError: naming the first.
    """
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            check_ceilings(value, f"{prefix}.{name}")
            continue
        most = _CEILINGS.get(name, 2**64 - 1)  # the largest seed
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and not -(2**63) <= number <= most:
                raise UserError(
                    f"{prefix}.{name}={value} is out of range; use {most:,} or less."
                )
