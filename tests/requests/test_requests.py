"""Requests: their defaults are those of a recipe, their help is short and immediate."""

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from settings import default

from ddpm_jax.cli import read_line
from ddpm_jax.requests import COMMANDS, Inpaint, Likelihood, Sample
from ddpm_jax.requests.flags import flag_of, sections_of
from ddpm_jax.requests.sections import SECTIONS, in_flags, options_in

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_those_of_a_recipe_and_of_their_type(command):
    request, plain = COMMANDS[command], default().defaults
    types_of = typing.get_type_hints(request)
    for field in dataclasses.fields(request):
        assert isinstance(field.default, types_of[field.name]), field.name
        if "of" in field.metadata:
            section, name = field.metadata["of"].split(".")
            assert getattr(plain[section], name) == field.default, field.name


def test_every_default_of_a_recipe_is_a_flag_somewhere():
    plain = default().defaults
    there = {f"{s}.{name}" for s in SECTIONS for name in vars(plain[s])}
    assert there == {o for request in COMMANDS.values() for o in sections_of(request)}


def test_a_recipe_sets_defaults_and_flags_go_before_them():
    made = default("sample.num_steps=250", "sample.eta=0.5")
    line = ["sample", "--num-steps=50", "runs/a", "--label", "7,3", "--no-clip"]
    read = read_line(line)
    assert (read.command, read.values["run"]) == ("sample", "runs/a")
    request = made.request(Sample, **read.values)
    chosen = (request.num_steps, request.eta, request.label, request.clip)
    assert chosen == (50, 0.5, "7,3", False)
    found = options_in(request, "sample")
    assert (found["num_steps"], found["labels"], found["clip"]) == (50, "7,3", False)
    assert options_in(request, "edit") == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.num_steps = 3


def test_words_of_one_meaning_are_read_alike():
    lines = (
        ["edit", "inpaint", "runs/a", "--image=b.png", "--strict"],
        [
            "likelihood",
            "runs/a",
            "--rtol",
            "1e-3",
            "--seed=-0",
            "--config.devices.fsdp=2",
        ],
    )
    with pytest.raises(ValueError, match="unknown flag --strict"):
        read_line(lines[0])
    read = read_line(lines[1])
    assert read.values == {"run": "runs/a", "rtol": 0.001, "seed": 0}
    assert read.overrides == ["--config.devices.fsdp=2"]


@pytest.mark.parametrize(
    ("request_type", "message", "expected"),
    [
        (
            Sample,
            "config.sample.num_steps=0 is too small; use 1 or more.",
            "--num-steps=0 is too small; use 1 or more.",
        ),
        (
            Sample,
            "config.sample.churn_low=1 does nothing; set sample.churn above 0",
            "--churn-low=1 does nothing; set --churn above 0",
        ),
        (
            Inpaint,
            "needs a mask; give --config.edit.mask=FILE, a picture",
            "needs a mask; give --mask=FILE, a picture",
        ),
        (Inpaint, "config.edit.method='magic' is not", "--method=magic is not"),
        (Sample, "config.sample.prompt='a b' and ", "--prompt='a b' and "),
        (Sample, "config.sample.ema=False for raw ones", "--no-ema for raw ones"),
        (Sample, "config.sample.labels.", "--label."),
        # Two options of one name; and those of the model stay as they are.
        (
            Likelihood,
            "config.likelihood.num_steps with config.sample.step and network.dtype",
            "--num-steps with --step and network.dtype",
        ),
        (Likelihood, "config.sample.num_steps", "config.sample.num_steps"),
        (
            Sample,
            "config.preview_steps",
            "config.preview_steps",
        ),
    ],
)
def test_a_message_names_the_flag(request_type, message, expected):
    assert in_flags(request_type, message) == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_flag_and_loads_no_jax(command):
    script = (
        "import sys\nfrom ddpm_jax.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    fields = dataclasses.fields(COMMANDS[command])
    for field in fields:
        given = field.metadata.get("positional")
        assert (field.name.upper() if given else flag_of(field.name)) in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 88
    assert len(done.stdout.splitlines()) < 90
    # Its example is a line that it reads.
    example = re.search(r"^python main\.py (.+)$", done.stdout, re.M)[1]
    assert read_line(example.split()).command == command
