"""What a release says of itself: license, citation, changelog agree with the code."""

import hashlib
import re
import tomllib
from pathlib import Path

import yaml

import ddpm_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_the_license_is_the_text_of_apache_2_0():
    # SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt as JAX and Optax ship
    # it: without the blank line that the original begins with.
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == (
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    )
    assert PROJECT["license"] == CITATION["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]


def test_the_citation_has_what_its_format_requires():
    # Citation File Format 1.2.0: these four keys are required.
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["authors"] == PROJECT["authors"]


def test_citation_and_changelog_know_the_version():
    released = re.findall(
        r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", CHANGELOG, re.M
    )
    newest, date = released[0]
    assert newest == str(CITATION["version"])
    version, _, development = ddpm_jax.__version__.partition(".dev")
    if development:  # on the way to the next
        assert tuple(map(int, version.split("."))) > tuple(map(int, newest.split(".")))
    else:
        assert version == newest
    assert date == str(CITATION["date-released"])
    order = [tuple(map(int, version.split("."))) for version, _ in released]
    assert order == sorted(order, reverse=True)
    assert CHANGELOG.index("## Unreleased") < CHANGELOG.index(f"## {newest}")
