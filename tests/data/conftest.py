"""Where real data are found: $DDPM_JAX_DATA/tensorflow_datasets or $TFDS_DATA_DIR."""

import os
from pathlib import Path

import pytest

from ddpm_jax.data import decoded, load


@pytest.fixture(scope="session")
def tfds_dir():
    data = os.environ.get("DDPM_JAX_DATA")
    folder = f"{data}/tensorflow_datasets" if data else os.environ.get("TFDS_DATA_DIR")
    if not folder or not Path(folder, "mnist").is_dir():
        pytest.skip("set DDPM_JAX_DATA=folder-with-tensorflow_datasets to run")
    return folder


@pytest.fixture(scope="session")
def mnist_train(tfds_dir):
    return decoded(load("mnist", data_dir=tfds_dir))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what is remembered of folders out of the user's cache."""
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
