"""Names that docs/api.md calls public exist, under that name, and have a docstring."""

import importlib
import re
from pathlib import Path

import pytest

import ddpm_jax

TEXT = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
MODELS, _, TABLES = TEXT.partition("## Recipes and specs")
NAMES = re.findall(r"^\| `(ddpm_jax\.[\w.]+)`", MODELS, re.M)
for module, cell in re.findall(r"^\| `(ddpm_jax[\w.]*)` \| ([^|]*) \|", TABLES, re.M):
    NAMES += [f"{module}.{name}" for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name(name):
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module), last)
    assert callable(found) is not last.isupper()  # EPS, X0, ... are values
    if callable(found):
        assert found.__doc__


def test_there_are_many():
    assert len(NAMES) == len(set(NAMES)) > 60


def test_methods_of_models_are_there():
    rows = re.findall(r"^\| `(ddpm_jax\.\w+\.\w+Model)` \| ([^;\n]*)", TEXT, re.M)
    assert len(rows) == 4
    for name, methods in rows:
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last)
        for method in re.findall(r"`(\w+)`", methods):
            assert callable(getattr(found, method)), f"{name}.{method}"


def test_what_is_exported_is_public():
    assert "ddpm_jax.load" in NAMES
    public = {n for n in vars(ddpm_jax) if not n.startswith("_")} - {"os", "Any"}
    modules = {n for n in public if hasattr(getattr(ddpm_jax, n), "__path__")}
    files = {n for n in public if hasattr(getattr(ddpm_jax, n), "__file__")}
    assert public - modules - files == {"load"}
