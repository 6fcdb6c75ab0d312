"""Safetensors files that are damaged, or that somebody made to do harm."""

import json
import os
import struct

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.weights.safetensors_file import read_safetensors, write_safetensors


def made_of(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


ONE = tensor([2], 0, 8)
BODY = np.array([1.5, -2], "<f4").tobytes()


def test_what_is_written_is_read(tmp_path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "b": np.ones((), "f2"),
    }
    write_safetensors(tmp_path / "it", tensors)
    found = read_safetensors(tmp_path / "it")
    assert sorted(found) == ["a", "b"]
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_file_made_by_hand_is_read(tmp_path):
    (tmp_path / "it").write_bytes(made_of({"a": ONE, "__metadata__": {"x": "y"}}, BODY))
    np.testing.assert_array_equal(read_safetensors(tmp_path / "it")["a"], [1.5, -2])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        made_of({"a": ONE}, BODY[:-1]),
        made_of({"a": ONE}, BODY + b"x"),
        made_of({"a": ONE}, BODY, length=2**62),  # it is not there
        made_of({"a": ONE}, BODY, length=2**64 - 1),
        made_of(b"{" * 100_000),
        made_of(b'{"a":' * 100_000),
        made_of([ONE], BODY),
        made_of(b"\xff\xfe", BODY),
        made_of({"a": tensor([2**62], 0, 8)}, BODY),
        made_of({"a": tensor([2**32, 2**32], 0, 8)}, BODY),  # the product overflows
        made_of({"a": tensor([2], 0, 2**62)}, BODY),
        made_of({"a": tensor([2], 8, 0)}, BODY),
        made_of({"a": tensor([-2], 0, 8)}, BODY),
        made_of({"a": ONE, "b": ONE}, BODY),  # one body under many names
        made_of({"a": tensor([2], 0, 8, "PICKLE")}, BODY),
    ],
)
def test_what_is_damaged_or_made_to_harm_is_refused_in_a_line(tmp_path, content):
    (tmp_path / "it.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="cut short or damaged") as caught:
        read_safetensors(tmp_path / "it.safetensors")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    (tmp_path / "it").write_bytes(made_of({"a": tensor([8], 0, 8, "F8_E4M3")}, BODY))
    with pytest.raises(UserError, match="of a type that NumPy lacks"):
        read_safetensors(tmp_path / "it")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to open it would take for ever
    for name in ("pipe", "absent", "."):
        with pytest.raises(UserError, match="is not a file"):
            read_safetensors(tmp_path / name)
