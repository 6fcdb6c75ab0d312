"""How a run begins, and goes on: from another run's weights, and past its end.

`config.init_from` names a run with whose averaged parameters a new run starts;
its optimiser, averages and count of steps start anew. `config.training.restarts` names
the steps at which a learning rate that has fallen to 0 rises again.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from ddpm_jax import assembly, specs
from ddpm_jax.assembly import DataInfo
from ddpm_jax.assembly.auxiliary import DIFFUSION
from ddpm_jax.commands import about
from ddpm_jax.commands.fitting import Settled
from ddpm_jax.commands.prior import check_prior
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Fit, Recipe, differences, from_json
from ddpm_jax.requests import Evaluate, Likelihood, Sample
from ddpm_jax.runtime import files
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.state import TrainState

# Options that change what a network computes, and not always its parameters.
_MEANING = (
    *("network.", "conditioners.", "codec.kind", "schedule."),
    *("prediction", "data_std", "variance"),
)
_WITHOUT_MEANING = (
    *("network.dtype", "network.remat", "network.attention:", "network.dropout"),
    *("conditioners.text.dtype", "conditioners.text.dropout"),
)
_SHOWN = 3  # parameters that a refusal names


class Source(NamedTuple):
    """A checkpoint to begin with."""

    workdir: Path
    step: int | None  # None: the newest

    def __str__(self) -> str:
        return f"{self.workdir}" + ("" if self.step is None else f"@{self.step}")


def source_of(text: str) -> Source:
    """Read WORKDIR or WORKDIR@STEP."""
    place, _, step = text.rpartition("@")
    if place and step.isdecimal():
        return Source(Path(place), int(step))
    return Source(Path(text), None)


def check_start(spec: Diffusion, info: DataInfo, workdir: Path) -> str:
    """Refuse to begin with parameters that are not those of this network.

    Args:
        spec: of the run; `init_from` may be empty.
        info: its data.
        workdir: of the run.

    Returns:
        `init_from` with the step that was found.

    Raises:
        UserError: there is no such checkpoint; or naming the parameters that differ.
    """
    text = spec.init_from
    if not text:
        return text
    source = source_of(text)
    if source.workdir.expanduser().resolve() == workdir.expanduser().resolve():
        raise UserError(
            f"config.init_from={text} is the workdir of this run; name "
            "another run, or leave it out."
        )
    with specs.located(f"config.init_from={text}"):
        if source.step is None:
            step = about.usable_step(source.workdir)
            source = source._replace(step=step)
        stored = store.read_metadata(source.workdir, source.step)
    kind = stored.get("kind", DIFFUSION)
    if kind != DIFFUSION:
        raise UserError(
            f"config.init_from={text} holds a model of kind {kind}, and this is a "
            "diffusion model; name the run of one."
        )
    there = store.param_shapes(source.workdir, source.step)
    halved = _loses_variance(stored, spec)
    here = {
        "/".join(path): shape
        for path, shape in assembly.param_shapes(spec, info).items()
    }
    differing = [
        f"{name} is {_format(there.get(name))} there and {_format(here.get(name))} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
        and not (name not in there and _may_be_new(spec, name))
        and not (halved and _is_doubled(there.get(name), here.get(name)))
    ]
    if differing:
        more = len(differing) - _SHOWN
        rest = f" and {more} more" if more > 0 else ""
        raise UserError(
            f"config.init_from={text} has other parameters than this network: "
            f"{'; '.join(differing[:_SHOWN])}{rest}; give the config.network options, "
            "channels and number of classes that it was trained with."
        )
    _check_tokenizer(text, stored, info)
    _tell_of_meaning(stored, spec, source)
    return str(source)


def _may_be_new(spec: Diffusion, name: str) -> bool:
    conditioner = spec.conditioners.get(name.partition("/")[0])
    is_silent = conditioner is not None and conditioner.starts_silent
    return is_silent or spec.network.is_new(name)


def _loses_variance(stored: dict[str, Any], spec: Diffusion) -> bool:
    """Say whether a run predicts a variance as well, and a spec does not."""
    before = from_json(about.without_devices(stored["config"])).task
    return before.learns_variance and not spec.learns_variance


def _is_doubled(there: tuple | None, here: tuple | None) -> bool:
    """Say whether the last axis of a parameter is twice as long there as here."""
    if there is None or here is None:
        return False
    return there == (*here[:-1], 2 * here[-1])


def start_params(spec: Diffusion, info: DataInfo) -> Any:
    """Read the averaged parameters that `init_from` names, once checked.

    Those that the run may lack are drawn. Of an output that has a variance beside the
    prediction, where this network has none, the prediction is taken.

    Args:
        spec: of the run that begins.
        info: its data.

    Raises:
        UserError: they are damaged.
    """
    source = source_of(spec.init_from)
    print(
        f"start    the averaged (EMA) parameters of step {source.step:,} of "
        f"{source.workdir}",
        flush=True,
    )
    params = store.restore_params(source.workdir, step=source.step)
    stored, here = traverse_util.flatten_dict(params), assembly.param_shapes(spec, info)
    if _loses_variance(store.read_metadata(source.workdir, source.step), spec):
        channels = info.shape[-1]  # of which the second half of each output goes
        for path, shape in here.items():
            leaf = np.asarray(stored[path]) if path in stored else None
            if leaf is not None and _is_doubled(leaf.shape, shape):
                pairs = leaf.reshape(*leaf.shape[:-1], -1, 2 * channels)
                stored[path] = pairs[..., :channels].reshape(shape)
        params = traverse_util.unflatten_dict(stored)
    if len(stored) == len(here):
        return params
    drawn = assembly.init_params(spec, assembly.model(spec, info), info)
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(drawn) | stored)


def settle(
    now: Recipe[Diffusion], stored: Recipe[Diffusion], newest: int | None
) -> Settled:
    """Take over what a run that goes on has begun with, and restart a finished decay.

    What is left out of a command is taken from the run: the weights that it began with,
    which need not be there any more, and the restarts of its learning rate. A finished
    run of which more steps are asked gets a further restart.

    Args:
        now: of the command.
        stored: of the run.
        newest: its last step; None of an import, whose optimiser begins here.

    Raises:
        UserError: more steps are asked of a run whose decay is not finished.
    """
    given, begun = now.task.init_from, stored.task.init_from
    refused = []
    if given and not _is_same(given, begun):
        refused.append(f"init_from: {begun!r} -> {given!r}")
    fit, before = now.training, stored.training
    cosine = fit.decay == before.decay == "cosine"
    fits = all(step < fit.num_steps for step in before.restarts)
    if cosine and fits and not fit.restarts:
        fit = dataclasses.replace(fit, restarts=before.restarts)
    if newest is not None and cosine and fit.num_steps > before.num_steps:
        fit, before = _lengthened(fit, before, newest)
    task = dataclasses.replace(now.task, init_from=begun)
    return Settled(
        dataclasses.replace(now, task=task, training=fit),
        dataclasses.replace(stored, training=before),
        refused,
    )


def _lengthened(now: Fit, before: Fit, newest: int) -> tuple[Fit, Fit]:
    """Restart a decay that has ended: how it goes on, and how it would have been."""
    if newest < before.num_steps:
        raise UserError(
            f"config.training.num_steps={now.num_steps}, but the learning rate of this "
            f"run falls to 0 at step {before.num_steps} and it is at step {newest}; "
            "finish it with that number first, and then ask for more."
        )
    further = (*before.restarts, before.num_steps)
    if now.restarts == before.restarts:
        now = dataclasses.replace(now, restarts=further)
        files.note(
            f"the learning rate has fallen to 0 at step {before.num_steps}; it "
            f"rises again, and falls to 0 at step {now.num_steps} "
            f"(config.training.restarts={further})."
        )
    if now.restarts == further:
        before = dataclasses.replace(
            before, num_steps=now.num_steps, restarts=now.restarts
        )
    return now, before


def _is_same(given: str, begun: str) -> bool:
    if not begun:
        return False
    one, other = source_of(given), source_of(begun)
    same = one.workdir.expanduser().resolve() == other.workdir.expanduser().resolve()
    return same and one.step in (None, other.step)


def _format(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))


def _check_tokenizer(text: str, stored: dict[str, Any], info: DataInfo) -> None:
    """Refuse captions read otherwise: the same numbers would be other words."""

    def known(tokenizer: Any) -> dict[str, Any]:
        return {n: v for n, v in dict(tokenizer or {}).items() if n != "max_length"}

    if known(about.info_of(stored).tokenizer) != known(info.tokenizer):
        raise UserError(
            f"config.init_from={text} reads captions otherwise (another "
            "conditioner, or words learned from other captions); use the captions that "
            "it was trained on, or begin with a run of text read by bytes or minilm."
        )


def _tell_of_meaning(stored: dict[str, Any], spec: Diffusion, source: Source) -> None:
    before = from_json(about.without_devices(stored["config"])).task
    changed = [
        line
        for line in differences(before, spec)
        if line.startswith(_MEANING) and not line.startswith(_WITHOUT_MEANING)
    ]
    if changed:
        files.note(
            f"{source} was trained with other options ({'; '.join(changed)}); "
            "the same parameters mean something else here."
        )


# --- What is checked before a run starts, or goes on ----------------------------------


def check_defaults(recipe: Recipe[Diffusion], info: DataInfo) -> Sample:
    """Refuse defaults of requests that cannot be, before any compile.

    Args:
        recipe: of the run.
        info: its data.

    Returns:
        What the run samples at its end.

    Raises:
        UserError: for the first rule that does not hold.
    """
    compared = recipe.request(Evaluate)
    # What samples do not look at, sets that are compared may: guidance at other scales.
    asked = assembly.leave_out_idle(
        recipe.task,
        recipe.request(Sample),
        given=assembly.idle_fields(recipe.task, compared),
    )
    assembly.check_sample(recipe.task, info, asked)
    check_prior(recipe.task, info, asked)
    for section, batch_size in {
        "evaluate": compared.feature_batch_size,
        "likelihood": recipe.request(Likelihood).batch_size,
    }.items():
        assembly.check_batch_memory(section, batch_size, info.item_shape)
    return asked


def check_resumed(
    recipe: Recipe[Diffusion],
    info: DataInfo,
    workdir: Path,
    stored: dict[str, Any],
    step: int,
) -> None:
    """Refuse to go on with other data or in other latents; note other devices.

    Args:
        recipe: of now.
        info: of the data of now.
        workdir: of the run.
        stored: metadata of the checkpoint.
        step: its step.

    Raises:
        UserError: the data, or the frozen models that it uses, are not those of the
            run so far.
    """
    was, now = stored["data"]["fingerprint"], info.fingerprint
    if was != now:
        raise UserError(
            f"the data of this run have changed since step {step} (fingerprint {was}, "
            f"now {now}); restore them, or use another --workdir."
        )
    if about.info_of(stored).latents != info.latents:
        raise UserError(
            f"the autoencoder of the run in {workdir} has changed since step "
            f"{step}; restore it, or use another --workdir."
        )
    if about.info_of(stored).runs != info.runs:
        raise UserError(
            f"the dual encoder of the run in {workdir} has changed since step {step}; "
            "restore it, or use another --workdir."
        )
    _note_devices(stored, recipe.devices.fsdp)


def _note_devices(stored: dict[str, Any], now_fsdp: int) -> None:
    """Note that other devices round in another way; older runs did not keep count."""
    now = (jax.device_count(), now_fsdp)
    before = (
        stored.get("num_devices", now[0]),
        stored.get("devices", {}).get("fsdp", 1),
    )
    if before != now:
        was, is_now = (
            f"{count} device(s)" + (f" (fsdp={fsdp})" if fsdp > 1 else "")
            for count, fsdp in (before, now)
        )
        files.note(
            f"{was} so far, {is_now} now; sums over a batch are rounded in another "
            "order from here on."
        )


# --- An imported model ----------------------------------------------------------------

# What decides neither the network nor what its output means.
_OF_IMPORTS = (
    *("seed", "training.", "loss.", "times.", "init_from", "preview_steps"),
    *("condition_dropout", "network.dtype", "network.remat", "network.dropout"),
)


def free_since_import(workdir: Path) -> tuple[str, ...]:
    """List what may be chosen for an imported model that has not been trained here."""
    if not about.is_import(workdir):
        return ()
    return (*_OF_IMPORTS, *about.free_options(store.read_metadata(workdir)))


def from_import(
    recipe: Recipe[Diffusion], info: DataInfo, workdir: Path
) -> TrainState | None:
    """Begin at an imported model, whose optimiser starts anew with this recipe.

    Args:
        recipe: of now.
        info: of the data of now.
        workdir: of the run.

    Returns:
        The state; None if the workdir holds no import that is trained here first.

    Raises:
        UserError: the data are not like those that it was trained on.
    """
    if not about.is_import(workdir):
        return None
    step = store.latest_step(workdir)
    known = about.info_of(store.read_metadata(workdir))
    classes = [len(of.label_names or ()) for of in (known, info)]
    other_classes = "label" in recipe.task.conditioners and classes[0] != classes[1]
    if known.image_shape != info.image_shape or other_classes:
        raise UserError(
            f"the model in {workdir} is made for images of {known.image_shape} and "
            f"{classes[0]} classes, and {info.name} has {info.image_shape} and "
            f"{classes[1]}; use data like those it was trained on."
        )
    params = store.restore_params(workdir, step=step)
    return assembly.start_state(recipe.task, info, recipe.training, params, step or 0)
