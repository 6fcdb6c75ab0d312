"""Which parameters to draw with: raw, averaged, or an average built after training."""

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpm_jax import requests
from ddpm_jax.errors import UserError
from ddpm_jax.requests.options import Chain
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import Placement, spread
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.ema import Profile, posthoc_weights, reconstruct

# Above this distance of the profiles (see ema.posthoc_weights) the user is told.
_FAR = 0.1


class Parameters(NamedTuple):
    """Parameters, and what to call them."""

    tree: Any
    description: str  # "averaged (EMA)", to stand before "parameters"


class _DamagedSnapshotError(Exception):
    def __init__(self, step: int, reason: str):
        self.step, self.reason = step, reason


def parameters_name(asked: requests.Parameters) -> str:
    """Name the parameters that are asked for, for a file: raw, ema or ema-0.08."""
    if not asked.ema:
        return "raw"
    std = asked.ema_std
    return "ema" if std is None else f"ema-{std:g}"


def worse_of(asked: requests.Parameters, step: int) -> requests.Parameters | None:
    """Ask for the parameters that autoguidance goes away from; None without it.

    Args:
        asked: a request of any kind.
        step: of the model's checkpoint.

    Raises:
        UserError: they are those of the model.
    """
    if not isinstance(asked, Chain) or asked.autoguidance == 1:
        return None
    worse = requests.Parameters(
        run=asked.run,
        step=step if asked.autoguidance_step is None else asked.autoguidance_step,
        ema=asked.autoguidance_ema,
        ema_std=asked.autoguidance_ema_std,
    )
    which = parameters_name(worse)
    if (worse.step, which) == (step, parameters_name(asked)):
        raise UserError(
            f"config.sample.autoguidance={asked.autoguidance:g} is away from the model "
            f"itself ({which}, step {step}), which does nothing; give worse parameters "
            "with sample.autoguidance_step, sample.autoguidance_ema_std or "
            "sample.autoguidance_ema=False."
        )
    return worse


@contextlib.contextmanager
def named_as_worse() -> Iterator[None]:
    """Name the options of autoguidance in messages about its parameters."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"(?<!\w)(ema(_std)?)\b(?! \()", r"autoguidance_\1", str(error))
        error.args = (text, *error.args[1:])
        raise


def check_profiles(std: float | None, stds: tuple[float, ...]) -> None:
    """Refuse an average of a chosen length from a run that keeps none to build it on.

    Args:
        std: the length that is asked for, if any.
        stds: sigma_rel of the averages that the run keeps.

    Raises:
        UserError: saying what to train with.
    """
    if std is not None and not stds:
        raise UserError(
            f"config.sample.ema_std={std:g} is built from averages that this run does "
            "not keep; train with config.training.ema_stds=0.05,0.10 and a keep_every "
            "that leaves 8 checkpoints or more, or leave ema_std out."
        )


def load_parameters(
    asked: requests.Parameters,
    workdir: Path,
    step: int,
    *,
    placement: Placement | None = None,
    report: Callable[[str], None] = files.note,
) -> Parameters:
    """Read the parameters that are asked for, compiling nothing.

    Args:
        asked: which parameters.
        workdir: folder of the run.
        step: the checkpoint; an average built after training ends at this step.
        placement: where to put a leaf of a shape; None means the first device.
        report: called with a line for what the user should know.

    Raises:
        UserError: if they are damaged, or the run did not keep what they are built on.
    """
    if asked.ema and asked.ema_std is not None:
        return _averaged_after_training(asked.ema_std, workdir, step, placement, report)
    tree = store.restore_params(workdir, ema=asked.ema, step=step, placement=placement)
    return Parameters(tree, "averaged (EMA)" if asked.ema else "raw")


def _averaged_after_training(
    std: float,
    workdir: Path,
    step: int,
    placement: Placement | None,
    report: Callable[[str], None],
) -> Parameters:
    about = store.read_metadata(workdir, step)
    check_profiles(std, _stored_stds(about))
    wanted = Profile(step, std)
    # What came after the step would have to be subtracted again.
    steps = [s for s in store.all_steps(workdir) if 1 <= s <= step]
    while True:
        try:
            tree, description = _build(workdir, wanted, steps, report)
        except _DamagedSnapshotError as damage:
            steps.remove(damage.step)
            report(f"{damage.reason} It is left out of the average.")
        else:
            return Parameters(_put(tree, placement), description)


def _put(tree: Any, placement: Placement | None) -> Any:
    """Put arrays that every host holds where they belong."""
    if placement is None:
        return jax.device_put(tree)
    return jax.tree.map(lambda leaf: spread(leaf, placement(leaf.shape)), tree)


def _build(
    workdir: Path, wanted: Profile, steps: list[int], report: Callable[[str], None]
) -> tuple[Any, str]:
    places = [  # of every stored average: its checkpoint, and its number there
        (step, index, std)
        for step in steps
        for index, std in enumerate(
            _stored_stds(_read(step, partial(store.read_metadata, workdir, step)))
        )
    ]
    stored = [Profile(step, std) for step, _, std in places]
    std = f"{wanted.std:g}"
    if wanted not in stored and len(stored) < 2:
        raise UserError(
            f"config.sample.ema_std={std} is built from 2 stored averages or more, and "
            f"{workdir} has {len(stored)} up to step {wanted.step}; train with two "
            "config.training.ema_stds and a smaller config.training.keep_every, or "
            "leave ema_std out."
        )
    weights, error = posthoc_weights(stored, wanted)
    used = [i for i, weight in enumerate(weights) if weight]
    tree = reconstruct(
        _snapshots(workdir, [places[i] for i in used]), [weights[i] for i in used]
    )
    if wanted in stored:
        return tree, f"averaged (EMA of std {std})"
    if error > _FAR:
        report(
            f"the {len(used)} stored averages come no closer to one of std {std} "
            f"than {error:.0%} of its profile; ask for a std between those tracked, or "
            "train with a smaller config.training.keep_every."
        )
    return tree, (
        f"averaged (EMA of std {std} from {len(used)} stored averages, "
        f"profile {error:.2%} off)"
    )


def _snapshots(workdir: Path, places: list[tuple[int, int, float]]) -> Iterator[Any]:
    for step, index, _ in places:
        yield _read(step, partial(store.restore_profile, workdir, index, step=step))


def _read(step: int, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except UserError as error:
        raise _DamagedSnapshotError(step, str(error)) from error


def _stored_stds(about: dict[str, Any]) -> tuple[float, ...]:
    """Read which averages a checkpoint holds: none, if it is older than the option."""
    return tuple(about["config"]["training"].get("ema_stds", ()))
