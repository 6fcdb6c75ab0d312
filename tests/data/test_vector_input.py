"""Vectors of a file, and which of their numbers are meant."""

import numpy as np
import pytest

from ddpm_jax.data import read_coordinates, read_vectors
from ddpm_jax.errors import UserError


@pytest.mark.parametrize("text", ["x,y\n1,2\n\n-3.5,4e-1\n", "1,2\n-3.5,0.4\n"])
def test_vectors_come_back_as_they_are(tmp_path, text):
    (tmp_path / "v.csv").write_text(text)
    found = read_vectors(tmp_path / "v.csv", 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([[1, 2], [-3.5, 0.4]]))


@pytest.mark.parametrize(
    "text", [None, "", "x,y\n", "1,2,3\n", "1,nan\n", "1,2\n3\n", b"\xff\xfe\x00"]
)
def test_a_file_without_vectors_is_one_line(tmp_path, text):
    path = tmp_path / "v.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"give a \.csv with 2 numbers") as caught:
        read_vectors(path, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size", "chosen"),
    [("y", 2, [1]), ("0", 2, [0]), ("x,z", 3, [0, 2]), ("4, 0", 5, [0, 4])],
)
def test_coordinates_by_letter_and_by_place(text, size, chosen):
    assert np.flatnonzero(read_coordinates(text, size)).tolist() == chosen


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("z", 2, "use x, y or places from 0 to 1"),
        ("2", 2, "places from 0 to 1"),
        ("x", 5, "use places from 0 to 4"),
        ("-1", 2, "names no numbers"),
        ("x,y", 2, "means all of 2"),
        (",", 2, "means none of 2"),
    ],
)
def test_coordinates_that_there_are_not(text, size, message):
    with pytest.raises(UserError, match=message):
        read_coordinates(text, size)
