"""What is read from a file of anyone's: whole, or refused with one kind of error."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from ddpm_jax.runtime import files

WHOLE = {"a": np.arange(1000.0), "b": np.array(7), "text": np.array("said")}


@pytest.fixture
def path(tmp_path):
    """A file of three arrays."""
    files.write_npz(tmp_path / "s.npz", WHOLE)
    return tmp_path / "s.npz"


def test_what_is_written_is_read(path):
    found = files.read_npz(path)
    assert found.keys() == WHOLE.keys()
    for name, array in WHOLE.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_only_what_is_asked_for_is_read(path):
    assert files.read_npz(path, only=("b", "absent")) == {"b": 7}


def test_an_absent_file_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_npz(tmp_path / "s.npz")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(files.DamagedError):
        files.read_npz(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(files.DamagedError):
        files.read_npz(path)


def test_whatever_byte_is_garbled_no_other_error_comes_and_no_other_number(path):
    """Each byte of the first 300, of the last 400, and each 97th between them."""
    content = path.read_bytes()
    last = len(content) - 400
    refused = 0
    for place in [*range(300), *range(300, last, 97), *range(last, len(content))]:
        garbled = bytearray(content)
        garbled[place] ^= 0xFF
        path.write_bytes(garbled)
        try:
            found = files.read_npz(path)
        except files.DamagedError as error:
            assert "\n" not in str(error)
            refused += 1
        else:  # a byte that says nothing of the arrays, or only of their names
            for array in found.values():
                assert any(np.array_equal(array, one) for one in WHOLE.values())
    assert refused > 500


class Runs:
    """What would run a command if it were unpickled."""

    def __init__(self, marker):
        """Take the file that the command would make."""
        self.marker = marker

    def __reduce__(self):
        """Say what to run."""
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["object array", "pickle", "zipped pickle"])
def test_no_pickle_is_executed(tmp_path, kind):
    path, marker = tmp_path / "s.npz", tmp_path / "ran"
    if kind == "object array":
        np.savez(path, a=np.array([Runs(marker)], object))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Runs(marker)))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", pickle.dumps(Runs(marker)))
    with pytest.raises(files.DamagedError):
        files.read_npz(path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"mu sigma\n", b"PK\x03\x04", b"\x93NUMPY"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(files.DamagedError):
        files.read_npz(tmp_path / "s.npz")


def test_a_single_array_is_named_as_such(tmp_path):
    np.save(tmp_path / "s.npy", np.arange(3))
    with pytest.raises(files.DamagedError, match="single array"):
        files.read_npz(tmp_path / "s.npy")


def test_arrays_beyond_the_memory_are_refused_before_they_are_unpacked(path):
    """The directory of the archive is made to claim what a bomb unpacks to."""
    huge = 2**62
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1000))
        archive.getinfo("a.npy").file_size = huge
    with pytest.raises(files.DamagedError, match=r"it unpacks to 4,611,686,018\.4 GB"):
        files.read_npz(path)


def test_a_pipe_is_no_npz(tmp_path):
    os.mkfifo(tmp_path / "p.npz")
    with pytest.raises(files.DamagedError, match="not a regular file"):
        files.read_npz(tmp_path / "p.npz")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ünï 🙂.png", "ünï 🙂.png"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("two\nlines\u2028", "two\\nlines\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_any_name_is_spelled_in_one_line_of_utf8(name, expected):
    assert files.printable(name) == expected
    expected.encode()


def test_what_would_help_is_said_and_nothing_else(tmp_path):
    (tmp_path / "taken").write_text("a file of mine")
    refusals = {
        tmp_path / "taken" / "x": "a file is where a folder has to be",
        tmp_path / ("n" * 300): "choose a shorter name",
    }
    for path, remedy in refusals.items():
        with pytest.raises(files.UnwritableError, match=remedy) as refusal:
            files.write_text(path, "")
        assert "make room" not in str(refusal.value)
