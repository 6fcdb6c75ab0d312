"""Every command that the README, docs and recipes show runs, in small.

Run by `make test-docs`. The commands of a document run in their order, in a folder that
looks like a checkout with made-up data, where the models that it takes for granted have
been trained.
"""

import contextlib
import functools
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import documents
import fabricated
import pytest
import rules
import small
from once import Once
from rough_plane import rough_map

from ddpm_jax import cli
from ddpm_jax.recipe import Diffusion, from_json, recipe

# Workdirs that documents find trained, with the commands that make them.
PREPARED = {
    "digits": "--config=configs/digits.py",
    "mnist": "--config=configs/mnist.py",
    "cifar": "--config=configs/cifar.py",
    "digits_features": "--config=configs/digits_features.py",
    "mnist_features": "--config=configs/mnist_features.py",
    "cifar_features": "--config=configs/cifar_features.py",
}
# One that documents import from a place that is not here: ours, there and back.
IMPORTED = "faces"
FILES = ("mask.png", "digit.png")  # pictures that documents speak of


@pytest.fixture(scope="session", autouse=True)
def quick(tmp_path_factory):
    """Share what is remembered of data, and keep it out of the user's cache."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch, rough_map():
        patch.setenv("DDPM_JAX_CACHE", str(common / "cache"))
        yield common / "made"


@pytest.fixture
def once(quick):
    """What runs each command that is not run yet, in whatever document."""
    return Once(quick)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Make a folder with what a checkout has, and the data that documents name."""
    for path in documents.ROOT.iterdir():
        if path.name not in ("runs", ".venv", ".git"):
            (tmp_path / path.name).symlink_to(path)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    fabricated.data_sets(tmp_path / "prepared")
    fabricated.photos(tmp_path / "photos")
    fabricated.emoji(tmp_path / "emoji")
    fabricated.sprites(tmp_path / "sprites")
    fabricated.clips(tmp_path / "my-clips")
    for name in FILES:
        fabricated.mask().save(tmp_path / name)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def number_of_words(document):
    return len(document.read_text().split())


@pytest.mark.parametrize(
    "document",
    sorted(documents.documents(), key=number_of_words, reverse=True),  # longest first
    ids=lambda path: str(path.relative_to(documents.ROOT)),
)
def test_every_command_runs(document, checkout, once):
    scripts = documents.scripts(document)
    commands = [c for s in scripts for c in documents.commands(s, checkout)]
    once.perceptron = not any(small.says_network(c.words) for c in commands)
    for name in models_in("\n".join(" ".join(c.words) for c in commands)):
        prepare(name, once)
    faults, seen = [], set()
    for command in commands:
        if (command.folder, command.words) not in seen:
            seen.add((command.folder, command.words))
            fault = fault_of(command, once)
            faults += [f"{command}\n    {fault}"] if fault else []
    assert not faults, "\n".join(faults)


def prepare(name, once):
    """Train a model into runs/NAME, or take it from where another document did."""
    commands = [f"{PREPARED.get(name)} --workdir=runs/{name}"]
    if name == IMPORTED:
        prepare("cifar", once)
        commands = [
            "export runs/cifar exported",
            f"import exported runs/{name}",
        ]
    for command in commands:
        # Without our own record beside it the model is as one of others.
        Path("exported", "ddpm_jax.json").unlink(missing_ok=True)
        assert run_small(["main.py", *command.split()], once) == ""


def models_in(text):
    """Return the names of the trained models that commands take for granted."""
    names = list(dict.fromkeys(re.findall(r"runs/(\w+)(?![\w-])", text)))
    if " evaluate " in text:  # recipes name the network that looks
        names += [f"{name}_features" for name in names]
    return [n for n in dict.fromkeys(names) if n in PREPARED or n == IMPORTED]


def fault_of(command, once):
    """Treat a command by its rule; return what went wrong, or nothing."""
    rule = rules.rule_of(command.words)
    if rule is None:
        return "no rule in tests/commands/rules.py says how to try this"
    words = [word for word in command.words if word not in ("python", "python3", "-m")]
    with contextlib.chdir(command.folder), pytest.MonkeyPatch.context() as patch:
        for name, value in command.environment.items():
            patch.setenv(name, value)
        if rule.treatment == "run":
            return run_small(words, once, command.environment)
        if rule.treatment == "parse":
            return parse(words[1:])
        if rule.treatment == "help":
            return missing_flags(command.words)
        if rule.treatment == "target":
            return missing_target(words[1:])
        if rule.treatment == "start":
            return start(command.words)
    assert rule.treatment == "listed", rule
    assert rule.reason
    return ""


def run_small(words, once, environment=()):
    """Run the program in this process; return the last it said, if it failed."""
    arguments = [*words[1:]]
    if {"--help", "-h"} & set(arguments):
        return run(arguments)
    arguments += small.flags(arguments, once.perceptron)
    return parse(arguments) or once.run(arguments, environment, run)


def run(arguments):
    """Run the program; return the last it said, if it failed."""
    return captured(lambda: cli.main(arguments))


def parse(arguments):
    """Read a command line as the program does, and do nothing; return what is wrong."""

    def read():
        line = cli.read_line(arguments)
        given = line.known.config
        plain = from_json(recipe(Diffusion())), {}
        made, fixed = cli.load_recipe(given) if given else plain
        cli.override(made, line.overrides, fixed)

    return captured(read)


def captured(run):
    """Call a program; return its status and last words, or nothing if all was well."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = run()
        except SystemExit as end:  # of argparse
            status = end.code
        except Exception as error:  # a defect; say so, and go on with the others
            return f"{type(error).__name__}: {error}"
    last = said.getvalue().strip().splitlines()[-1:]
    return f"exit status {status}: {''.join(last)}" if status else ""


def start(words):
    """Start another program as it is; return its last words, if it failed."""
    program = [sys.executable if words[0].startswith("python") else words[0]]
    done = subprocess.run(
        [*program, *words[1:]], capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1:]
    return f"exit status {done.returncode}: {''.join(last)}" if done.returncode else ""


@functools.cache
def asked_for_help(*program):
    """Start a program to say its help, once; it imports JAX for it."""
    return subprocess.run(
        [sys.executable, *program, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )


def missing_flags(words):
    """Return which flags of a command its program's help does not know."""
    asked = asked_for_help(*(words[1:3] if words[1] == "-m" else words[1:2]))
    if asked.returncode:
        return asked.stderr.strip().splitlines()[-1]
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    options = {flag for flag in flags if flag.startswith("--config.")}
    unknown = [f for f in sorted(flags - options) if f not in asked.stdout]
    return f"its help does not know {', '.join(unknown)}" if unknown else ""


def missing_target(words):
    """Return what is wrong with a call of make, which is not made."""
    ci = (documents.ROOT / ".ci" / "run").read_text()
    for target in (word for word in words if "=" not in word):
        if target not in rules.NOT_IN_CI and f"make {target}\n" not in ci:
            return f".ci/run does not call `make {target}`"
    return start(["make", "--dry-run", *words])
