"""The script that measures rooms, on modules whose lines are counted by hand."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "measure_rooms.py"

MODULE = '''"""A module.

With a docstring."""

import os  # a comment beside code counts its line

# A comment alone does not.
TEXT = """two
lines"""


def read(cfg, other):
    """Say something."""

    return (
        cfg,
        other,
    )


class A:
    """A class."""

    def write(self, config: ConfigDict | None) -> None:
        def inner(config: str):
            return config
'''


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("measure_rooms", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lines_functions_and_configs_of_a_module(script):
    found = script.measure_module("training/read.py", MODULE)
    # import, TEXT (2), def and return (4), class, write, inner, its return.
    assert found.lines == 1 + 2 + 1 + 4 + 1 + 1 + 1 + 1
    by_name = {name.split(":")[0]: lines for name, lines in found.functions.items()}
    assert by_name == {"read": 5, "write": 3, "inner": 2}
    # `read` by its name, `write` by its annotation; `inner` takes a text.
    assert found.config_functions == 2


@pytest.mark.parametrize(
    ("path", "room"),
    [
        ("diffusion/losses.py", "diffusion"),
        ("models/unet.py", "networks"),
        ("systems/masks.py", "conditioning"),
        ("systems/cascade.py", "sampling"),
        ("training/classify.py", "tasks"),
        ("training/step.py", "training"),
        ("files.py", "runtime"),
        ("cli.py", "top"),
    ],
)
def test_rooms_have_the_names_of_today(script, path, room):
    assert script.room_of(path) == room


def test_the_table_adds_up(script):
    sources = {
        "diffusion/losses.py": "a = 1\nb = 2\n",
        "commands/train.py": "def run(cfg):\n    return cfg\n",
        "data/sources.py": "c = 3\n",
        "codecs/pixels.py": "d = 4\ne = 5\n",
    }
    lines = script.table({"now": script.measure(sources)}).split("\n")
    rows = dict(line.strip("| ").split(" | ") for line in lines[2:])
    assert rows["`diffusion/`"] == "2" and rows["**all**"] == "7"
    assert rows["core"] == rows["plumbing"] == "2"
    assert rows["plumbing to core"] == "1.0"
    assert rows["rooms that compute"] == "4" and rows["plumbing to these"] == "0.5"
    assert rows["functions that take a whole config"] == "1"
    assert rows["longest function, lines of code"] == "2 (`run`, commands/train.py)"


def test_the_page_shows_every_room_there_is():
    root = SCRIPT.parents[1]
    page = (root / "docs" / "how-it-is-built.md").read_text()
    rooms = {path.parent.name for path in (root / "ddpm_jax").glob("*/__init__.py")}
    assert [r for r in rooms if f"../ddpm_jax/{r}/" not in page] == []
