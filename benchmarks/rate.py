"""Rate of large matrix products: the practical peak of a device."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddpm_jax.runtime.devices import replicated, rows

_SIDE = {"cpu": 2048}  # others: large enough to fill the chips there are
_SIDE_OF_ACCELERATORS = 8192


def matmul_rate(
    mesh: Mesh,
    dtype: jax.typing.DTypeLike,
    *,
    side: int | None = None,
    num_repeats: int = 10,
) -> dict[str, Any]:
    """Measure [n, n] by [n, n] on every device of a mesh at once, and on one alone.

    Args:
        mesh: from `devices.data_mesh`.
        dtype: of factors and product.
        side: n; None takes 2,048 on a CPU, else 8,192.
        num_repeats: times taken; the fastest counts, since a limit is measured.

    Returns:
        Plain data: "flops_per_second" is the greater of the two rates.
    """
    side = side or _SIDE.get(jax.devices()[0].platform, _SIDE_OF_ACCELERATORS)
    by_row, everywhere = rows(mesh), replicated(mesh)
    spread = _best(side, mesh.size, dtype, num_repeats, (by_row, everywhere), by_row)
    alone = spread
    if mesh.size > 1:  # all cores may serve one device as well
        one = jax.sharding.SingleDeviceSharding(mesh.devices.flat[0])
        alone = _best(side, 1, dtype, num_repeats, (one, one), one)
    return {
        "side": side,
        "dtype": jnp.dtype(dtype).name,
        "all_devices": spread,
        "one_device": alone,
        "flops_per_second": max(spread, alone),
    }


def _best(
    side: int, size: int, dtype: Any, num_repeats: int, given: tuple, result: Any
) -> float:
    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, preferred_element_type=dtype)

    compiled = jax.jit(multiply, in_shardings=given, out_shardings=result)
    key = jax.random.key(0)
    shapes = ((size * side, side), (side, side))
    a, b = (
        jax.device_put(jax.random.normal(key, shape, jnp.float32).astype(dtype), place)
        for shape, place in zip(shapes, given, strict=True)
    )
    jax.block_until_ready(compiled(a, b))
    times = []
    for _ in range(num_repeats):
        started = time.perf_counter()
        jax.block_until_ready(compiled(a, b))
        times.append(time.perf_counter() - started)
    return 2 * size * side**3 / min(times)
