"""The recipes of docs/library.md run as they stand, and keep what they promise."""

import ast
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "library.md").read_text()
RECIPES = dict(re.findall(r"^## ([^\n]+)\n.*?```python\n(.*?)```", TEXT, re.S | re.M))


def test_there_are_eleven():
    assert len(RECIPES) == len(re.findall(r"^## ", TEXT, re.M)) == 11


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(name):
    tree = ast.parse(RECIPES[name])
    lines = [line for line in RECIPES[name].splitlines() if line.strip()]
    assert len(lines) <= 30
    assert isinstance(tree.body[-1], ast.Assert)  # nothing is claimed unchecked
    exec(compile(tree, f"library.md, {name}", "exec"), {})
