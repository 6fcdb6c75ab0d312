"""From the sections of a config to specs, until recipes are made of specs themselves.

Messages name the options as the config has them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from ddpm_jax import specs
from ddpm_jax.diffusion.losses import LossSpec
from ddpm_jax.diffusion.schedules import ScheduleSpec, Table
from ddpm_jax.diffusion.time_sampling import TimesSpec
from ddpm_jax.errors import UserError
from ddpm_jax.tasks.autoencoder import AutoencoderTask
from ddpm_jax.tasks.classifier import ClassifierTask
from ddpm_jax.tasks.contrastive import ContrastiveTask
from ddpm_jax.tasks.diffusion import Diffusion
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.optimizers import OptimizerSpec

T = TypeVar("T")


def make(
    slot: type[T],
    values: Mapping[str, Any],
    section: str,
    renamed: Mapping[str, str] | None = None,
) -> T:
    """Make a spec of options.

    Args:
        slot: its class, or a base class where `values` have a kind.
        values: of its fields, plain data or specs.
        section: of the config, for messages.
        renamed: field -> option, where that has another name.

    Raises:
        UserError: an option has a wrong type or value.
    """
    path = f"config.{section}"
    try:
        spec: T = specs.from_config(values, slot, path)
        return spec
    except UserError as error:
        message = str(error)
        for field, option in (renamed or {}).items():
            message = message.replace(f"{path}.{field}=", f"{path}.{option}=", 1)
        raise UserError(message) from error


def _refuse_unknown(option: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(
            f"config.{option}={value!r} is not known; use {', '.join(known)}."
        )


def _kinds(slot: type, *first: str) -> tuple[str, ...]:
    """List the kinds that fit, kinds of one's own included, some of them first."""
    return tuple(dict.fromkeys((*first, *specs.kinds(slot))))


# --- The schedule ---------------------------------------------------------------------

_WARMUPS = {"warmup10": 0.1, "warmup50": 0.5}
_WITH_ENDS = ("linear", "quadratic")  # that also take their first and last beta


def schedule_names() -> tuple[str, ...]:
    """List what `config.diffusion.schedule` may be."""
    first = ("linear", "cosine", "quadratic", "constant", "jsd", *_WARMUPS, "sigmoid")
    return tuple(name for name in _kinds(ScheduleSpec, *first) if name != "warmup")


def schedule_spec(config: ConfigDict) -> ScheduleSpec:
    """Read the noise schedule.

    Raises:
        UserError: it is unknown, or an option of it cannot be.
    """
    options, name = config.diffusion, config.diffusion.schedule
    _refuse_unknown("diffusion.schedule", name, schedule_names())
    kind = "warmup" if name in _WARMUPS else name
    values = {"kind": kind, **{n: options[n] for n in ("num_levels", "t_range")}}
    if name in _WARMUPS:
        values["fraction"] = _WARMUPS[name]
    if kind in specs.kinds(Table):
        values["zero_terminal_snr"] = options.zero_terminal_snr
    elif options.zero_terminal_snr:
        raise UserError(
            f"config.diffusion.zero_terminal_snr=True, but {name!r} is no table of "
            f"betas; use one of {', '.join(_tables())}, or set it to False."
        )
    for end in ("beta_start", "beta_end"):
        if options[end] is None:
            continue
        if name not in _WITH_ENDS:
            raise UserError(
                f"config.diffusion.{end}={options[end]} does nothing with schedule "
                f"{name!r}; leave it out, or use one of {', '.join(_WITH_ENDS)}."
            )
        values[end] = options[end]
    return make(ScheduleSpec, values, "diffusion")


def _tables() -> list[str]:
    tables = specs.kinds(Table)
    return [name for name in schedule_names() if name in (*tables, *_WARMUPS)]


# --- The objective --------------------------------------------------------------------

_LOSSES = ("simple", "weighted", "mean", "bound", "hybrid", "truncated_snr", "min_snr")
_OPTIONS_OF_LOSSES = {  # loss -> field -> option
    "min_snr": {"gamma": "min_snr_gamma"},
    "p2": {"k": "p2_k", "gamma": "p2_gamma"},
}


