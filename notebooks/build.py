"""Make the notebooks from their scripts: run the cells, keep what is worth seeing.

    python notebooks/build.py            lecture.py -> lecture.ipynb, with its pictures;
                                         plane.py -> plane.ipynb, likewise;
                                         colab.py -> colab.ipynb, not run, without any
    python notebooks/build.py --check    say whether the .ipynb still hold those cells

The scripts are what people edit: cells in jupytext's percent format, whose changes can
be read line by line. A notebook keeps its pictures and printed lines, and nothing that
differs from run to run for no reason: no times, no counters, no paths of a machine.
"""

import argparse
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
RUN_WHEN_BUILT = {"lecture": True, "plane": True, "colab": False}


def read_script(name: str) -> NotebookNode:
    """Read notebooks/NAME.py as a notebook that has not been run."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
        **({"accelerator": "GPU"} if name == "colab" else {}),
    }
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place:02d}"  # a random one would change with every build
        cell.metadata.pop("lines_to_next_cell", None)  # of the script's layout
    return notebook


def inject(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Add a cell that sets these names, after the one tagged "parameters", in place."""
    (place,) = (
        i
        for i, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", ())
    )
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    cell = nbformat.v4.new_code_cell("\n".join(lines), id="injected")
    notebook.cells.insert(place + 1, cell)


def execute(notebook: NotebookNode, *, timeout: int = 3600) -> None:
    """Run all cells in a fresh kernel that starts in notebooks/, in place.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the rest is not run.
    """
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--Application.log_level=40"],  # errors only
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()


def tidy(notebook: NotebookNode) -> None:
    """Drop counters, and the words that stand for a picture beside it, in place."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [output for output in cell.outputs if not _is_alarm(output)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
            if "image/png" in output.get("data", {}):
                output.data = {"image/png": output.data["image/png"]}
                output.metadata = {}


def _is_alarm(output: NotebookNode) -> bool:
    """Say whether it is XLA's word on a machine too busy to compile in minutes."""
    return "slow_operation_alarm" in output.get("text", "")


def complaints(notebook: NotebookNode) -> list[str]:
    """List what an executed notebook wrote to stderr, and printed warnings."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = output.get("text", "")
            if _is_alarm(output):
                continue
            if output.get("name") == "stderr" or re.search(r"\w*Warning\b", text):
                found.append(f"{cell.id}: {text.strip()}")
    return found


def same_cells(one: NotebookNode, other: NotebookNode) -> bool:
    """Say whether two notebooks have the same cells, whatever these have put out."""

    def told(notebook: NotebookNode) -> list[tuple]:
        return [
            (cell.cell_type, cell.source, dict(cell.metadata))
            for cell in notebook.cells
        ]

    return told(one) == told(other)


def build(name: str) -> None:
    """Write notebooks/NAME.ipynb; nothing is written if a cell raises or complains."""
    notebook = read_script(name)
    if RUN_WHEN_BUILT[name]:
        started = time.perf_counter()
        execute(notebook)
        print(f"{name}: all cells ran in {time.perf_counter() - started:.0f} s.")
        if complaints(notebook):
            sys.exit("\n".join([f"{name} writes warnings:", *complaints(notebook)]))
    tidy(notebook)
    path = FOLDER / f"{name}.ipynb"
    path.write_text(nbformat.writes(notebook) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB.")


def check(name: str) -> None:
    """Exit with a message if a notebook is not that of its script."""
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    if not same_cells(stored, read_script(name)):
        sys.exit(f"{name}.ipynb is not that of {name}.py; run notebooks/build.py.")


def main() -> None:
    """Build the notebooks named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="lecture, plane, colab; default: all")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    for name in arguments.names or RUN_WHEN_BUILT:
        if name not in RUN_WHEN_BUILT:
            sys.exit(f"no notebook {name!r}; there are {', '.join(RUN_WHEN_BUILT)}.")
        (check if arguments.check else build)(name)


if __name__ == "__main__":
    main()
