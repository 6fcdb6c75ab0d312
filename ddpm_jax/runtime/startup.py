"""Startup settings of JAX: its compilation cache and its CPU devices.

Each leaves alone what the user has set, by JAX's own options or in the
environment.
"""

import contextlib
import os

from ddpm_jax.runtime import files, hosts

# Each holds a copy of parameters and optimizer.
_MAX_CPU_DEVICES = 8


def use_compilation_cache() -> None:
    """Keep all compiled programs between runs, where the user has not chosen otherwise.

    JAX keeps those that took a second to compile. A run has a hundred small ones beside
    them, which together take as long.
    """
    import jax

    # JAX makes these names when it runs.
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None:
        with files.optional("compiled programs"):
            folder = files.make_folder(files.cache_folder("xla"))
            jax.config.update("jax_compilation_cache_dir", str(folder))
    smallest = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in smallest.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def use_all_cores(batch_size: int) -> None:
    """Make a device of each CPU core, as far as a batch can be spread over them.

    XLA runs one device's program on the CPU with little parallelism between or within
    operations as small as these. Measured with jaxlib 0.10.2 on two cores, a step of
    configs/digits.py took 303 ms on one device and 166 ms on two. Where there is a GPU
    or TPU, CPU devices are not used, and this has no effect.
    """
    if hosts.are_several():
        return  # JAX has its devices by now: one, where nobody chose another number
    flags_of_xla = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device" in flags_of_xla:
        return
    import jax

    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    most = min(cores, _MAX_CPU_DEVICES)
    fits = [n for n in range(1, most + 1) if batch_size % n == 0]
    # A program that calls `main` may have used JAX already, and then it is too late.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(fits))
