"""Runs of the whole program; what they train is shared by the tests."""

import pytest
from program import TINY, TINY_UNET

from ddpm_jax.cli import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a tiny run that was never interrupted."""
    return trained(TINY, tmp_path_factory)


@pytest.fixture(scope="session")
def finished_unet(tmp_path_factory):
    """The same with a U-Net."""
    return trained(TINY_UNET, tmp_path_factory)


def trained(recipe, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert main([f"--config={recipe}", f"--workdir={workdir}"]) == 0
    return workdir
