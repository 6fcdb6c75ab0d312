"""Runs of the whole program; what they train is shared by the tests."""

import pytest
from program import TINY

from ddpm_jax.cli import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a tiny run that was never interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert main([f"--config={TINY}", f"--workdir={workdir}"]) == 0
    return workdir
