"""Links of the documents lead somewhere, pictures have words, each page has one place.

Anchors are those that GitHub makes of headings; `make docs` checks those of the site.
Nothing is fetched: an address elsewhere is only looked at.
"""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
PICTURES = (".png", ".gif", ".webp", ".jpg", ".svg")
LEAST_WORDS = 3  # of what a picture is called for those who do not see it

FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1[ \t]*$", re.S | re.M)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]*)\)")


def prose(text):
    """Return a document without its blocks of code, and its spans of code empty."""
    return re.sub(r"`[^`\n]*`", "``", FENCE.sub("", text))


def links(text):
    """Yield (is a picture, text, target) of each link, also of one within another."""
    for image, words, target in _LINK.findall(text):
        yield bool(image), words, target
        yield from links(words)


def anchors(text):
    """Return the anchors that GitHub gives the headings of a document."""
    found = []
    for heading in re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = found.count(slug)
        found.append(f"{slug}-{again}" if again else slug)
    return found


def faults(text, folder):
    """Return what is wrong with the links of a document that lies in a folder."""
    found = []
    for is_picture, words, target in links(prose(text)):
        place, _, anchor = target.partition("#")
        if is_picture and len(words.split()) < LEAST_WORDS:
            found.append(f"{target}: no words for a picture: {words!r}")
        if not target:
            found.append(f"{words}: leads nowhere")
        if re.match(r"[a-z]+:", target):
            if not re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[\w./~%+-]*)?", place):
                found.append(f"{target}: no address of https")
            continue
        path = folder / place
        if place and not path.exists():
            found.append(f"{target}: is not there")
        elif is_picture and path.suffix not in PICTURES:
            found.append(f"{target}: is no picture")
        elif anchor:
            there = path.read_text() if place else text
            if anchor not in anchors(there):
                found.append(f"{target}: no such heading")
    if "<img" in prose(text) or "<a " in prose(text):
        found.append("HTML: its links are not checked")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document(document):
    assert not faults(document.read_text(), document.parent)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_links_of_a_notebook(notebook):
    lines = re.findall(r"^# ?(.*)$", notebook.read_text(), re.M)
    assert not faults("\n".join(lines), notebook.parent)


def test_every_picture_is_shown():
    shown = {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for is_picture, _, target in links(prose(document.read_text()))
        if is_picture
    }
    pictures = [p for p in (ROOT / "docs").iterdir() if p.suffix in PICTURES]
    assert not [p.name for p in pictures if p.resolve() not in shown]


def test_every_page_has_one_place_on_the_site():
    def pages(part):
        if isinstance(part, str):
            return [part]
        inner = part.values() if isinstance(part, dict) else part
        return [page for each in inner for page in pages(each)]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert len(nav) == 5
    outside = {"index.md", "changelog.md", "contributing.md"}
    expected = outside | {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(pages(nav)) == sorted(expected)


BAD = {
    "[a](missing.md)": "is not there",
    "[a](there.md#no-such)": "no such heading",
    "[a](#no-such)": "no such heading",
    "![](dot.png)": "no words",
    "![a picture](dot.png)": "no words",
    "![a picture of it](there.md)": "no picture",
    "[![](dot.png)](there.md)": "no words",
    "[![a picture of it](dot.png)](missing.md)": "is not there",
    "[a]()": "leads nowhere",
    "[a](http://example.org)": "no address of https",
    '<img src="dot.png">': "HTML",
}
GOOD = """\
# It's *here*: `x` & [more](there.md)

[a](there.md#heading-of-it-1) [b](#its-here-x--more) [c](https://example.org/a_b)
![a picture of it](dot.png) `[code](missing.md)`

```
[code](missing.md)
# no heading
```
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "there.md").write_text("# Heading of it\n\n## Heading of it\n")
    (tmp_path / "dot.png").touch()
    return tmp_path


@pytest.mark.parametrize("text", BAD)
def test_a_fault_is_found(text, folder):
    (fault,) = faults(text, folder)
    assert BAD[text] in fault


def test_what_is_right_is_no_fault(folder):
    assert faults(GOOD, folder) == []
