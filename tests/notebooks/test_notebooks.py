"""The notebooks run, say what they claim, and are those of their scripts.

`make test-notebooks` runs these; they need notebooks/requirements.txt. All cells run,
with fewer training steps and shorter chains than a student's: the parameters below.
"""

import ast
import base64
import importlib.util
import io
import re
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  builds its cache here, not in a cell
import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]

spec = importlib.util.spec_from_file_location(
    "build_notebooks", ROOT / "notebooks" / "build.py"
)
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

NAMES = ("lecture", "plane", "colab")
QUICK = {"NUM_STEPS": 20, "BATCH_SIZE": 16, "SAMPLES": 20, "LONG_CHAIN": 25}
QUICK_PLANE = {"NUM_STEPS": 5, "BRIEF_STEPS": 60, "SAMPLES": 400, "PIXELS": 16}
MAX_BYTES = 1.5e6  # of one that is stored with its pictures


def stored(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def num_pictures(notebook):
    """Count the pictures of each cell that has some, by its source."""
    counts = {}
    for cell in notebook.cells:
        found = [o for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
        if found:
            counts[cell.source] = len(found)
    return counts


def printed(notebook):
    return "".join(output.get("text", "") for output in outputs(notebook))


# --- As stored ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_notebook_is_that_of_its_script(name):
    notebook = stored(name)
    nbformat.validate(notebook)
    assert build.same_cells(notebook, build.read_script(name))


def test_a_changed_cell_is_noticed():
    one, other = build.read_script("lecture"), build.read_script("lecture")
    assert build.same_cells(one, other)
    other.cells[-1].source += " "
    assert not build.same_cells(one, other)
    del other.cells[-1]
    assert not build.same_cells(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_stored_that_differs_from_run_to_run(name):
    notebook = stored(name)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "accelerator"}
    assert set(notebook.metadata.language_info) == {"name"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert cell.get("execution_count") is None
    for output in outputs(notebook):
        assert output.output_type in ("stream", "display_data")
        assert output.get("name", "stdout") == "stdout"
        assert set(output.get("data", {})) <= {"image/png"}
    assert not re.search(r"/(home|root|tmp|work|usr)/", printed(notebook))


@pytest.mark.parametrize(("name", "least"), [("lecture", 15), ("plane", 10)])
def test_pictures_are_kept_at_a_modest_size(name, least):
    assert (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size < MAX_BYTES
    pictures = [o.data["image/png"] for o in outputs(stored(name)) if "data" in o]
    assert len(pictures) >= least
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.width < 1000


def test_colab_keeps_none():
    assert outputs(stored("colab")) == []


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_is_longer_than_a_screen(name):
    long = [
        cell.source.splitlines()[0]
        for cell in build.read_script(name).cells
        if cell.cell_type == "code" and len(cell.source.splitlines()) > 32
    ]
    assert not long


def test_no_address_waits_to_be_filled_in():
    """There is no public repository: a link to one would lead nowhere."""
    others = {"huggingface", "google", "lucidrains"}  # whom README compares with
    for name in ("README.md", "notebooks/colab.py", "notebooks/colab.ipynb"):
        text = (ROOT / name).read_text()
        assert "OWNER/" not in text
        assert set(re.findall(r"github\.com/([\w-]*)", text)) <= others


# --- As run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lecture():
    notebook = build.read_script("lecture")
    build.inject(notebook, QUICK)
    build.execute(notebook)
    return notebook


def test_all_cells_of_the_lecture_hold_and_draw_what_is_stored(lecture):
    """Its claims are asserted in the cells; a claim that fails has raised by now."""
    assert num_pictures(lecture) == num_pictures(stored("lecture"))


def test_the_lecture_warns_of_nothing(lecture):
    assert build.complaints(lecture) == []


@pytest.fixture(scope="module")
def plane():
    notebook = build.read_script("plane")
    build.inject(notebook, QUICK_PLANE)
    build.execute(notebook)
    return notebook


def test_all_cells_of_the_plane_hold_and_draw_what_is_stored(plane):
    assert num_pictures(plane) == num_pictures(stored("plane"))
    assert build.complaints(plane) == []


@pytest.mark.parametrize("number", range(1, 11))
def test_each_step_of_the_plane_ends_in_an_assertion(number):
    """By its last cell of code: the last statement of it, or of its `if trained`."""
    source = (ROOT / "notebooks" / "plane.py").read_text()
    step = source.split(f"# ## {number}. ")[1].split("# ## ")[0]
    cells = [cell for cell in step.split("# %%") if "[markdown]" not in cell]
    last = ast.parse(cells[-1]).body[-1]
    last = last.body[-1] if isinstance(last, ast.If | ast.For) else last
    assert isinstance(last, ast.Assert)


def test_a_warning_would_be_noticed():
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("import warnings\nwarnings.warn('look out')"),
            nbformat.v4.new_code_cell("print('all is well')"),
        ]
    )
    build.execute(notebook)
    (complaint,) = build.complaints(notebook)
    assert "look out" in complaint


def run_colab(workdir, num_steps):
    notebook = build.read_script("colab")
    parameters = {
        "RUN": str(workdir),
        "RECIPE": "tests/runs/tiny.py",
        "OPTIONS": [f"--config.training.num_steps={num_steps}"],
        "SAMPLE": ["--sampler=ddim", "--num-steps=5"],
    }
    build.inject(notebook, parameters)
    build.execute(notebook)
    return notebook


def test_colab_trains_goes_on_and_draws_on_a_cpu(tmp_path):
    first = run_colab(tmp_path / "run", 6)
    assert "step 0 of 6" in printed(first)
    second = run_colab(tmp_path / "run", 12)
    assert "step 6 of 12, resumed" in printed(second)
    assert "averaged (EMA) parameters of step 12" in printed(second)
    # The loss, the sheet, two films of the chain.
    assert sum(num_pictures(second).values()) == 4
    assert build.complaints(second) == []


@pytest.fixture(scope="module")
def colab():
    """The functions of the notebook, by their names."""
    cells = [cell.source for cell in build.read_script("colab").cells]
    names = {}
    for start in ("import glob", "def follow", "def run", "def uploaded", "def fetch"):
        (source,) = [source for source in cells if source.startswith(start)]
        exec(source, names)
    return names


@pytest.fixture
def run(colab):
    """The function that starts the program."""
    return colab["run"]


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print("saved"), sys.exit({status})))
print("training", flush=True)
time.sleep({seconds})
print("done")
"""


def test_the_clock_stops_a_run_by_one_signal_that_saves(run, capsys):
    before = time.monotonic()
    source = PROGRAM.format(status=130, seconds=300)
    run(sys.executable, "-c", source, minutes=2 / 60)
    assert capsys.readouterr().out == "training\nsaved\n"
    assert time.monotonic() - before < 200  # it did not wait for the end


def test_a_run_without_a_clock_goes_to_its_end(run, capsys):
    run(sys.executable, "-c", PROGRAM.format(status=130, seconds=0))
    assert capsys.readouterr().out == "training\ndone\n"


def test_a_failure_is_not_passed_over(run):
    with pytest.raises(RuntimeError, match="ended with 2"):
        run(sys.executable, "-c", "raise SystemExit(2)")


# --- Where the code comes from --------------------------------------------------------


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with little more in it than what the notebook looks for."""
    folder = tmp_path_factory.mktemp("theirs")
    for name in ("main.py", "ddpm_jax/__init__.py", "tests/main.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    git(folder, *author, "commit", "--quiet", "--message=all")
    return folder


def git(folder, *arguments):
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


@pytest.mark.parametrize("prefix", ["", "--prefix=ddpm_jax-main/"])
def test_the_code_comes_from_a_zip_file(colab, repository, tmp_path, prefix):
    """As the notebook says to make it, and with a folder around it like GitHub's."""
    options = [
        "--output",
        str(tmp_path / "ddpm_jax.zip"),
        *([prefix] if prefix else []),
    ]
    git(repository, "archive", *options, "HEAD")
    assert colab["uploaded"](tmp_path) == str(tmp_path / "ddpm_jax.zip")
    checkout = tmp_path / "ddpm_jax"
    colab["fetch"](colab["uploaded"](tmp_path), checkout)
    assert (checkout / "main.py").read_text() == "# main.py\n"


def test_the_code_comes_from_a_repository(colab, repository, tmp_path):
    colab["fetch"](repository.as_uri(), tmp_path / "ddpm_jax")
    assert (tmp_path / "ddpm_jax" / "main.py").read_text() == "# main.py\n"


def test_another_zip_file_is_refused(colab, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("main.py", "")
    with pytest.raises(AssertionError, match=r"photos.zip is no zip file of ddpm_jax"):
        colab["fetch"](str(tmp_path / "photos.zip"), tmp_path / "ddpm_jax")


def test_without_a_zip_file_one_is_asked_for(colab, tmp_path, monkeypatch):
    chosen = {}  # Colab's dialog answers with what was chosen: name -> content
    files = types.SimpleNamespace(upload=lambda: chosen)
    colab_module = types.SimpleNamespace(files=files)
    monkeypatch.setitem(sys.modules, "google.colab", colab_module)
    with pytest.raises(AssertionError, match="no zip file was given"):
        colab["uploaded"](tmp_path)
    chosen["mine.zip"] = b"PK"
    assert colab["uploaded"](tmp_path) == str(tmp_path / "mine.zip")
    assert (tmp_path / "mine.zip").read_bytes() == b"PK"