def diffusion_spec(config: ConfigDict) -> Diffusion:
    """Read the process, and the loss that a model is trained on.

    Raises:
        UserError: an option is unknown, or cannot be with the others.
    """
    options = config.diffusion
    _refuse_unknown("diffusion.loss", options.loss, _kinds(LossSpec, *_LOSSES))
    times = _kinds(TimesSpec, "uniform", "stratified", "antithetic", "importance")
    _refuse_unknown("diffusion.times", options.times, times)
    loss = make(LossSpec, {"kind": options.loss}, "diffusion")
    for kind, renamed in _OPTIONS_OF_LOSSES.items():
        given = {field: options[option] for field, option in renamed.items()}
        made = make(LossSpec, {"kind": kind, **given}, "diffusion", renamed)
        loss = made if kind == options.loss else loss
    values = {
        "schedule": schedule_spec(config),
        "loss": loss,
        "times": {"kind": options.times},
        **{name: options[name] for name in ("prediction", "variance")},
    }
    return make(Diffusion, values, "diffusion")


# --- Auxiliary models -----------------------------------------------------------------


def autoencoder_spec(config: ConfigDict) -> AutoencoderTask:
    """Read what an autoencoder is trained on.

    Raises:
        UserError: an option cannot be.
    """
    return _of_section(AutoencoderTask, config, "autoencoder")


def classifier_spec(config: ConfigDict) -> ClassifierTask:
    """Read what a features network is trained on.

    Raises:
        UserError: an option cannot be.
    """
    return _of_section(ClassifierTask, config, "features")


def contrastive_spec(config: ConfigDict) -> ContrastiveTask:
    """Read what a retrieval network is trained on.

    Raises:
        UserError: an option cannot be.
    """
    return _of_section(ContrastiveTask, config, "retrieval")


def _of_section(cls: type[T], config: ConfigDict, section: str) -> T:
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return make(cls, {name: config[section][name] for name in names}, section)


# --- Training -------------------------------------------------------------------------

_OF_FIT = (
    *("num_steps", "batch_size", "learning_rate", "warmup_steps", "ema_decay"),
    *("report_every", "checkpoint_every"),
)


def fit_spec(config: ConfigDict) -> Fit:
    """Read how a diffusion model is trained.

    Raises:
        UserError: an option cannot be.
    """
    options = config.training
    adam = {"kind": "adam", "b1": options.adam_b1, "b2": options.adam_b2}
    renamed = {"preview_every": "sample_every", "b1": "adam_b1", "b2": "adam_b2"}
    more = ("accumulate", "decay", "restarts", "max_grad_norm", "ema_stds")
    names = (*_OF_FIT, *more, "keep_last", "keep_every")
    values = {
        "optimizer": make(OptimizerSpec, adam, "training", renamed),
        "preview_every": options.sample_every,
        **{name: options[name] for name in names},
    }
    return make(Fit, values, "training", renamed)


def small_fit(config: ConfigDict, section: str) -> Fit:
    """Read how an auxiliary model is trained, of a section like `features`.

    Its learning rate falls on a cosine; of its checkpoints the last two are kept.

    Raises:
        UserError: an option cannot be.
    """
    options = config[section]
    renamed = {"b1": "adam_b1", "b2": "adam_b2"}
    if "weight_decay" in options:
        adam = {"kind": "adamw", "weight_decay": options.weight_decay}
    else:
        adam = {"kind": "adam", "b1": options.adam_b1, "b2": options.adam_b2}
    values = {
        "optimizer": make(OptimizerSpec, adam, section, renamed),
        "accumulate": options.get("accumulate", 1),
        "decay": "cosine",
        "max_grad_norm": 0.0,
        "preview_every": 0,
        "keep_last": 2,
        "keep_every": 0,
        **{name: options[name] for name in _OF_FIT},
    }
    return make(Fit, values, section)
