"""Which commands the documents show, found in their text and expanded by a shell.

A command stands in a fenced block, or between backticks in a sentence. Blocks of no
language hold commands if a line begins as one does; others are listings. A block is
given to bash with an empty PATH, so that nothing runs: bash resolves loops, variables
and quotes, and the handler of what it cannot find writes down what would have run.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1[ \t]*$", re.S | re.M)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_PROGRAMS = r"(?:python3?|make|pip|ddpm-jax|git|source|export|cd|for|tfds|\.)\s"
_BEGINS = re.compile(rf"^(?:\$ )?(?:[A-Z_]+=\S* )*(?:{_PROGRAMS}|[A-Z_]+=)", re.M)
_IN_A_SENTENCE = re.compile(r"^(?:[A-Z_]+=\S* )*(?:python3? \S+|make|ddpm-jax)\s+\S")
_SHELLS = ("bash", "sh", "shell", "console", "zsh")

# What bash calls for a program that it does not find, as it finds none. It writes down
# the folder, the environment and the words, as many parts as it says, each with a NUL
# at its end. A few harmless tools do run, since lines after may need what they make.
_PRELUDE = """\
command_not_found_handle() {
    local name names=()
    for name in $(compgen -e); do
        [[ $name =~ ^(PATH|HOME|PWD|OLDPWD|SHLVL|_)$ ]] || names+=("$name=${!name}")
    done
    printf '%s\\0' "$PWD" "${#names[@]}" "${names[@]}" "$#" "$@" >&9
}
cat() { /bin/cat "$@"; }; cp() { /bin/cp "$@"; }; mkdir() { /bin/mkdir "$@"; }
"""


class Script(NamedTuple):
    """A piece of shell in a document."""

    document: Path
    line: int
    text: str


class Command(NamedTuple):
    """One program that a script would start."""

    script: Script
    folder: Path  # where
    words: tuple[str, ...]
    environment: dict[str, str]

    def __str__(self):
        where = self.script.document.relative_to(ROOT)
        return f"{where}:{self.script.line}: {' '.join(self.words)}"


def documents():
    """Return all files whose commands are promised to work."""
    texts = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")]
    recipes = ROOT.glob("configs/*.py")
    return sorted({*texts, *recipes, ROOT / "ddpm_jax" / "cli.py"})


def scripts(document):
    """Find the shell in a document, in order."""
    text = document.read_text()
    if document.suffix == ".py":
        return _in_python(document, text)
    found = []
    for fence in _FENCE.finditer(text):
        language, body = fence[2].strip(), fence[3]
        unlabelled = not language and _BEGINS.search(body)
        if language in _SHELLS or unlabelled:
            body = re.sub(r"^\$ ", "", body, flags=re.M)
            found.append(Script(document, _line(text, fence.start(3)), body))
    # The places stay the same without the blocks.
    prose = _FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    for span in _SPAN.finditer(prose):
        if _IN_A_SENTENCE.match(span[1]):
            body = " ".join(span[1].split())
            found.append(Script(document, _line(text, span.start()), body))
    return sorted(found, key=lambda script: script.line)


def _in_python(document, text):
    """Find lines of docstrings and help that show how to call the program."""
    text = text.replace("\\\\\n", "\\\n")  # within a string, a backslash is two
    lines = re.finditer(
        r"python main\.py (?:--|[a-z])(?:[^\n`\"]*\\\n)*[^\n`\"]*", text
    )
    return [Script(document, _line(text, found.start()), found[0]) for found in lines]


def _line(text, position):
    return text.count("\n", 0, position) + 1


def commands(script, folder):
    """Expand a script into the commands it would run in a folder, running none.

    Raises:
        AssertionError: bash cannot read it.
    """
    # Bash would not ask its handler for these, but start them.
    paths = sorted(set(re.findall(r"[\w.][\w./-]*/[\w-]+\.(?:sh|py)\b", script.text)))
    catch = "".join(
        f'function {path} {{ command_not_found_handle {path} "$@"; }}\n'
        for path in paths
    )
    reader, writer = os.pipe()
    # What bash does itself, such as `cd`, it does; programs are only written down.
    shell = subprocess.run(
        [
            "/bin/bash",
            "--norc",
            "-c",
            f"exec 9>&{writer}\n{_PRELUDE}{catch}{script.text}\n",
        ],
        cwd=folder,
        env={"PATH": "/nonexistent", "HOME": str(folder)},
        capture_output=True,
        text=True,
        pass_fds=[writer],
        check=False,
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as records:
        parts = iter(records.read().decode().split("\0")[:-1])
    where = f"{script.document.relative_to(ROOT)}:{script.line}"
    assert not shell.stderr, f"{where}: bash says: {shell.stderr.strip()}"
    found = []
    for place in parts:
        pairs = [next(parts).split("=", 1) for _ in range(int(next(parts)))]
        words = tuple(next(parts) for _ in range(int(next(parts))))
        # "..." stands for something of the reader's.
        environment = {name: value for name, value in pairs if value != "..."}
        found.append(Command(script, Path(place), words, environment))
    return found
