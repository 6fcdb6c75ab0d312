"""What several documents say runs once; what it made is copied to the others.

In small many commands are the same: they differ by numbers that all get one small
value. Two are the same work if their flags are, and the workdirs they name were made by
the same commands, whatever these are called and however their recipe is named. The
first runs, and the others get the workdir that it left. The processes of pytest-xdist
share what is made.
"""

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from pathlib import Path

from ddpm_jax import cli

_MAKING = ("train", "import")
_ALWAYS_RUN = ("export",)  # writes beside the workdir, in no time


class Once:
    """Runs commands, in the current folder, that were not run anywhere yet.

    Attributes:
        perceptron: whether the U-Nets of the document are perceptrons in small.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.perceptron = False
        self.made = {}  # workdir of this document -> the key of what made it

    def run(self, arguments, environment, run):
        """Run a command, or take what it made elsewhere.

        Args:
            arguments: all flags of the command, small ones among them.
            environment: what the document sets for it.
            run: a function of arguments to what went wrong, or "".
        """
        command, workdir = _aim(arguments)
        if command in _ALWAYS_RUN:
            return run(arguments)
        key = self._key(arguments, environment)
        stored, done = self.folder / key, self.folder / f"{key}.done"
        with _alone(self.folder / f"{key}.lock"):
            if done.exists():
                fault = ""
                if stored.exists():
                    shutil.rmtree(workdir, ignore_errors=True)
                    shutil.copytree(stored, workdir)
            else:
                fault = run(arguments)
                if not fault:
                    if command in _MAKING:
                        shutil.copytree(workdir, stored)
                    done.write_text(" ".join(arguments))
        if command in _MAKING:
            self.made[str(workdir)] = key
        return fault

    def _key(self, arguments, environment):
        words = {word.partition("=")[0]: word for word in arguments}  # the last wins
        words.pop("--workdir", None)
        if "--config" in words:  # configs/digits.py is digits
            words["--config"] = re.sub(r"=configs/(\w+)\.py", r"=\1", words["--config"])
        # A run is what made it; one that nothing made is known by its name.
        said = re.sub(
            r"runs/[\w.-]+",
            lambda found: self.made.get(found[0], found[0]),
            "\n".join(sorted(words.values())),
        )
        state = self.made.get(str(_aim(arguments)[1]), "")
        whole = json.dumps([said, sorted(environment), state])
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _aim(arguments):
    """Return what a command does, and the workdir that it does it in."""
    line = cli.read_line(arguments)
    given = line.values.get("run") or line.values.get("workdir")
    given = given or vars(line.known).get("workdir")
    return line.command, Path(given or f"runs/{cli._stem(line.known.config or 'none')}")


@contextlib.contextmanager
def _alone(path):
    """Let one process at a time go on."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
