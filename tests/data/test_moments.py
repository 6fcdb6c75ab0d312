"""Moments on disk: computed once, whole or not at all, and those asked for."""

import contextlib
import os

import numpy as np
import pytest

from ddpm_jax import data
from ddpm_jax.data import Arrays, Dataset, moments
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

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
        assert isinstance(found.source.items, np.memmap) == (not in_memory)
        np.testing.assert_array_equal(found.source.items, VALUES)
        if labels:
            np.testing.assert_array_equal(found.source.labels, np.arange(10))
        else:
            assert found.source.labels is None
        assert (found.shape, found.num_bytes) == (SHAPE, VALUES.nbytes)
        batch = data.batches(found, 4, seed=3)[7]["image"]
        places = data.order(dataset(), 4, seed=3)(7)
        np.testing.assert_array_equal(batch, VALUES[places])
    assert len(calls) == 1
    assert ["writing" in line for line in said] == [True, False, False]
    (folder,) = cache.iterdir()
    kept = {"moments.npy", "index.json"} | ({"labels.npy"} if labels else set())
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
    killed = folder / ".0.partial"
    killed.touch()
    found = data.encoded(dataset(), ["net"], SHAPE, batches(calls))
    np.testing.assert_array_equal(found.source.items, VALUES)
    kept = {"moments.npy", "labels.npy", "index.json"}
    assert {path.name for path in folder.iterdir()} == kept


def test_what_another_process_is_writing_stays(cache, monkeypatch):
    """Where there are no locks, only what nobody has touched for long is removed."""
    monkeypatch.setattr(files, "_locks", lambda: False)
    with pytest.raises(KeyboardInterrupt):
        data.encoded(dataset(), ["net"], SHAPE, batches([], fail_at=8))
    (folder,) = cache.iterdir()
    killed, at_work = (folder / f".{i}.partial" for i in range(2))
    killed.touch()
    at_work.touch()
    os.utime(killed, (0, 0))
    data.encoded(dataset(), ["net"], SHAPE, batches([]))
    kept = {"moments.npy", "labels.npy", "index.json", at_work.name}
    assert {path.name for path in folder.iterdir()} == kept


def test_without_the_disk_they_stay_in_memory(cache):
    calls = []
    for _ in range(2):
        found = data.encoded(dataset(), ["net"], SHAPE, batches(calls), cache=False)
        np.testing.assert_array_equal(found.source.items, VALUES)
        np.testing.assert_array_equal(found.source.labels, np.arange(10))
    assert len(calls) == 2 and not cache.exists()


@pytest.mark.parametrize("name", ["moments.npy", "labels.npy", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_file_is_made_anew_with_a_line(
    cache, monkeypatch, name, damage, in_memory
):
    if not in_memory:
        monkeypatch.setattr(moments, "MAX_BYTES", 8)
    data.encoded(dataset(), ["net"], SHAPE, batches([]))
    (folder,) = cache.iterdir()
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-6] ^= 16  # of a number's bits
    changed = {"cut": content[:-4], "flipped": content, "empty": b""}
    path.unlink() if damage == "gone" else path.write_bytes(changed[damage])
    calls, said = [], []
    found = data.encoded(dataset(), ["net"], SHAPE, batches(calls), report=said.append)
    assert len(calls) == 1
    np.testing.assert_array_equal(found.source.items, VALUES)
    np.testing.assert_array_equal(found.source.labels, np.arange(10))
    noted = sum("are damaged" in line for line in said)
    assert noted == (damage != "gone")
    data.encoded(dataset(), ["net"], SHAPE, batches(calls))
    assert len(calls) == 1


def full(monkeypatch, number, words):
    """Fail with an error of the system where latents take their place."""

    @contextlib.contextmanager
    def failing(path, **options):
        raise OSError(number, words)
        yield

    monkeypatch.setattr(files, "replacing", failing)


def test_a_full_disk_is_told(monkeypatch, cache):
    full(monkeypatch, 28, "No space left on device")
    with pytest.raises(UserError, match=r"No space left on device.*data\.cache=False"):
        data.encoded(dataset(), ["net"], SHAPE, batches([]))
    assert [path.name for path in cache.rglob("*") if path.is_file()] == []


def test_too_little_room_is_told_before_the_work(monkeypatch, cache):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 479)
    calls = []
    with pytest.raises(UserError, match=r"0 MB are free; .*data\.cache=False"):
        data.encoded(dataset(), ["net"], SHAPE, batches(calls))
    assert not calls
    monkeypatch.setattr(files, "free_bytes", lambda folder: VALUES.nbytes + 40)
    data.encoded(dataset(), ["net"], SHAPE, batches(calls))
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_is_done_without(cache, capsys):
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    found = data.encoded(dataset(), ["net"], SHAPE, batches([]))
    np.testing.assert_array_equal(found.source.items, VALUES)
    np.testing.assert_array_equal(found.source.labels, np.arange(10))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: latents are not kept") and str(cache) in line
