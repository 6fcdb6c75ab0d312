"""The record beside an exported model, which anyone may have changed."""

import json

import pytest
from settings import default

from ddpm_jax.commands.import_model import RECORD, read_record
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import to_json

STORED = {
    "config": to_json(default()),
    "data": {
        "name": "digits",
        "image_shape": [8, 8, 1],
        "label_names": ["0", "1"],
        "fingerprint": "abc",
    },
    "step": 7,
}
MODELS = [
    {**to_json(default()), "network": network}
    for network in (7, {"a": 1}, {"kind": "unet", "channels": "x"}, {"kind": "x"})
]
SHAPES = [], [8, 8], [8, 8, "1"], [8, 8, 1.0], [0, 8, 1], [8, 8, 1, 1], 8, None
CHANGES = [
    *(("config", value) for value in (None, [], "x", *MODELS)),
    *(("step", value) for value in (None, "1", -1, 1.5, True, [1])),
    *(("data", value) for value in (None, [], {}, "x")),
    *(("data.image_shape", value) for value in SHAPES),
    *(("data.label_names", value) for value in (7, [None], [["a"]])),
    *(("data.name", value) for value in (None, {}, [])),
    ("data.latents", {"a": 1}),
]


def test_a_record_is_read(tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / RECORD).write_text(json.dumps(STORED))
    recipe, info, step = read_record(tmp_path)
    assert recipe == default() and step == 7
    assert info.image_shape == (8, 8, 1) and info.label_names == ("0", "1")


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_record_that_somebody_changed_is_refused_in_a_line(tmp_path, name, value):
    record = json.loads(json.dumps(STORED))
    *inner, last = name.split(".")
    (record["data"] if inner else record)[last] = value
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"cannot be read \(.*\); remove it") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 200_000, b"\xff", b"{}"])
def test_a_record_that_is_none_is_refused_in_a_line(tmp_path, content):
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read \(.*\); remove it"):
        read_record(tmp_path)
