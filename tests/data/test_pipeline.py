"""Batches: every promise of the pipeline, on examples that carry their own number."""

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from ddpm_jax.data import (
    Arrays,
    Dataset,
    Records,
    batches,
    decoded,
    iterate,
    load,
    once,
)
from ddpm_jax.data.pipeline import permutation
from ddpm_jax.errors import UserError


def numbered(count):
    """A data set whose example i is one pixel pair (i // 256, i % 256), label i."""
    values = np.arange(count)
    images = np.stack([values // 256, values % 256], -1).astype(np.uint8)
    return Dataset(
        name="numbered",
        source=Arrays(images.reshape(count, 1, 1, 2), values.astype(np.int32)),
        shape=(1, 1, 2),
        label_names=tuple(str(value) for value in values),
        fingerprint="0",
        split="all",
    )


def numbers(stream, start, stop):
    """The example numbers of some steps, read from the pixels."""
    images = np.concatenate([stream[step]["image"] for step in range(start, stop)])
    images = images.reshape(-1, 2).astype(int)
    return images[:, 0] * 256 + images[:, 1]


def philox_words(key, count):
    """Philox-4x64-10 after Salmon et al. 2011, in plain integers."""
    words, mask = [], 2**64 - 1
    for block in range(1, count // 4 + 2):  # NumPy's first counter is 1
        c, k = (block, 0, 0, 0), list(key)
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = (
                (second >> 64) ^ c[1] ^ k[0],
                second & mask,
                (first >> 64) ^ c[3] ^ k[1],
                first & mask,
            )
            k[0] = (k[0] + 0x9E3779B97F4A7C15) & mask
            k[1] = (k[1] + 0xBB67AE8584CAA73B) & mask
        words += c
    return words[:count]


def test_permutation_ranks_philox_words():
    words = philox_words((3, 5), 50)
    expected = sorted(range(50), key=words.__getitem__)
    np.testing.assert_array_equal(permutation(3, 5, 50), expected)


def test_every_epoch_is_a_new_permutation():
    stream = batches(numbered(60), 12, seed=0)
    epochs = [numbers(stream, 5 * e, 5 * e + 5) for e in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(60))
    assert all((a != b).any() for a, b in [epochs[:2], epochs[1:], epochs[::2]])
    assert (numbers(batches(numbered(60), 12, seed=1), 0, 5) != epochs[0]).any()


def test_orders_of_epochs_and_seeds_are_uncorrelated():
    # 66 rank correlations of standard deviation 1/sqrt(n); 4.5 of them is 1 in 2000.
    count = 60000
    orders = [permutation(s, e, count) for s in range(3) for e in range(4)]
    between = np.corrcoef(orders)[np.triu_indices(12, 1)]
    assert np.abs(between).max() < 4.5 / count**0.5


def test_epochs_run_on_across_a_batch_and_batches_across_epochs():
    stream = batches(numbered(10), 4, seed=3)
    np.testing.assert_array_equal(np.bincount(numbers(stream, 0, 5)), [2] * 10)
    np.testing.assert_array_equal(np.sort(numbers(stream, 0, 5)[:10]), np.arange(10))
    large = batches(numbered(3), 7, seed=3)
    np.testing.assert_array_equal(np.bincount(numbers(large, 0, 3)), [7] * 3)


def test_drop_remainder_ends_each_epoch_after_whole_batches():
    stream = batches(numbered(10), 4, seed=3, drop_remainder=True)
    left_out = set()
    for epoch in range(20):
        seen = set(numbers(stream, 2 * epoch, 2 * epoch + 2))
        assert len(seen) == 8
        left_out |= set(range(10)) - seen
    assert left_out == set(range(10))  # other examples each time
    with pytest.raises(UserError, match="exceeds the 10 examples"):
        batches(numbered(10), 11, seed=3, drop_remainder=True)


def test_without_shuffling_the_order_is_that_of_the_files():
    stream = batches(numbered(5), 4, seed=0, shuffle=False)
    np.testing.assert_array_equal(numbers(stream, 0, 2), [0, 1, 2, 3, 4, 0, 1, 2])


def test_labels_belong_to_their_images():
    stream = batches(numbered(1000), 64, seed=0)
    np.testing.assert_array_equal(stream[9]["label"], numbers(stream, 9, 10))
    assert stream[9]["label"].dtype == np.int32
    unlabelled = numbered(10)
    unlabelled = replace(
        unlabelled, source=Arrays(unlabelled.source.items, None), label_names=None
    )
    assert set(batches(unlabelled, 2, seed=0)[0]) == {"image"}


def test_hosts_together_read_the_global_batch():
    whole = batches(numbered(50), 12, seed=5)
    parts = [
        batches(numbered(50), 12, seed=5, rows=np.arange(4 * p, 4 * p + 4))
        for p in range(3)
    ]
    for step in (0, 4, 1000):
        together = np.concatenate([numbers(part, step, step + 1) for part in parts])
        np.testing.assert_array_equal(together, numbers(whole, step, step + 1))


@pytest.mark.parametrize("num_threads", [0, 1, 4])
@pytest.mark.parametrize("max_bytes", [0, 2**30])
def test_resuming_gives_what_the_stream_gives(num_threads, max_bytes):
    dataset = numbered(100)
    dataset = replace(dataset, source=Records(100, dataset.source.__getitem__))
    stream = batches(dataset, 16, seed=2, max_bytes=max_bytes)
    straight = batches(numbered(100), 16, seed=2)
    with contextlib.closing(iterate(stream, 37, num_threads=num_threads)) as iterator:
        for step in range(37, 57):
            batch = next(iterator)
            np.testing.assert_array_equal(batch["image"], straight[step]["image"])
            np.testing.assert_array_equal(batch["label"], straight[step]["label"])
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32


def test_another_process_draws_the_same_batches():
    program = (
        "import hashlib\n"
        "from ddpm_jax.data import batches, load\n"
        "image = batches(load('digits'), 128, seed=7)[4321]['image']\n"
        "print(hashlib.sha256(image.tobytes()).hexdigest())\n"
    )
    theirs = subprocess.check_output([sys.executable, "-c", program], text=True)
    image = batches(load("digits"), 128, seed=7)[4321]["image"]
    assert theirs.strip() == hashlib.sha256(image.tobytes()).hexdigest()


def test_closing_ends_the_threads_while_reading():
    def read(index):
        time.sleep(0.005)
        return {"image": np.zeros((1, 1, 2), np.uint8), "label": index}

    dataset = replace(numbered(64), source=Records(64, read))
    before = set(threading.enumerate())
    iterator = iterate(batches(dataset, 8, seed=0, max_bytes=0), num_threads=3)
    next(iterator)
    started = set(threading.enumerate()) - before
    assert started
    iterator.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


def test_an_unreadable_example_reaches_the_caller():
    def read(index):
        raise UserError("cannot read the image 3.png")

    dataset = replace(numbered(8), source=Records(8, read))
    with pytest.raises(UserError, match=r"3\.png"):
        batches(dataset, 2, seed=0)
    stream = batches(dataset, 2, seed=0, max_bytes=0)
    with (
        contextlib.closing(iterate(stream)) as iterator,
        pytest.raises(UserError, match=r"3\.png"),
    ):
        next(iterator)


def test_once_shows_each_example_once():
    parts = list(once(numbered(10), 4))
    assert [part["image"].shape for part in parts] == [(4, 1, 1, 2)] * 3
    labels = np.concatenate([part["label"][part["mask"]] for part in parts])
    np.testing.assert_array_equal(labels, np.arange(10))
    np.testing.assert_array_equal(parts[-1]["mask"], [True, True, False, False])
    np.testing.assert_array_equal(parts[-1]["label"], [8, 9, 9, 9])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_decoding_keeps_every_example_in_its_place(num_threads):
    whole = numbered(600)
    lazy = replace(whole, source=Records(600, whole.source.__getitem__))
    source = decoded(lazy, num_threads=num_threads).source
    np.testing.assert_array_equal(source.items, whole.source.items)
    np.testing.assert_array_equal(source.labels, np.arange(600))


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [
        (0, {}, "batch_size=0"),
        (8, {"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_that_cannot_be(batch_size, options, message):
    with pytest.raises(UserError, match=message):
        batches(numbered(10), batch_size, **({"seed": 0} | options))
