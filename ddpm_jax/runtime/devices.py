"""Device mesh: rows of a batch are sharded over it, large parameters with `fsdp`.

The mesh has two axes. A batch is spread over both. Over "data" everything else is
replicated; over "fsdp" each large array is cut along one of its dimensions, so that a
device holds a share of parameters, averages and optimizer state (fully sharded data
parallelism; Rajbhandari et al. 2020, "ZeRO", stage 3). The communication is what jit
makes of these shardings. The same code serves the cores of a CPU, one GPU, the chips of
a TPU board, and many hosts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax import limits
from ddpm_jax.errors import UserError

# Smaller arrays, such as biases and the scales of normalization, are not worth a
# collective operation each.
_MIN_SHARDED = 1024

Placement = Callable[[tuple[int, ...]], NamedSharding]
"""From the shape of an array to where it lies."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """How devices share the work.

    Attributes:
        fsdp: devices that share parameters, averages and optimizer state, a part each;
            1: a copy on every device. It must divide the devices: docs/clusters.md.
    """

    fsdp: int = 1

    def __post_init__(self) -> None:
        limits.at_least(self, 1, "fsdp")


def data_mesh(fsdp: int = 1) -> Mesh:
    """Lay all devices, of all hosts, along two axes, "data" and "fsdp".

    Args:
        fsdp: how many devices share the parameters; "data" takes the rest.

    Raises:
        UserError: if that does not divide the devices.
    """
    count = jax.device_count()
    if fsdp < 1 or count % fsdp:
        fits = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise UserError(
            f"config.devices.fsdp={fsdp} does not divide the {count} device(s); use "
            f"{' or '.join([', '.join(fits[:-1]), fits[-1]] if fits[1:] else fits)}."
        )
    auto = jax.sharding.AxisType.Auto
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), (auto, auto))


def rows(mesh: Mesh) -> NamedSharding:
    """Spread the first axis of an array over the whole mesh."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> Placement:
    """Cut large arrays over "fsdp", along their largest dimension that it divides."""
    parts = mesh.shape["fsdp"]

    def place(shape: tuple[int, ...]) -> NamedSharding:
        fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or not fitting or np.prod(shape) < _MIN_SHARDED:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: (shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return place


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Return the sharding of every leaf of a tree, by `sharded`."""
    return jax.tree.map(lambda leaf: sharded(mesh)(leaf.shape), tree)


def gather_params(mesh: Mesh, params: Any) -> Any:
    """Bring parameters whole to every device, inside a jitted function.

    Stated explicitly, and not left to the compiler, which might send the
    activations to where the parameters lie.
    """
    if mesh.shape["fsdp"] == 1:
        return params
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def shard_like_params(mesh: Mesh, tree: Any) -> Any:
    """Leave each device its share of a tree, such as gradients, inside jit."""
    if mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings(mesh, tree))


def rows_of_host(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Return which rows of a batch lie on this host's devices, in rising order.

    Taken from the mesh, since on some machines its order follows the wires between the
    devices and not the numbers of the hosts.
    """
    places = rows(mesh).addressable_devices_indices_map((batch_size,))
    every = np.arange(batch_size)
    return np.unique(np.concatenate([every[index or ()] for index in places.values()]))


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


def spread_whole(tree: Any, mesh: Mesh) -> Any:
    """Put a tree of arrays [...] that every host holds whole onto each of the devices.

    Args:
        tree: of NumPy arrays, or of others on one device.
        mesh: from `data_mesh`.
    """
    everywhere = replicated(mesh)
    return jax.tree.map(lambda leaf: spread(np.asarray(leaf), everywhere), tree)


def gathered(array: jax.Array) -> np.ndarray:
    """Bring an array [...] that is spread over devices whole to every host."""
    if getattr(array, "is_fully_addressable", True):
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def wait_for_all_hosts(what: str) -> None:
    """Return when every host has come to the same place; at once if there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def on_every_host(flag: bool) -> bool:
    """Return whether something holds on every host; a collective operation."""
    return bool(least_of_hosts(int(flag)))


def least_of_hosts(count: int) -> int:
    """Return the smallest of the hosts' numbers; a collective operation."""
    if jax.process_count() == 1:
        return count
    return int(multihost_utils.process_allgather(np.int32(count)).min())


def describe() -> str:
    """Describe the devices in a few words."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"
