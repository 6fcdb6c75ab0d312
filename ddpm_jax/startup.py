"""What has to be set before JAX starts: its cache, its CPU devices, the memory below.

Each of these leaves alone what the user has set, by JAX's own options or in the
environment.
"""

import contextlib
import ctypes
import os

from ddpm_jax import hosts
from ddpm_jax.files import cache_folder

# Each holds a copy of parameters and optimiser.
_MAX_CPU_DEVICES = 8

# Parameters of glibc's `mallopt`, from its malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def use_compilation_cache() -> None:
    """Keep all compiled programs between runs, where the user has not chosen otherwise.

    JAX keeps those that took a second to compile. A run has a hundred small ones beside
    them, which together take as long.
    """
    import jax

    # JAX makes these names when it runs.
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
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


def reuse_memory() -> None:
    """Have memory that was freed used again, where glibc would give it back.

    A step of training on the CPU asks for one block of all its intermediate results.
    glibc takes a block that large from the system and gives it back at once, so that
    each step begins with the system clearing as many pages again. Here it stays with
    the process, for the next step; the most that is ever in use is what it was.

    Other C libraries have no `mallopt`, and nothing is done.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    of_the_process = ctypes.CDLL(None) if os.name == "posix" else None
    mallopt = getattr(of_the_process, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)  # no block of its own from the system
        mallopt(_M_TRIM_THRESHOLD, -1)  # never give back
        mallopt(_M_TOP_PAD, 64 * 2**20)  # and ask seldom
