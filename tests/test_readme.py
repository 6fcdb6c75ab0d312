"""README tells the truth: it is short, its code runs, and so do the tables of docs/."""

import ast
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from untrained import write_digits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_a_page_and_no_more():
    assert len(README.splitlines()) <= 160
    assert "not trained" not in README


def test_its_eight_lines_run(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "runs" / "digits")
    names = {}
    exec(compile(ast.parse(code), "README.md", "exec"), names)
    images = names["images"]
    assert images.shape == (16, 8, 8, 1)
    assert np.isfinite(images).all() and np.abs(images).max() <= 1
    assert (tmp_path / "sevens.png").exists()
    assert names["walk"].shape == (1, 6, 8, 8, 1)
    assert np.array_equal(names["z"], images)
    assert len([line for line in code.splitlines() if line]) <= 8


def test_the_example_of_own_features_runs(capsys):
    text = (ROOT / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(ast.parse(code), "evaluation.md", "exec"), {})
    distance, precision = map(float, capsys.readouterr().out.split())
    # Means of 0..255 and of 0..249: three colours are 3 apart each, and the variance
    # of a mean of 64 is a 64th: (256^2 - 1) / 12 / 64 against (250^2 - 1) / 12 / 64.
    spreads = [((n**2 - 1) / 12 / 64) ** 0.5 for n in (256, 250)]
    assert abs(distance - (27 + 3 * (spreads[0] - spreads[1]) ** 2)) < 12
    assert 0.5 < precision < 1


def test_every_function_of_the_lecture_table_exists():
    text = (ROOT / "docs" / "formulas.md").read_text()
    links = re.findall(r"\[(`[^\]]+)\]\(\.\./(ddpm_jax/[\w/]+\.py)\)", text)
    assert len(links) >= 40
    for text, path in links:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", text):
            found = module
            for part in name.removeprefix(f"{Path(path).stem}.").split("."):
                assert hasattr(found, part), f"{path} has no {name}"
                found = getattr(found, part)


def test_every_recipe_is_in_the_table():
    text = (ROOT / "docs" / "recipes.md").read_text()
    for recipe in (ROOT / "configs").glob("*.py"):
        assert f"configs/{recipe.name}" in text


@pytest.mark.parametrize("name", ["results.md", "likelihood.md"])
def test_who_prints_a_scatter_says_what_it_is_over(name):
    """A section with a measured ± says over how many training runs."""
    text = (ROOT / "docs" / name).read_text()
    sections = re.split(r"^## ", text, flags=re.M)
    measured = [part for part in sections if re.search(r"\d ± \d", part)]
    assert measured
    for part in measured:
        assert re.search(r"training\s+runs?\b", part), part.splitlines()[0]
        assert re.search(r"± is\s+over", part), part.splitlines()[0]
