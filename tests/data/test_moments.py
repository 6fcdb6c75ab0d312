"""Moments on disk: computed once, whole or not at all, and those asked for."""

import dataclasses
import os

import numpy as np
import pytest

from ddpm_jax import data, files
from ddpm_jax.data import Arrays, Dataset, moments
from ddpm_jax.errors import UserError

SHAPE = (2, 1, 6)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "latents"


def dataset(count=10, labels=True, fingerprint="f"):
    images = np.zeros((count, 4, 2, 1), np.uint8)
    numbers = np.arange(count, dtype=np.int32) if labels else None
    names = ("a",) * count if labels else None
    source = Arrays(images, numbers)
    return Dataset("ones", source, (4, 2, 1), names, fingerprint, "train")


VALUES = np.random.default_rng(0).standard_normal((10, *SHAPE)).astype(np.float32)


def batches(calls, labels=True, fail_at=None):
    """Make a function that encodes four images at a time, and notes that it did."""

    def encode():
        calls.append(0)
        for start in range(0, 10, 4):
            if start == fail_at:
                raise KeyboardInterrupt
            numbers = np.arange(start, min(start + 4, 10)) if labels else None
            yield VALUES[start : start + 4], numbers

    return encode


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_they_are_encoded_once_and_read_after_that(
    cache, monkeypatch, labels, in_memory
):
    if not in_memory:
        monkeypatch.setattr(moments, "MAX_BYTES", 8)
    calls, said = [], []
    for _ in range(2):
        found = data.encoded(
            dataset(labels=labels),
            ["net"],
            SHAPE,
            batches(calls, labels),
            report=said.append,
        )
        assert isinstance(found.source.images, np.memmap) == (not in_memory)
        np.testing.assert_array_equal(found.source.images, VALUES)
        if labels:
            np.testing.assert_array_equal(found.source.labels, np.arange(10))
        else:
            assert found.source.labels is None
        assert (found.image_shape, found.num_bytes) == (SHAPE, VALUES.nbytes)
        batch = data.batches(found, 4, seed=3)[7]["image"]
        places = data.order(dataset(), 4, seed=3)(7)
        np.testing.assert_array_equal(batch, VALUES[places])
    assert len(calls) == 1
    assert ["writing" in line for line in said] == [True, False, False]
    (folder,) = cache.iterdir()
    kept = {"moments.npy", "labels.npy"} if labels else {"moments.npy"}
    assert {path.name for path in folder.iterdir()} == kept


def test_other_images_and_encoders_have_places_of_their_own(cache):
    calls = []

    def encoded(source, identity):
        return data.encoded(source, identity, SHAPE, batches(calls)).fingerprint

    asked = [(dataset(), ["net"]), (dataset(fingerprint="g"), ["net"])]
    asked += [(dataset(), ["other"]), (dataset(), ["net", "mirrored"])]
    keys = {encoded(*one) for one in asked}
    assert len(keys) == len(calls) == 4 == len(list(cache.iterdir()))


def test_what_is_interrupted_leaves_nothing(cache):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        data.encoded(dataset(), ["net"], SHAPE, batches(calls, fail_at=8))
    (folder,) = cache.iterdir()
    assert list(folder.iterdir()) == []
    killed, at_work = (folder / f".moments.npy.{i}.partial" for i in range(2))
    killed.touch()
    at_work.touch()
    os.utime(killed, (0, 0))
    found = data.encoded(dataset(), ["net"], SHAPE, batches(calls))
    np.testing.assert_array_equal(found.source.images, VALUES)
    kept = {"moments.npy", "labels.npy", at_work.name}
    assert {path.name for path in folder.iterdir()} == kept


def test_without_the_disk_they_stay_in_memory(cache):
    calls = []
    for _ in range(2):
        found = data.encoded(dataset(), ["net"], SHAPE, batches(calls), cache=False)
        np.testing.assert_array_equal(found.source.images, VALUES)
        np.testing.assert_array_equal(found.source.labels, np.arange(10))
    assert len(calls) == 2 and not cache.exists()


@pytest.mark.parametrize("name", ["moments.npy", "labels.npy"])
def test_a_damaged_file_is_refused(cache, name):
    data.encoded(dataset(), ["net"], SHAPE, batches([]))
    (folder,) = cache.iterdir()
    path = folder / name
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"are damaged .*; remove that folder"):
        data.encoded(dataset(), ["net"], SHAPE, batches([]))
    path.unlink()
    if name == "labels.npy":
        with pytest.raises(UserError, match=r"are damaged .*; remove that folder"):
            data.encoded(dataset(), ["net"], SHAPE, batches([]))


def test_a_full_disk_is_told(monkeypatch, cache):
    def full(self, data):
        raise OSError(28, "No space left on device")

    real = moments._whole

    @moments.contextlib.contextmanager
    def open_full(path):
        with real(path):
            yield dataclasses.make_dataclass("Full", [], namespace={"write": full})()

    monkeypatch.setattr(moments, "_whole", open_full)
    with pytest.raises(UserError, match=r"No space left on device.*data\.cache=False"):
        data.encoded(dataset(), ["net"], SHAPE, batches([]))
    assert [path.name for path in cache.rglob("*") if path.is_file()] == []
