"""Experiment tracking with Weights & Biases, optional: one run for each workdir.

The package `wandb` is imported only then. Its run goes on when the workdir's does: the
id is kept in the workdir. `WANDB_MODE=offline` writes to the workdir and sends nothing.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

RUN_FILE = "wandb.json"


class Tracker(NamedTuple):
    """Where else a log goes; every part is a function."""

    numbers: Callable[[Mapping[str, float | None], int], Any]  # (name -> value, step)
    image: Callable[[str, np.ndarray, int], Any]  # (name, uint8 [H, W, C], step)


NO_TRACKER = Tracker(lambda values, step: None, lambda name, pixels, step: None)


@contextmanager
def open_tracker(
    project: str | None, workdir: Path, description: Mapping[str, Any]
) -> Iterator[Tracker]:
    """Open the run of a workdir in a project of Weights & Biases, or a new one.

    Args:
        project: its name; None or "" for no tracker.
        workdir: folder of the run, which exists.
        description: plain data, the run's config.

    Yields:
        Where numbers and images go.

    Raises:
        UserError: wandb is not installed, is not logged in, or refuses the run.
    """
    if not project:
        yield NO_TRACKER
        return
    wandb = import_wandb(project)
    path = workdir / RUN_FILE
    known = _known(path)
    same = known.get("project") == project and "id" in known
    try:
        run = wandb.init(
            project=project,
            id=known["id"] if same else None,
            resume="allow" if same else None,
            name=workdir.name,
            dir=str(workdir),
            config=dict(description),
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"config.training.wandb={project}: wandb reports {reason!r}; correct "
            "that, or set WANDB_MODE=offline."
        ) from error
    files.write_json(path, {"project": project, "id": run.id})

    def numbers(values: Mapping[str, float | None], step: int) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        run.log(known, step=step)

    def image(name: str, pixels: np.ndarray, step: int) -> None:
        run.log({name: wandb.Image(pixels)}, step=step)

    try:
        yield Tracker(numbers, image)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _known(path: Path) -> dict[str, Any]:
    """Read which run this workdir has there; of a damaged file, nothing."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return {}
    except files.DamagedError as error:
        files.note(f"{path} cannot be read ({error}); a new run begins there.")
        return {}


def import_wandb(project: str) -> Any:
    """Import the package for a project, which also shows whether it can be used.

    Args:
        project: its name.

    Raises:
        UserError: it is not installed, or not logged in.
    """
    option = f"config.training.wandb={project}"
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"{option} needs the package wandb; pip install wandb, or leave it out."
        ) from error
    offline = os.environ.get("WANDB_MODE", "online") in ("offline", "disabled")
    if not offline and not wandb.login(prompt=False):
        raise UserError(
            f"{option}, but wandb is not logged in; run `wandb login`, or set "
            "WANDB_MODE=offline."
        )
    return wandb
