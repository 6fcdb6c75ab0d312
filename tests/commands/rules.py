"""What is done with each command of the documents: the first rule that fits it.

A command that fits none is a failure: add a rule, and with `listed`, the reason why it
cannot be run here.
"""

import re
from typing import NamedTuple

MAIN = r"(python3? main\.py|ddpm-jax|python3? -m ddpm_jax)"

# Targets that documents name and .ci/run does not call, and why.
NOT_IN_CI = {
    "help": "prints a text",
    "clean": "removes what is there",
    "demo": "make test-demo does it",
    "test-newest": "make test-newest-part runs a part of it",
    "bench": "measures for long; make test runs each benchmark in small",
    "playground": "serves until it is stopped; its tests start it",
    "notebooks": "writes them anew; make test-notebooks executes them",
}


class Rule(NamedTuple):
    """How commands that match are treated."""

    pattern: str  # a regular expression for the beginning of the words, joined
    # run: all of it, in small. parse: its flags, by the program's own parser, and the
    # recipe that it names. help: the flags have to be in the help of the program.
    # target: of make, which has to exist. start: run as it is. listed: not at all.
    treatment: str
    reason: str = ""


RULES = (
    Rule(
        rf"{MAIN}.* --reference=npz:",
        "parse",
        "needs statistics published by others",
    ),
    Rule(
        rf"{MAIN}.* --(distributed|coordinator|num-processes|process-id)",
        "parse",
        "waits for other hosts; tests/runs starts two",
    ),
    Rule(
        rf"{MAIN} export-mesh( |$)",
        "parse",
        "needs a scene; tests/runs/test_scene.py writes its mesh",
    ),
    Rule(
        rf"{MAIN} .*--config=configs/dream\.py",
        "parse",
        "needs a trained prior; tests/runs/test_scene.py has one in small",
    ),
    Rule(
        rf"{MAIN} .*--config=configs/refine\.py",
        "parse",
        "needs a scene; tests/runs/test_refinement.py has one in small",
    ),
    Rule(rf"{MAIN} import [a-z-]+/[a-z]", "parse", "downloads a model"),
    Rule(rf"{MAIN} import \S+\.pt( |$)", "parse", "needs a model of others"),
    Rule(
        r"python3? -m ddpm_jax\.playground( |$)",
        "help",
        "serves until it is stopped; make test-playground starts it",
    ),
    Rule(rf"{MAIN}( |$)", "run"),
    Rule(
        r"python3? -m benchmarks\.",
        "help",
        "measures for minutes; tests/benchmarks runs each in small",
    ),
    Rule(
        r"python3? scripts/",
        "help",
        "downloads or reads git; tests/ tests each",
    ),
    Rule(r"make \w", "target"),
    Rule(r"python3? -c ", "start"),
    Rule(r"python3? -m venv ", "listed", "make does it, and so does every CI run"),
    Rule(r"(python3? -m )?pip install ", "listed", "tests/installed does it, offline"),
    Rule(r"register-python-argcomplete ", "listed", "tests/installed asks as a shell"),
    Rule(r"wandb |tensorboard ", "listed", "programs of others"),
    Rule(r"pre-commit ", "listed", "changes the checkout's hooks"),
    Rule(r"(sbatch|srun|gcloud|ssh|launch/\S+\.sh)( |$)", "listed", "needs a cluster"),
    Rule(r"git ", "listed", "needs a network"),
    Rule(r"tfds build ", "listed", "downloads, and needs TensorFlow"),
)


def rule_of(words):
    """Return the rule for a command, or None."""
    line = " ".join(words)
    return next((rule for rule in RULES if re.match(rule.pattern, line)), None)
