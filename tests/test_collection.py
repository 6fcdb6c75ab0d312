"""Every file of tests is run by `.ci/run`: none is passed over without a word."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATTERN = "test_*.py"  # pytest's own, for files of tests
OF_XDIST = ("-n", "--numprocesses", "--dist", "--maxschedchunk", "--no-loadscope")


class Files:
    """A plugin that notes the files that pytest collects, and imports none of them."""

    def __init__(self):
        self.found = set()

    def pytest_pycollect_makemodule(self, module_path, parent):
        self.found.add(module_path)
        return Empty.from_parent(parent, path=module_path)


class Empty(pytest.File):
    """A file of no tests."""

    def collect(self):
        return []


def collected(arguments):
    """Return the files that pytest collects when it is given these arguments."""
    files = Files()
    asked = [a for a in arguments if not a.startswith(OF_XDIST)]
    quiet = ["--collect-only", "-qq", "--noconftest", "-pno:cacheprovider"]
    status = pytest.main([*asked, *quiet, f"--rootdir={ROOT}"], plugins=[files])
    assert status == pytest.ExitCode.NO_TESTS_COLLECTED
    return files.found


def commands_of(targets):
    """Return the arguments of each pytest that targets of make start."""
    said = subprocess.run(
        ["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.replace("\\\n", " ").splitlines()
    found = [line.partition("-m pytest")[2] for line in lines if "-m pytest" in line]
    return [shlex.split(line) for line in found]


def test_every_file_of_tests_is_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    targets = re.findall(r"\bmake (\w[\w-]*)", (ROOT / ".ci" / "run").read_text())
    commands = commands_of(targets)
    assert len(commands) > 6
    run = set().union(*map(collected, commands))
    assert run == set((ROOT / "tests").rglob(PATTERN))


@pytest.mark.parametrize("folder", ["build", "dist", "venv", "node_modules", ".git"])
def test_a_folder_that_pytest_passes_over_would_be_noticed(tmp_path, folder):
    """Tests lay in tests/build for long, and were never run."""
    for name in (folder, "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_it.py").touch()
    (tmp_path / "other" / "helper.py").touch()
    assert collected([str(tmp_path)]) == {tmp_path / "other" / "test_it.py"}


def test_the_part_for_the_newest_python_touches_every_room():
    ((*arguments,),) = commands_of(["test-newest-part"])
    files = [ROOT / a for a in arguments if not a.startswith("-")]
    assert all(path.is_file() for path in files)
    rooms = {path.parent.name for path in (ROOT / "ddpm_jax").glob("*/*.py")}
    tested = {"runs": "commands"}  # tests that have another name
    assert {tested.get(path.parent.name, path.parent.name) for path in files} >= rooms
