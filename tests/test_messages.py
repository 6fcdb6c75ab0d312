"""Messages of the program quote files and names of anyone's: they stay plain lines."""

import struct

import pytest

from ddpm_jax.cli import main

STEERING = "\x1b[2J\x1b]0;title\x07\r\n\u2028\u202e\x9b"


@pytest.mark.parametrize("mark", STEERING, ids=ascii)
def test_an_error_is_one_printable_line(tmp_path, capsys, mark):
    assert main(["sample", f"{tmp_path}/a{mark}b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said[:-1].isprintable() and said[-1] == "\n"


def test_a_file_of_weights_cannot_steer_the_terminal(tmp_path, capsys):
    name = b'{"a\\u001b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    content = struct.pack("<Q", len(name)) + name + bytes(4)
    (tmp_path / "it.safetensors").write_bytes(content)
    source = f"{tmp_path / 'it.safetensors'}"
    assert main(["import", source, f"{tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert r"a\x1b[2J" in said and said[:-1].isprintable()
