"""Options that would do nothing are refused, since whoever sets one expects an effect.

A rule names an option, says when it has no effect, and what to do. Options at their
default are never refused.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.assembly.conditions import is_droppable
from ddpm_jax.assembly.editing import edit_methods
from ddpm_jax.assembly.sampling import levels
from ddpm_jax.assembly.source import DataInfo, latents_run
from ddpm_jax.assembly.translation import defaults_of
from ddpm_jax.errors import UserError

Rule = tuple[str, Callable[[ConfigDict], bool], str]
"""Option, config -> whether it is without effect, "with ...; do ..." for the line."""


def refuse_idle(config: ConfigDict, rules: Iterable[Rule]) -> None:
    """Refuse the first option that was changed and does nothing.

    Raises:
        UserError: naming it, and what to do.
    """
    for option, value, why in _idle(config, rules):
        shown = repr(value) if isinstance(value, str) else value
        raise UserError(f"config.{option}={shown} does nothing {why}.")


def leave_out_idle(
    config: ConfigDict, given: Collection[str], mode: str | None = None
) -> None:
    """Put back to its default, in place, what only a recipe sets and nothing looks at.

    A recipe whose `sample.eta` is of its sampler serves requests of another sampler as
    well: who asks for that one has not asked for the eta.

    Args:
        config: with what a request asks for.
        given: options of that request, such as "sample.eta".
        mode: of an edit, such as "inpaint".
    """
    rules = [*SAMPLING, *LIKELIHOOD, *EVALUATE]
    if mode is not None and "conditioners" in config:  # the others know no methods
        methods = edit_methods(config, mode)  # none: refused later
        method = config.edit.method or (methods[0] if methods else "")
        rules += _edit_rules(mode, method)
    left = [
        rule
        for rule in rules
        if rule[0] not in given and rule[0].partition(".")[0] in config
    ]
    for option, _, _ in list(_idle(config, left)):
        section, _, name = option.rpartition(".")
        config[section][name] = defaults_of(config[section])[name]


def _idle(config: ConfigDict, rules: Iterable[Rule]) -> Iterator[tuple[str, Any, str]]:
    """Find the options that were changed and do nothing: option, value, why."""
    for option, is_idle, why in rules:
        section, _, name = option.rpartition(".")
        node = config[section] if section else config
        if node[name] != defaults_of(node)[name] and is_idle(config):
            yield option, node[name], why


def _sampler_is_not(*samplers: str) -> Callable[[ConfigDict], bool]:
    return lambda config: config.sample.sampler not in samplers


def _is_not_churned(config: ConfigDict) -> bool:
    return config.sample.churn == 0


def _is_not_guided(config: ConfigDict) -> bool:
    scales = config.evaluate.guidance_scales.replace(" ", "").split(",")
    return config.sample.guidance_scale == 1 and set(scales) <= {"", "1", "1.0"}


_WITHOUT_CHURN = "without churn; set sample.churn above 0, or leave it out"
_UNGUIDED = "at guidance_scale 1; use another scale, such as 3, or leave it out"
SAMPLING: tuple[Rule, ...] = (
    ("sample.eta", _sampler_is_not("ddim"), "but with sampler ddim; leave it out"),
    (
        "sample.rtol",
        _sampler_is_not("adaptive"),
        "but with sampler adaptive; leave it out, or use num_steps",
    ),
    (
        "sample.atol",
        _sampler_is_not("adaptive"),
        "but with sampler adaptive; leave it out, or use num_steps",
    ),
    ("sample.churn_low", _is_not_churned, _WITHOUT_CHURN),
    ("sample.churn_high", _is_not_churned, _WITHOUT_CHURN),
    ("sample.churn_noise", _is_not_churned, _WITHOUT_CHURN),
    (
        "sample.variance",
        _sampler_is_not("ancestral"),
        "but with sampler ancestral; leave it out",
    ),
    ("sample.guidance_low", _is_not_guided, _UNGUIDED),
    ("sample.guidance_high", _is_not_guided, _UNGUIDED),
    ("sample.guidance_rescale", _is_not_guided, _UNGUIDED),
    (
        "sample.dynamic_percentile",
        lambda config: latents_run(config) is not None,
        "in latents, which are never clipped; leave it out",
    ),
)


def check_sampling_effects(config: ConfigDict) -> None:
    """Refuse options of `config.sample` that would do nothing.

    Raises:
        UserError: naming the first.
    """
    refuse_idle(config, SAMPLING)
    options = config.sample
    if options.churn:
        _check_range(config, "churn", options.churn_low, options.churn_high)
    if not _is_not_guided(config):
        _check_range(config, "guidance", options.guidance_low, options.guidance_high)


def _check_range(config: ConfigDict, kind: str, low: float, high: float | None) -> None:
    """Refuse a range of sigma / alpha that no level of the chain falls into."""
    if low == 0 and high is None:
        return
    level = levels(config)
    with np.errstate(divide="ignore"):
        r = np.asarray(level.sigma[:-1], np.float64) / np.asarray(level.alpha[:-1])
    end = math.inf if high is None else high
    if not ((low <= r) & (r <= end)).any():
        raise UserError(
            f"config.sample.{kind}_low={low} and {kind}_high={end} hold none of the "
            f"levels, whose sigma / alpha are {r[-1]:.3g} to {r[0]:.3g}; widen them, "
            f"or leave out the {kind}."
        )


# --- Training -------------------------------------------------------------------------


def _is_not_preconditioned(config: ConfigDict) -> bool:
    return config.prediction != "edm"


def _is_preconditioned(config: ConfigDict) -> bool:
    return config.prediction == "edm"


PREDICTION: tuple[Rule, ...] = (
    ("data_std", _is_not_preconditioned, "but with prediction edm; leave it out"),
    (
        "schedule.t_range",
        _is_preconditioned,
        "with prediction edm, whose network is given log(sigma / alpha) / 4 in the "
        "place of t; leave it out",
    ),
)
UNET: tuple[Rule, ...] = (
    (
        "network.num_heads",
        lambda config: config.network.head_channels is not None,
        "beside network.head_channels, which decides it; leave one of them out",
    ),
    (
        "network.resample_blocks",
        lambda config: len(config.network.channel_multipliers) == 1,
        "in a network of one level, which halves nothing; leave it out",
    ),
    (
        "network.downsample_padding",
        lambda config: (
            config.network.resample_blocks
            or len(config.network.channel_multipliers) == 1
        ),
        "where no convolution halves a map; leave it out",
    ),
)


def check_training_effects(config: ConfigDict, info: DataInfo) -> None:
    """Refuse options of a network and its training that would do nothing.

    Not asked of a model that is trained: what it was trained with cannot be changed.

    Raises:
        UserError: naming the first.
    """
    unconditional: Rule = (
        "condition_dropout",
        lambda config: not is_droppable(config, info),
        "in a model without labels or text; leave it out",
    )
    refuse_idle(config, [unconditional, *PREDICTION])
    check_warmup(config)
    if config.network.kind == "unet":
        refuse_idle(config, UNET)
        _check_attention(config, info)


def _check_attention(config: ConfigDict, info: DataInfo) -> None:
    asked = tuple(config.network.attention_resolutions)
    if asked == defaults_of(config.network)["attention_resolutions"]:
        return
    side = min(info.shape[:2])
    sides = [side >> level for level in range(len(config.network.channel_multipliers))]
    for resolution in asked:
        if resolution not in sides:
            raise UserError(
                f"config.network.attention_resolutions={asked} has {resolution}, and "
                f"no map is of that size; the maps are {', '.join(map(str, sides))} on "
                "their shorter side, and the last always has attention in the middle."
            )


def refuse_unused(config: ConfigDict, *names: str) -> None:
    """Refuse options of `training` that the training of this kind does not look at.

    Raises:
        UserError: naming the first that was changed.
    """
    why = f"in the training of kind {config.kind}; leave it out"
    refuse_idle(config, [(f"training.{name}", lambda _: True, why) for name in names])


def check_warmup(config: ConfigDict) -> None:
    """Refuse a warm-up that would not end before the run does.

    Raises:
        UserError: naming both.
    """
    options: Any = config.training
    too_long: Rule = (
        "training.warmup_steps",
        lambda _: options.warmup_steps > options.num_steps,
        f"but slow down all {options.num_steps} steps: the learning rate never reaches "
        f"config.training.learning_rate; use fewer, such as {options.num_steps // 10}",
    )
    refuse_idle(config, [too_long])


# --- Other modes ----------------------------------------------------------------------


def _method_is(method: str) -> Callable[[ConfigDict], bool]:
    return lambda config: config.likelihood.method == method


def _has_fixed_steps(config: ConfigDict) -> bool:
    return config.likelihood.ode_steps is not None


_OF_THE_ODE = "with method bound; leave it out, or use method ode"
_OF_THE_BOUND = "with method ode; leave it out, or use method bound"
_FIXED = "beside likelihood.ode_steps; leave one of them out"
LIKELIHOOD: tuple[Rule, ...] = (
    *(
        (f"likelihood.{name}", _method_is("bound"), _OF_THE_ODE)
        for name in ("ode_steps", "num_probes", "rtol", "atol")
    ),
    *(
        (f"likelihood.{name}", _method_is("ode"), _OF_THE_BOUND)
        for name in ("variance", "clip", "num_steps")
    ),
    ("likelihood.rtol", _has_fixed_steps, _FIXED),
    ("likelihood.atol", _has_fixed_steps, _FIXED),
)
EVALUATE: tuple[Rule, ...] = (
    (
        "evaluate.resize",
        lambda config: config.evaluate.features != "inception",
        "but with features inception; leave it out",
    ),
    (
        "evaluate.reference_split",
        lambda config: bool(config.evaluate.reference),
        "beside evaluate.reference, which has its own images; leave one of them out",
    ),
)
_WALKED = ("image-to-image", "encode", "interpolate")  # from a picture, partly


def check_edit_effects(config: ConfigDict, mode: str, method: str) -> None:
    """Refuse options of `config.edit` that this mode and method do not look at.

    Args:
        config: all of it.
        mode: such as "inpaint".
        method: the one that is used.

    Raises:
        UserError: naming the first.
    """
    refuse_idle(config, _edit_rules(mode, method))


def _edit_rules(mode: str, method: str) -> list[Rule]:
    encodes = mode == "encode" or (mode, method) == ("interpolate", "encode")
    looked_at = {
        "mask": (mode == "inpaint", "mode inpaint"),
        "strength": (mode in _WALKED, f"the modes {', '.join(_WALKED)}"),
        "num_points": (mode == "interpolate", "mode interpolate"),
        "factor": (mode == "upscale", "mode upscale"),
        "weight": (method == "guidance", "method guidance"),
        "jump_length": (method == "repaint", "method repaint"),
        "num_resamples": (method == "repaint", "method repaint"),
        "iterations": (encodes, "mode encode, and interpolate by method encode"),
    }
    return [
        (
            f"edit.{name}",
            lambda _: True,
            f"in mode {mode} by method {method}: it is for {whose}; leave it out",
        )
        for name, (is_used, whose) in looked_at.items()
        if not is_used
    ]
