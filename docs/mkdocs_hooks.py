"""What the site of `make docs` has beside docs/*.md: README and its kin, docstrings.

Documents link to files of the repository. On the site a module becomes its place on the
page of its room, another document its page, and any other file its name alone.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddpm_jax"
_OUTSIDE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each room into the part "Reference"."""
    parts = {name: pages for part in config.nav or () for name, pages in part.items()}
    modules = [{room: f"api/{room}.md"} for room in _rooms()]
    if not any("Modules" in page for page in parts["Reference"]):
        parts["Reference"].append({"Modules": modules})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    pages = {page: (ROOT / path).read_text() for page, path in _OUTSIDE.items()}
    for room, modules in _rooms().items():
        blocks = [f"::: {module}\n" for module in modules]
        pages[f"api/{room}.md"] = "\n".join([f"# {room}\n", *blocks])
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Lead links to files of the repository to where their content is on the site."""
    del config
    source = page.file.src_uri
    if source.startswith("api/"):
        return markdown
    # Where the file itself lies, from which its links lead on.
    place = _OUTSIDE.get(source, f"docs/{source}")

    def lead(link: re.Match) -> str:
        image, text, target, anchor = link.groups()
        text = _LINK.sub(lead, text)  # a picture that is a link
        if "://" in target:
            return f"{image}[{text}]({target}{anchor or ''})"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        found = _on_the_site(path)
        if found is None or files.get_file_from_path(found.partition("#")[0]) is None:
            whole = f"{image}[{text}]({target}{anchor or ''})"
            return whole if image or not (ROOT / path).exists() else text
        relative = posixpath.relpath(found, posixpath.dirname(source) or ".")
        return f"{image}[{text}]({relative}{anchor or ''})"

    return _LINK.sub(lead, markdown)


def _rooms() -> dict[str, list[str]]:
    """Return room -> its modules, the room itself first."""
    rooms: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        module = ".".join(["ddpm_jax", *parts]).removesuffix(".__init__")
        if parts[0] != "__main__":
            rooms.setdefault(parts[0].replace("__init__", "ddpm_jax"), []).append(
                module
            )
    return rooms


def _on_the_site(path: str) -> str | None:
    """Return where a file of the repository is on the site, if it is."""
    outside = {file: page for page, file in _OUTSIDE.items()}
    if path in outside:
        return outside[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("ddpm_jax/") and path.endswith(".py"):
        room = Path(path).parts[1].removesuffix(".py")
        module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        return f"api/{room}.md#{module}"
    return None
