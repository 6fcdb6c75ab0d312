"""The disk cache: the same pixels, decoded once, whatever interrupts the writing."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import Records, batches, cached, decoded, in_memory, load, ready
from ddpm_jax.errors import UserError

IMAGE = 8 * 8 * 3  # bytes
COUNT = 23


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def open_folder(folder, **options):
    return load(f"folder:{folder}", image_size=8, channels=3, cache=True, **options)


def without_decoding(dataset):
    """The same data set, refusing to decode; its labels are known without."""

    def read(index):
        raise AssertionError(f"image {index} was decoded")

    return replace(dataset, source=replace(dataset.source, read=read))


def counted(dataset, seen):
    def read(index):
        seen.append(index)
        return dataset.source.read(index)

    return replace(dataset, source=replace(dataset.source, read=read))


def shards(tmp_path):
    return sorted((tmp_path / "cache" / "decoded").glob("*/*/*.array_record"))


def test_a_moved_folder_is_not_decoded_again(folder, tmp_path):
    images, _ = in_memory(cached(open_folder(folder)))
    moved = without_decoding(open_folder(folder.rename(tmp_path / "moved")))
    np.testing.assert_array_equal(in_memory(cached(moved))[0], images)
    assert len(list((tmp_path / "cache" / "decoded").glob("*/*/index.json"))) == 1


def test_pixels_and_labels_come_back_and_are_decoded_once(folder, tmp_path):
    dataset, seen, said = open_folder(folder), [], []
    images, labels = in_memory(dataset)
    first = cached(counted(dataset, seen), shard_bytes=5 * IMAGE, report=said.append)
    assert sorted(seen) == list(range(COUNT))
    assert len(shards(tmp_path)) == 5  # of 5 images, the last of 3
    again = cached(without_decoding(dataset), shard_bytes=5 * IMAGE)
    for kept in (first, again):
        got_images, got_labels = in_memory(kept)
        np.testing.assert_array_equal(got_images, images)
        np.testing.assert_array_equal(got_labels, labels)
    assert kept.fingerprint == dataset.fingerprint
    where = str(shards(tmp_path)[0].parent)
    assert len(said) == 2 and all(where in line for line in said)


def test_a_changed_file_and_another_preparation_are_decoded_anew(folder, tmp_path):
    cached(open_folder(folder))
    before = shards(tmp_path)
    os.utime(folder / "a" / "00.png", ns=(1, 1))
    Image.new("RGB", (12, 9), "red").save(folder / "a" / "00.png")
    changed = cached(open_folder(folder))
    np.testing.assert_array_equal(changed.source[0]["image"][0, 0], [255, 0, 0])
    after = shards(tmp_path)
    assert len(after) == 1 and after != before  # the former state is gone
    seen = []
    cached(counted(open_folder(folder, resize="squash"), seen))
    assert len(seen) == COUNT and len(shards(tmp_path)) == 2


def test_what_is_too_large_for_memory_trains_from_the_cache(folder):
    dataset = open_folder(folder)
    plain = batches(decoded(dataset), 6, seed=3)
    on_disk = batches(dataset, 6, seed=3, max_bytes=COUNT * IMAGE - 1)
    again = batches(without_decoding(dataset), 6, seed=3, max_bytes=0)
    for stream in (on_disk, again):
        for step in (0, 5):
            for part in ("image", "label"):
                np.testing.assert_array_equal(stream[step][part], plain[step][part])


def test_it_can_be_turned_off_and_is_not_used_in_memory(folder, tmp_path):
    dataset = open_folder(folder)
    assert ready(replace(dataset, cache_key=""), max_bytes=0).source is dataset.source
    assert not isinstance(ready(dataset).source, Records)
    assert not (tmp_path / "cache").exists()


def test_a_process_killed_while_writing_goes_on_where_it_was(folder, tmp_path):
    script = f"""
        import dataclasses, os, signal
        from ddpm_jax.data import cached, load

        dataset = load({f"folder:{folder}"!r}, image_size=8, channels=3, cache=True)
        read, seen = dataset.source.read, []

        def read_and_die(index):
            seen.append(index)
            if len(seen) == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(index)

        source = dataclasses.replace(dataset.source, read=read_and_die)
        cached(dataclasses.replace(dataset, source=source), shard_bytes={4 * IMAGE})
    """
    program = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(program, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    whole = len(shards(tmp_path))
    dataset, seen = open_folder(folder), []
    kept = cached(counted(dataset, seen), shard_bytes=4 * IMAGE)
    assert whole < 6 and len(seen) == COUNT - 4 * whole
    np.testing.assert_array_equal(in_memory(kept)[0], in_memory(dataset)[0])
    assert not list(shards(tmp_path)[0].parent.glob(".*"))


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_shard_that_was_lost_is_written_again(folder, tmp_path, damage):
    dataset = open_folder(folder)
    cached(dataset, shard_bytes=6 * IMAGE)
    path = shards(tmp_path)[1]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-100])
    seen = []
    kept = cached(counted(dataset, seen), shard_bytes=6 * IMAGE)
    assert sorted(seen) == list(range(6, 12))
    np.testing.assert_array_equal(in_memory(kept)[0], in_memory(dataset)[0])


def test_a_damaged_image_comes_from_its_file_and_the_next_start_mends(
    folder, tmp_path, capsys
):
    dataset = open_folder(folder)
    cached(dataset, shard_bytes=12 * IMAGE)
    path = shards(tmp_path)[0]
    content = bytearray(path.read_bytes())
    pixels = dataset.source[7]["image"].tobytes()[20:40]  # noise stays as it is
    content[content.index(pixels)] ^= 1
    path.write_bytes(content)
    kept = cached(dataset, shard_bytes=12 * IMAGE)
    np.testing.assert_array_equal(in_memory(kept)[0], in_memory(dataset)[0])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {path} of the cache is damaged (")
    seen = []
    kept = cached(counted(dataset, seen), shard_bytes=12 * IMAGE)
    assert sorted(seen) == list(range(12))  # of that shard alone
    again = without_decoding(dataset)
    kept = cached(again, shard_bytes=12 * IMAGE)
    np.testing.assert_array_equal(in_memory(kept)[0], in_memory(dataset)[0])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 100_000, None])
def test_a_damaged_index_is_written_anew(folder, tmp_path, content):
    dataset = open_folder(folder)
    cached(dataset, shard_bytes=12 * IMAGE)
    path = shards(tmp_path)[0].with_name("index.json")
    before = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    kept = cached(dataset, shard_bytes=12 * IMAGE)
    np.testing.assert_array_equal(in_memory(kept)[0], in_memory(dataset)[0])
    assert path.read_bytes() == before


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    dataset = open_folder(folder)
    images = in_memory(cached(dataset))[0]
    np.testing.assert_array_equal(images, in_memory(dataset)[0])
    said = capsys.readouterr().err.splitlines()
    assert any("images are decoded each time" in line for line in said)
    assert all(line.startswith("note: ") for line in said)


def test_no_room(folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 9}))
    with pytest.raises(UserError, match=r"cache=False") as raised:
        cached(open_folder(folder))
    assert "DDPM_JAX_CACHE" in str(raised.value)


def test_a_broken_picture_is_named_and_nothing_half_made_is_used(folder, tmp_path):
    (folder / "b" / "05.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"b/05\.png"):
        cached(open_folder(folder), shard_bytes=5 * IMAGE)
    kept = cached(open_folder(folder, skip_broken=True), shard_bytes=5 * IMAGE)
    assert len(in_memory(kept)[0]) == COUNT - 1
