"""Batches that reach the devices: those of the seed and step, by either way."""

import itertools

import jax
import numpy as np
import pytest
from program import TINY

from ddpm_jax import data
from ddpm_jax.cli import main
from ddpm_jax.commands.feed import make_feed
from ddpm_jax.data import Arrays, Dataset
from ddpm_jax.runtime.devices import data_mesh


def numbered(count, labels=True):
    """Return images that carry their number: 1 x 2 pixels, high and low byte."""
    numbers = np.arange(count)
    images = np.stack([numbers // 256, numbers % 256], axis=-1).astype(np.uint8)
    source = Arrays(
        images.reshape(count, 1, 2, 1), numbers.astype(np.int32) if labels else None
    )
    names = ("a",) if labels else None
    return Dataset("numbered", source, (1, 2, 1), names, "f", "train")


@pytest.mark.parametrize("max_mb", [0, 1])
@pytest.mark.parametrize("labels", [True, False])
def test_the_batches_are_those_of_seed_and_step(max_mb, labels):
    source = numbered(300, labels)
    feed = make_feed(source, 64, seed=5, mesh=data_mesh(), max_mb_on_device=max_mb)
    for start in (0, 7):  # 7 * 64 > 300: in the second epoch
        for step, batch in enumerate(itertools.islice(feed(start), 3), start):
            wanted = data.order(source, 64, seed=5)(step)
            assert isinstance(batch["image"], jax.Array)
            high, low = np.asarray(batch["image"], np.int64).reshape(64, 2).T
            np.testing.assert_array_equal(256 * high + low, wanted)
            assert ("label" in batch) == labels
            if labels:
                np.testing.assert_array_equal(batch["label"], wanted)


@pytest.mark.parametrize("max_mb", [0, 1])
def test_what_lies_beside_an_image_comes_with_it(max_mb):
    source = numbered(300)
    beside = {"double": 2.0 * np.arange(300, dtype=np.float32)[:, None]}
    feed = make_feed(
        source, 64, seed=5, mesh=data_mesh(), max_mb_on_device=max_mb, beside=beside
    )
    for batch in itertools.islice(feed(3), 3):
        assert set(batch) == {"image", "label", "double"}
        label = np.asarray(batch["label"])
        np.testing.assert_array_equal(batch["double"], 2.0 * label[:, None])


def test_a_run_is_the_same_with_its_images_on_the_device_or_not(finished, tmp_path):
    workdir = tmp_path / "from_host"
    options = ["--config.data.on_device_mb=0"]
    assert main([f"--config={TINY}", f"--workdir={workdir}", *options]) == 0
    drawn = [
        np.load(next(run.glob("samples/*/samples.npz")))["arr_0"]
        for run in (finished, workdir)
    ]
    np.testing.assert_array_equal(*drawn)


def test_accumulation_trains_and_what_does_not_divide_is_refused(tmp_path, capsys):
    arguments = [f"--config={TINY}", f"--workdir={tmp_path / 'run'}"]
    assert main([*arguments, "--config.training.accumulate=3"]) == 2
    said = capsys.readouterr().err
    assert "accumulate=3 does not divide the 8 images" in said
    assert "use 1, 2, 4, 8" in said
    assert main([*arguments, "--config.training.accumulate=2"]) == 0
