"""The program under test: its smallest recipe, and how to start it."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from ddpm_jax.requests import COMMANDS
from ddpm_jax.requests.flags import flag_of, sections_of

TINY = str(Path(__file__).with_name("tiny.py"))  # a perceptron
TINY_UNET = str(Path(__file__).with_name("tiny_unet.py"))
ROOT = Path(__file__).parents[2]
# XLA ends a process of which one device waits 40 s for the others. Four of them on two
# cores that have other work may.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"


def start(*arguments, num_devices=1):
    """Start main.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONFAULTHANDLER": "1",  # stacks, if it has to be aborted
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {PATIENT}",
            "JAX_NUM_CPU_DEVICES": str(num_devices),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cut_short(item):
    """Damage an item of a checkpoint: `checkpoints/<step>/<item>`.

    Every file of values is cut in two, since Orbax leaves some that it never reads.
    """
    values = [p for p in item.rglob("d/*") if p.is_file()]
    assert values
    for path in values:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)


def flags(command, *options, **more):
    """Spell options for a command: "name=value" of its request, or of a recipe.

    Those that have a section and are the default of a flag become that flag; what
    begins with -- stays as it is.
    """
    request = COMMANDS[command]
    fields = {field.name: field.name for field in dataclasses.fields(request)}
    known = {**fields, **sections_of(request)}
    given = [*options, *(f"{name}={value}" for name, value in more.items())]
    return [_flag(option, known) for option in given]


def _flag(option, known):
    if option.startswith("--"):
        return option
    name, _, value = option.partition("=")
    if name not in known:
        return f"--config.{option}"
    flag = flag_of(known[name])
    if value in ("True", "False"):
        return flag if value == "True" else f"--no-{flag[2:]}"
    return f"{flag}={value}"
