"""What is done with each command of the documents: the first rule that fits it.

A command that fits none is a failure: add a rule, and with `listed`, the reason why it
cannot be run here.
"""

import re
from typing import NamedTuple

MAIN = r"(python3? main\.py|ddpm-jax|python3? -m ddpm_jax)"

# Targets that documents name and .ci/run need not call: what they do is done there
# under another name, or is of no weight.
NOT_IN_CI = {"help", "clean", "demo"}


class Rule(NamedTuple):
    """How commands that match are treated."""

    pattern: str  # a regular expression for the beginning of the words, joined
    # run: all of it, in small. parse: its flags, by the program's own parser, and the
    # recipe that it names. target: of make, which has to exist. start: run as it is.
    # listed: not at all.
    treatment: str
    reason: str = ""


RULES = (
    Rule(
        rf"{MAIN}.* --config\.evaluate\.reference=npz:",
        "parse",
        "needs statistics published by others",
    ),
    Rule(rf"{MAIN}( |$)", "run"),
    Rule(r"make \w", "target"),
    Rule(r"python3? -c ", "start"),
    Rule(r"python3? -m venv ", "listed", "make does it, and so does every CI run"),
    Rule(r"(python3? -m )?pip install ", "listed", "tests/installed does it, offline"),
    Rule(r"register-python-argcomplete ", "listed", "tests/installed asks as a shell"),
    Rule(r"wandb |tensorboard ", "listed", "programs of others"),
    Rule(r"pre-commit ", "listed", "changes the checkout's hooks"),
    Rule(r"git ", "listed", "needs a network"),
    Rule(r"tfds build ", "listed", "downloads, and needs TensorFlow"),
)


def rule_of(words):
    """Return the rule for a command, or None."""
    line = " ".join(words)
    return next((rule for rule in RULES if re.match(rule.pattern, line)), None)
