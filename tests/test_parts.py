import numpy as np
import pytest

from ddpm_jax import files
from ddpm_jax.commands import parts
from ddpm_jax.errors import UserError


def save(folder, start, end, kind="x"):
    numbers = np.arange(start, end)
    arrays = {"number": numbers, "byte": (numbers % 7).astype(np.uint8)}
    parts.save_part(folder, start, arrays, kind)


def test_parts_come_back_in_order_and_in_their_types(tmp_path):
    for start, end in [(8, 12), (0, 4), (4, 8)]:
        save(tmp_path, start, end)
    assert parts.num_done(tmp_path, "x") == 12
    whole = parts.load_parts(tmp_path, "x")
    np.testing.assert_array_equal(whole["number"], np.arange(12))
    assert whole["byte"].dtype == np.uint8


def test_kinds_do_not_mix(tmp_path):
    save(tmp_path, 0, 4, "one")
    save(tmp_path, 0, 6, "other")
    assert parts.num_done(tmp_path, "one") == 4
    parts.drop_parts(tmp_path, "one")
    assert parts.num_done(tmp_path, "one") == 0
    assert parts.num_done(tmp_path, "other") == 6


@pytest.mark.parametrize("start", [5, 3])
def test_what_lies_behind_a_gap_or_overlaps_is_done_again(tmp_path, start):
    save(tmp_path, 0, 4)
    save(tmp_path, start, 9)
    assert parts.num_done(tmp_path, "x") == 4
    save(tmp_path, 4, 9)
    np.testing.assert_array_equal(
        parts.load_parts(tmp_path, "x")["number"], np.arange(9)
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_part_is_done_again_and_all_after_it(tmp_path, damage):
    for start in (0, 4, 8):
        save(tmp_path, start, start + 4)
    (path,) = (tmp_path / "x").glob("00000004-*")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[data.index(np.arange(4, 8).tobytes()) + 3] ^= 1
    path.write_bytes({"truncated": data[:200], "flipped": data, "empty": b""}[damage])
    assert parts.num_done(tmp_path, "x") == 4
    assert len(list((tmp_path / "x").iterdir())) == 1


def test_a_part_that_breaks_between_is_named(tmp_path):
    save(tmp_path, 0, 4)
    (path,) = (tmp_path / "x").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=path.name):
        parts.load_parts(tmp_path, "x")


@pytest.mark.parametrize("arrays", [{}, {"number": np.array(4)}])
def test_a_part_without_rows_is_done_again(tmp_path, arrays):
    files.write_npz(tmp_path / "x" / "00000000-00000004.npz", arrays)
    assert parts.num_done(tmp_path, "x") == 0


def test_other_settings_are_refused_by_name(tmp_path):
    parts.check_settings(tmp_path, {"seed": 0, "shape": (8, 8)})
    parts.check_settings(tmp_path, {"seed": 0, "shape": [8, 8]})
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        parts.check_settings(tmp_path, {"seed": 1, "shape": (8, 8)})


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})

    def fails(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        files.write(path, fails)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    assert files.cache_folder("a", "b") == tmp_path / "a" / "b"
    monkeypatch.delenv("DDPM_JAX_CACHE")
    assert files.cache_folder("a").parts[-3:] == (".cache", "ddpm_jax", "a")
