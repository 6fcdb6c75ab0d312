"""The table of mutants still fits the sources; `python tests/mutants.py` runs it."""

import ast

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_still_be_made_and_its_test_exists(mutant):
    text = (ROOT / "ddpm_jax" / mutant.file).read_text()
    assert text.count(mutant.right) == 1 and mutant.wrong != mutant.right
    ast.parse(text.replace(mutant.right, mutant.wrong))
    file, name = mutant.test.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in tree.body if hasattr(node, "name")}
