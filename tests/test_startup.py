"""What is set before JAX starts, each in a process of its own."""

import subprocess
import sys

import pytest

# Takes a large block, writes to each page of it, frees it, twice; counts new pages.
TWICE = """
import ctypes, resource
from ddpm_jax import startup
startup.reuse_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 256 * 2**20
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(**environment):
    """Run TWICE; return the pages that each turn took from the system."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="of the C library of Linux")
def test_freed_memory_is_used_again_unless_the_user_has_chosen():
    first, second = new_pages()
    assert second < 0.01 * first
    # By glibc's default, a threshold above which a block is the system's own.
    first, second = new_pages(MALLOC_ARENA_TEST="8")
    assert second > 0.9 * first
