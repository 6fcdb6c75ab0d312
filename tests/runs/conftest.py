"""Runs of the whole program; what they compile and train is shared by the tests."""

import os

import jax
import pytest
from program import TINY

from ddpm_jax.cli import main


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compile each program once for all tests, whatever process it runs in."""
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each of its processes a folder in a common one.
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = str(common / "xla")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        yield
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a tiny run that was never interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert main([f"--config={TINY}", f"--workdir={workdir}"]) == 0
    return workdir
