import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.runtime import partial_results as parts


def save(folder, start, end, kind="x"):
    numbers = np.arange(start, end)
    arrays = {"number": numbers, "byte": (numbers % 7).astype(np.uint8)}
    parts.save_part(folder, start, arrays, kind)


def num_done(folder, kind="x", total=12):
    return parts.PartialResults(folder, kind, total).done


def test_parts_come_back_in_order_and_in_their_types(tmp_path):
    for start, end in [(8, 12), (0, 4), (4, 8)]:
        save(tmp_path, start, end)
    stored = parts.PartialResults(tmp_path, "x", 12)
    assert stored.done == 12
    whole = stored.whole()
    np.testing.assert_array_equal(whole["number"], np.arange(12))
    assert whole["byte"].dtype == np.uint8


def test_kinds_do_not_mix(tmp_path):
    save(tmp_path, 0, 4, "one")
    save(tmp_path, 0, 6, "other")
    one = parts.PartialResults(tmp_path, "one", 12)
    assert one.done == 4
    one.drop()
    assert num_done(tmp_path, "one") == 0
    assert num_done(tmp_path, "other") == 6


@pytest.mark.parametrize("start", [5, 3])
def test_what_lies_behind_a_gap_or_overlaps_is_done_again(tmp_path, start):
    save(tmp_path, 0, 4)
    save(tmp_path, start, 9)
    assert num_done(tmp_path) == 4
    save(tmp_path, 4, 9)
    whole = parts.PartialResults(tmp_path, "x", 12).whole()
    np.testing.assert_array_equal(whole["number"], np.arange(9))


def test_a_part_beyond_the_end_is_not_counted(tmp_path):
    save(tmp_path, 0, 4)
    save(tmp_path, 4, 9)
    assert num_done(tmp_path, total=8) == 4


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "folder"])
def test_a_damaged_part_is_done_again_and_all_after_it(tmp_path, damage):
    for start in (0, 4, 8):
        save(tmp_path, start, start + 4)
    (path,) = (tmp_path / "x").glob("00000004-*")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[data.index(np.arange(4, 8).tobytes()) + 3] ^= 1
    if damage == "folder":
        path.unlink()
        (path / "within").mkdir(parents=True)
    else:
        content = {"truncated": data[:200], "flipped": data, "empty": b""}[damage]
        path.write_bytes(content)
    assert num_done(tmp_path) == 4
    assert len(list((tmp_path / "x").iterdir())) == 1


@pytest.mark.parametrize("arrays", [{}, {"number": np.array(4)}])
def test_a_part_without_rows_is_done_again(tmp_path, arrays):
    files.write_npz(tmp_path / "x" / "00000000-00000004.npz", arrays)
    assert num_done(tmp_path) == 0


def measure(parts_of, stop=12):
    """Measure two examples at a time: their numbers."""
    while parts_of.done < stop:
        parts_of.add({"number": np.arange(parts_of.done, parts_of.done + 2)})


def test_another_process_that_ends_first_takes_nothing_from_the_whole(tmp_path):
    """Two measure the same; the one that ends drops the parts of both."""
    first, second = (parts.PartialResults(tmp_path, "x", 12) for _ in range(2))
    measure(first, stop=6)
    measure(second)
    second.drop()
    measure(first)
    for one in (first, second):
        np.testing.assert_array_equal(one.whole()["number"], np.arange(12))


def test_what_need_not_be_kept_is_noted_where_it_cannot_be(tmp_path, capsys):
    (tmp_path / "x").write_text("a file where the parts' folder should be")
    measured = parts.PartialResults(tmp_path, "x", 12, optional=True)
    measure(measured)
    np.testing.assert_array_equal(measured.whole()["number"], np.arange(12))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: ") and "not kept" in line
    with pytest.raises(UserError, match="cannot write"):
        measure(parts.PartialResults(tmp_path, "x", 12))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a": 1'])
def test_damaged_settings_drop_what_they_vouched_for(tmp_path, content, capsys):
    parts.check_settings(tmp_path, {"seed": 0})
    save(tmp_path, 0, 4)
    (tmp_path / "result.npz").write_bytes(b"of unknown settings")
    (tmp_path / "settings.json").write_bytes(content)
    parts.check_settings(tmp_path, {"seed": 1}, ("x", "result.npz"))
    assert capsys.readouterr().err.startswith(f"note: {tmp_path / 'settings.json'}")
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        parts.check_settings(tmp_path, {"seed": 0})


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b"{}"])
def test_a_damaged_result_is_noted_and_not_there(tmp_path, content, capsys):
    path = tmp_path / "scores.json"
    assert parts.stored_result(path, ("a",)) is None
    assert capsys.readouterr().err == ""
    path.write_bytes(content)
    assert parts.stored_result(path, ("a",)) is None
    files.write_json(tmp_path / "other.json", {"a": 1})
    assert parts.stored_rows(tmp_path.iterdir(), ("a",)) == [{"a": 1}]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(str(path) in line for line in said)
    assert said[0].endswith("measuring anew.") and said[1].endswith("left out.")


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
