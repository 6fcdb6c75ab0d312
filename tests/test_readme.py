"""The README tells the truth: its code runs, its links lead somewhere, names exist."""

import ast
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from untrained import write_digits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))


def test_the_first_lines_sample_from_a_model(tmp_path, monkeypatch):
    code, _ = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "runs" / "digits")
    names = {}
    exec(compile(ast.parse(code), "README.md", "exec"), names)
    images = names["images"]
    assert images.shape == (16, 8, 8, 1)
    assert np.isfinite(images).all() and np.abs(images).max() <= 1
    assert (tmp_path / "sevens.png").exists()


def test_the_library_example_runs_and_says_the_right_shapes():
    _, code = re.findall(r"```python\n(.*?)```", README, re.S)
    names = {}
    exec(compile(ast.parse(code), "README.md", "exec"), names)
    images, film = names["images"], names["film"]
    assert images.shape == (16, 8, 8, 1)
    assert film.shape == (10, 16, 8, 8, 1)
    # The denoiser of the example is exact for standard normal data: so are samples.
    assert abs(float(images.mean())) < 4 / np.sqrt(images.size)
    assert abs(float(images.var()) - 1) < 4 * np.sqrt(2 / images.size)


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(document):
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    missing = [
        link
        for link in links
        if "://" not in link and not (document.parent / link).exists()
    ]
    assert not missing


def test_every_function_of_the_lecture_table_exists():
    links = re.findall(r"\[(`[^\]]+)\]\((ddpm_jax/[\w/]+\.py)\)", README)
    assert len(links) >= 20
    for text, path in links:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", text):
            found = module
            for part in name.removeprefix(f"{Path(path).stem}.").split("."):
                assert hasattr(found, part), f"{path} has no {name}"
                found = getattr(found, part)


def test_every_recipe_is_in_the_readme():
    for recipe in (ROOT / "configs").glob("*.py"):
        assert f"configs/{recipe.name}" in README


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
