"""What holds for every test."""

import gc
import os
import shutil
import tempfile
from importlib.metadata import version

import pytest

# One device, whatever the machine: sums over a batch then have one order, and results
# of this process and of those it starts can be compared bit for bit.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
# Where quick compilation is asked for, as `make test` does, two flags halve its time:
# one piece of machine code for a program, and loops that LLVM alone is asked to write.
# XLA ends at a flag that it does not know, and newer ones do not know the second.
if "--xla_backend_optimization_level=0" in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Each program is compiled once for all tests, whatever process they run in or start:
# JAX reads these when it is imported. `.ci/run` sets the folder for all its parts.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_MADE_HERE = _CACHE not in os.environ
if _MADE_HERE:
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="ddpm_jax-xla-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_unconfigure():
    """Remove the folder; processes of pytest-xdist inherit it, and made none."""
    if _MADE_HERE:
        shutil.rmtree(os.environ[_CACHE], ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Begin with whole runs, which take longest, so that no process waits for one."""
    items.sort(key=lambda item: "runs" not in item.path.parts)


@pytest.fixture(scope="module", autouse=True)
def settled():
    """Search what a module has left behind for garbage once, and then no more.

    Traced and compiled programs are millions of objects, which live to the end: of a
    whole run, a search of all of them takes seconds.
    """
    yield
    gc.collect(1)
    gc.freeze()
