"""Measure the package room by room, and print the table of docs/how-it-is-built.md.

    python scripts/measure_rooms.py                            the working tree alone
    python scripts/measure_rooms.py --revision=2ac76d4         beside an older revision

A line of code is one with a token that is neither a comment nor part of a docstring. A
function takes a whole config if a parameter is annotated with `ConfigDict`, or has none
and is named `cfg` or `config`. Rooms of an older revision are counted under the names
they have now.
"""

import argparse
import ast
import io
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = "ddpm_jax"

# Where the code of a former folder or module is now; the longest prefix counts.
MOVED = {
    "models": "networks",
    "exchange": "weights",
    "tensors": "weights",
    "build": "assembly",
    "systems": "conditioning",
    "systems/cascade.py": "sampling",
    "sampling.py": "sampling",
    "training/objective.py": "tasks",
    "training/classify.py": "tasks",
    "training/match.py": "tasks",
    "training/autoencode.py": "tasks",
    "commands/parts.py": "runtime",
    **{
        f"evaluation/{name}.py": "weights"
        for name in ("inception_file", "inception_weights", "lpips_file", "graph_file")
    },
    **{
        f"{name}.py": "runtime"
        for name in (
            *("capacity", "devices", "files", "hosts", "image_file", "images"),
            *("interrupts", "plots", "startup", "streams"),
        )
    },
}
# The mathematics, the U-Net, the loss, the training step and the loop around it.
CORE = (
    "diffusion/",
    *(f"{room}/unet.py" for room in ("models", "networks")),
    *(f"{room}/layers.py" for room in ("models", "networks")),
    *(f"{room}/convolution.py" for room in ("models", "networks")),
    *(f"{room}/geometry.py" for room in ("models", "networks")),
    *("training/step.py", "training/loop.py", "training/fit.py", "training/state.py"),
    *("training/ema.py", "training/task.py", "training/objective.py"),
    *("training/optimizers.py", "networks/ports.py", "tasks/diffusion.py"),
)
# The rooms that compute: what such a library is for, whichever systems it has.
COMPUTING = frozenset(
    {
        *("diffusion", "networks", "tasks", "conditioning", "codecs", "sampling"),
        "training",
    }
)
# What turns options and flags into calls: configs, their checks, and the commands.
PLUMBING = (
    *("build/", "assembly/", "commands/", "requests/"),
    *("config.py", "recipe.py", "specs.py", "limits.py", "cli.py"),
)

_SKIPPED = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT),
    *(tokenize.DEDENT, tokenize.ENDMARKER),
}


class Module(NamedTuple):
    """One file of the package, measured."""

    path: str  # below the package
    lines: int  # of code
    functions: dict[str, int]  # qualified by line number: lines of code of each
    config_functions: int  # functions that take a whole config


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--revision", action="append", default=[], help="a commit; may be repeated"
    )
    revisions = parser.parse_args().revision
    columns = {name: measure(sources_of(name)) for name in revisions}
    columns["now"] = measure(sources_here())
    print(table(columns))


# --- Sources --------------------------------------------------------------------------


def sources_here() -> dict[str, str]:
    """Read the package of the working tree: path below the package -> text."""
    folder = ROOT / PACKAGE
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*.py"))
    }


def sources_of(revision: str) -> dict[str, str]:
    """Read the package as it was at a commit."""
    names = _git("ls-tree", "-r", "--name-only", revision, f"{PACKAGE}/").split("\n")
    return {
        name.removeprefix(f"{PACKAGE}/"): _git("show", f"{revision}:{name}")
        for name in names
        if name.endswith(".py")
    }


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, *words], capture_output=True, text=True, check=True
    )
    return done.stdout


# --- Measures -------------------------------------------------------------------------


def measure(sources: Mapping[str, str]) -> list[Module]:
    """Measure every file."""
    return [measure_module(path, text) for path, text in sources.items()]


def measure_module(path: str, text: str) -> Module:
    """Count the lines of code of a file and of each of its functions."""
    tree = ast.parse(text)
    code = code_lines(text, tree)
    functions = list(_functions(tree))
    return Module(
        path,
        len(code),
        {
            f"{node.name}:{node.lineno}": sum(
                line in code for line in range(node.lineno, (node.end_lineno or 0) + 1)
            )
            for node in functions
        },
        sum(map(takes_config, functions)),
    )


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that are code."""
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for statement in node.body:
                value = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    end = statement.end_lineno or statement.lineno
                    docstrings.update(range(statement.lineno, end + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SKIPPED:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def takes_config(node: ast.FunctionDef) -> bool:
    """Return whether a function has a parameter that is a whole config."""
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return any(
        "ConfigDict" in ast.unparse(argument.annotation)
        if argument.annotation
        else argument.arg in ("cfg", "config")
        for argument in arguments
    )


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def room_of(path: str) -> str:
    """Name the room of a file, as it is called now; "top" for single modules."""
    fits = [old for old in MOVED if path == old or path.startswith(f"{old}/")]
    if fits:
        return MOVED[max(fits, key=len)]
    return path.split("/")[0] if "/" in path else "top"


# --- The table ------------------------------------------------------------------------


def table(columns: Mapping[str, list[Module]]) -> str:
    """Lay out the measures as Markdown, a column for each revision."""
    by_room = {name: _by_room(modules) for name, modules in columns.items()}
    rooms = sorted({room for counts in by_room.values() for room in counts})
    rows = {
        f"`{room}/`" if room != "top" else "modules beside the rooms": [
            f"{counts[room]:,}" if counts[room] else "-" for counts in by_room.values()
        ]
        for room in rooms
    }
    for title, of in SUMMARY.items():
        rows[title] = [of(modules) for modules in columns.values()]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {title} | {' | '.join(cells)} |" for title, cells in rows.items()]
    return "\n".join(lines)


def _by_room(modules: list[Module]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for module in modules:
        counts[room_of(module.path)] += module.lines
    return counts


def _sum_of(modules: list[Module], prefixes: tuple[str, ...]) -> int:
    return sum(m.lines for m in modules if m.path.startswith(prefixes))


def _ratio(modules: list[Module]) -> str:
    return f"{_sum_of(modules, PLUMBING) / _sum_of(modules, CORE):.1f}"


def _computing(modules: list[Module]) -> int:
    return sum(m.lines for m in modules if room_of(m.path) in COMPUTING)


def _longest_function(modules: list[Module]) -> str:
    lines, name, path = max(
        (lines, name.split(":")[0], module.path)
        for module in modules
        for name, lines in module.functions.items()
    )
    return f"{lines} (`{name}`, {path})"


def _largest_file(modules: list[Module]) -> str:
    largest = max(modules, key=lambda module: module.lines)
    return f"{largest.lines} ({largest.path})"


SUMMARY = {
    "**all**": lambda modules: f"{_sum_of(modules, ('',)):,}",
    "core": lambda modules: f"{_sum_of(modules, CORE):,}",
    "plumbing": lambda modules: f"{_sum_of(modules, PLUMBING):,}",
    "plumbing to core": _ratio,
    "rooms that compute": lambda modules: f"{_computing(modules):,}",
    "plumbing to these": lambda modules: (
        f"{_sum_of(modules, PLUMBING) / _computing(modules):.1f}"
    ),
    "files": lambda modules: str(len(modules)),
    "functions that take a whole config": lambda modules: str(
        sum(module.config_functions for module in modules)
    ),
    "longest function, lines of code": _longest_function,
    "largest file, lines of code": _largest_file,
}


if __name__ == "__main__":
    main()
