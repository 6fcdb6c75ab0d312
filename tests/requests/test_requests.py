"""Requests: their defaults are those of a recipe, their help is short and immediate."""

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from settings import default

from ddpm_jax.assembly import sampling
from ddpm_jax.assembly.pictures import MODES
from ddpm_jax.cli import read_line
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.errors import UserError
from ddpm_jax.requests import (
    COMMANDS,
    Edit,
    Inpaint,
    Interpolate,
    Likelihood,
    Sample,
    options,
)
from ddpm_jax.requests.flags import flag_of, sections_of
from ddpm_jax.requests.sections import SECTIONS, in_flags, options_in
from ddpm_jax.sampling import edits

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


# Texts that are read by their class, and those that only data or folders can refuse.
READ = (
    *("spacing", "images", "reference", "sample_steps", "guidance_scales"),
    "checkpoints",
)
FREE = (
    *("label", "prompt", "negative_prompt", "prompt_to", "cond", "picture", "image"),
    *("mask", "stages", "scores", "features", "weights", "source", "retrieval"),
    *("split", "reference_split", "baseline_split", "likelihood_split"),
    *(f"stage_{name}" for name in ("samplers", "num_steps", "guidance_scales")),
    *("stage_dynamic_percentiles", "stage_noise"),
    *("prior", "from_text", "to_text"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_text_of_a_fixed_set_is_held_to_it(command):
    request = COMMANDS[command]
    types_of = typing.get_type_hints(request)
    for field in dataclasses.fields(request):
        if str not in (types_of[field.name], *typing.get_args(types_of[field.name])):
            continue
        choices = field.metadata.get("choices", ())
        is_place = "positional" in field.metadata
        known = (bool(choices), field.name in READ, field.name in FREE or is_place)
        assert sum(known) == 1, field.name
        for choice in choices:
            assert getattr(request(**{field.name: choice}), field.name) == choice
        if not known[2]:
            with pytest.raises(UserError, match="nonsense") as refusal:
                request(**{field.name: "nonsense"})
            assert re.fullmatch(r".*; (use|write) .*", str(refusal.value))
            assert all(choice in str(refusal.value) for choice in choices)


def test_the_fixed_sets_are_those_of_the_code():
    """Named in requests as well, which load no JAX."""
    assert tuple(sampling.SAMPLERS) == options.SAMPLERS
    assert (*sampling.SPACINGS, *sampling.CONTINUOUS_GRIDS) == options.SPACINGS
    assert tuple(VARIANCES) == options.VARIANCES
    for request in COMMANDS.values():
        if issubclass(request, Edit) and "method" in request.__dataclass_fields__:
            of_trained = {*MODES.values(), *edits.OF_FRAMES}
            trained = (edits.TRAINED,) if request.mode in of_trained else ()
            choices = request.__dataclass_fields__["method"].metadata["choices"]
            assert choices == (*edits.METHODS[request.mode], *trained)


def test_a_method_of_a_recipe_is_of_the_edits_that_know_it():
    made = default("edit.method=noise")
    assert made.request(Interpolate).method == "noise"
    assert made.request(Inpaint).method is None
    with pytest.raises(UserError, match="method='noise' is not known; use repaint, "):
        made.request(Inpaint, method="noise")
    with pytest.raises(UserError, match="method='magic' is not known; use encode, no"):
        default("edit.method=magic").request(Interpolate)


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
    assert len(done.stdout.splitlines()) < 115  # evaluate takes all of sample
    # Its example is a line that it reads.
    example = re.search(r"^python main\.py (.+)$", done.stdout, re.M)[1]
    assert read_line(example.split()).command == command
