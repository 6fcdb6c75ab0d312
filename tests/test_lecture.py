"""Each step of docs/lecture.md has a picture, its command, a number and a function.

The number has to stand where the step says that it was measured; the function has to
exist; code has to run. `make test-docs` runs the commands; links: `test_links.py`.
"""

import importlib
import re
from pathlib import Path

import pytest
from test_links import FENCE, anchors

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "lecture.md").read_text()
STEPS = dict(re.findall(r"^## \d+\. (.+?)\n(.*?)(?=^## )", TEXT, re.S | re.M))


def section(document, anchor):
    """Return a section of a document, with what lies below it."""
    masked = FENCE.sub(lambda block: block[0].replace("\n#", "\n "), document)
    heads = list(re.finditer(r"^(#+) +.+$", masked, re.M))
    names = anchors(document)
    assert len(names) == len(heads)
    head = heads[names.index(anchor)]
    after = [h.start() for h in heads if h.start() > head.start()]
    below = [len(h[1]) > len(head[1]) for h in heads if h.start() > head.start()]
    ends = [start for start, is_below in zip(after, below, strict=True) if not is_below]
    return document[head.start() : min(ends, default=len(document))]


def test_the_order_of_the_lecture():
    words = """Why GAN forward Schedules bound training sampling time class words image
    Latent DALL·E Imagen DreamFusion Magic3D Video weak"""
    for word, title in zip(words.split(), STEPS, strict=True):
        assert word in title


@pytest.mark.parametrize("title", STEPS)
def test_a_step_is_whole(title):
    text = STEPS[title]
    assert len(re.findall(r"^!\[", text, re.M)) == 1
    assert re.search(r"^```\n(\w+=\S* )*(python|make) ", text, re.M) or "```py" in text
    assert text.count("- *Measured:*") == text.count("- *Code:*") == 1


@pytest.mark.parametrize("title", STEPS)
def test_its_number_stands_where_it_was_measured(title):
    (measured,) = re.findall(r"- \*Measured:\*(.*?)\n- \*Code", STEPS[title], re.S)
    (bold,) = re.findall(r"\*\*(.+?)\*\*", measured)
    links = re.findall(r"\]\(([\w.-]*)#([\w·-]+)\)", measured)
    (page, anchor), *_ = links
    source = section((DOCS / (page or "lecture.md")).read_text(), anchor)
    if not page:  # in code of this page, which asserts it
        source = "".join(re.findall(r"```python\n(.*?)```", source, re.S))
    number = re.match(r"[\d.]+", bold)[0]
    as_share = f"{float(number) / 100:.4f}"
    assert re.search(rf"(?<![\d.])({number}|{as_share})(?!\d|\.\d)", source), bold


def test_functions_exist():
    links = re.findall(r"\[(`[^\]]+)\]\(\.\./(ddpm_jax/[\w/]+\.py)\)", TEXT)
    assert len(links) >= len(STEPS)
    for text, path in links:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", text):
            assert hasattr(module, name.removeprefix(f"{Path(path).stem}.")), name


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_code_holds_what_it_asserts(code):
    assert code.strip().splitlines()[-1].startswith("assert ")
    exec(compile(code, "lecture.md", "exec"), {})
