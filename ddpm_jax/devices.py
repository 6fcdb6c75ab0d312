"""The device mesh: rows of a batch spread over it, everything else replicated.

The same code serves the cores of a CPU, one GPU, and the chips of a TPU board.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.errors import UserError


def data_mesh() -> Mesh:
    """Lay all devices along one axis, "data"."""
    return jax.make_mesh(
        (jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )


def rows(mesh: Mesh) -> NamedSharding:
    """Shard the first axis of an array over the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(name: str, batch_size: int, num_devices: int) -> None:
    """Refuse a batch that the devices do not divide.

    Raises:
        UserError: naming the option and the nearest sizes that fit.
    """
    if batch_size < 1 or batch_size % num_devices:
        below = max(batch_size, 0) // num_devices * num_devices
        fits = " or ".join(str(b) for b in (below, below + num_devices) if b > 0)
        raise UserError(
            f"{name}={batch_size} cannot be spread evenly over {num_devices} "
            f"device(s); use {fits}."
        )


def round_up(batch_size: int) -> int:
    """Return the least batch size, no smaller, that the devices divide."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def spread(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Put an array [...] that every host holds whole onto the devices of all hosts."""
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: array[index]
    )


def gathered(array: jax.Array) -> np.ndarray:
    """Bring an array [...] that is spread over devices whole to every host."""
    if getattr(array, "is_fully_addressable", True):
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def wait_for_all_hosts(what: str) -> None:
    """Return when every host has come to the same place; at once if there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def describe() -> str:
    """Say in a few words what the program runs on."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"
