"""The examples of docs/library.md run as they stand, and keep what they promise."""

import ast
import re
from pathlib import Path

import pytest
from untrained import write_digits

TEXT = (Path(__file__).parents[1] / "docs" / "library.md").read_text()
RECIPES = dict(re.findall(r"^## ([^\n]+)\n.*?```python\n(.*?)```", TEXT, re.S | re.M))


def test_there_are_fifteen():
    assert len(RECIPES) == len(re.findall(r"^## ", TEXT, re.M)) == 15


def with_other_seeds(code, offset):
    """Add a number to every seed: what a recipe claims must not hang on its luck."""
    return re.sub(r"((?:random\.key|default_rng)\()(\w+)\)", rf"\1\2 + {offset})", code)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "runs/digits" in RECIPES[name]:
        write_digits(tmp_path / "runs" / "digits")
    tree = ast.parse(RECIPES[name])
    lines = [line for line in RECIPES[name].splitlines() if line.strip()]
    assert len(lines) <= 32
    assert isinstance(tree.body[-1], ast.Assert)  # nothing is claimed unchecked
    for code in dict.fromkeys(
        with_other_seeds(RECIPES[name], n) for n in (0, 1000, 2000)
    ):
        exec(compile(code, f"library.md, {name}", "exec"), {})
