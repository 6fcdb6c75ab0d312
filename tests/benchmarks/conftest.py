"""What the benchmarks compile is shared by the tests, as in tests/runs."""

import os

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each of its processes a folder in a common one.
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(common / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
