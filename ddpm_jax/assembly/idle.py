"""Options that would do nothing are refused, since whoever sets one expects an effect.

A rule names a field, says whether it has no effect, and what to do. Fields at their
default are never refused.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from ddpm_jax.assembly.conditions import is_droppable
from ddpm_jax.assembly.editing import method_of
from ddpm_jax.assembly.sampling import levels
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.networks.unet import UNet
from ddpm_jax.requests import Edit, Evaluate, Likelihood, Request, Sample
from ddpm_jax.requests.evaluate import Compared
from ddpm_jax.requests.options import Chain
from ddpm_jax.specs import kind_of
from ddpm_jax.tasks.diffusion import Diffusion
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.tasks.vae import VAE
from ddpm_jax.training.fit import Fit

R = TypeVar("R", bound=Request)

Rule = tuple[str, bool, str]
"""Field, whether it is without effect, "with ...; do ..." for the line."""


def refuse(value: Any, rules: Iterable[Rule], path: str = "") -> None:
    """Refuse the first field that was changed and does nothing.

    Args:
        value: a request, or a spec.
        rules: for its fields.
        path: of a spec in a recipe, such as "network.".

    Raises:
        UserError: naming its option, and what to do.
    """
    for name, _, why in _idle(value, rules):
        found = getattr(value, name)
        shown = repr(found) if isinstance(found, str) else found
        option = value.__dataclass_fields__[name].metadata.get("of", f"{path}{name}")
        raise UserError(f"config.{option}={shown} does nothing {why}.")


def _idle(value: Any, rules: Iterable[Rule]) -> Iterator[tuple[str, Any, str]]:
    """Find the fields that were changed and do nothing: name, default, why."""
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    for name, is_idle, why in rules:
        if is_idle and name in defaults and getattr(value, name) != defaults[name]:
            yield name, defaults[name], why


# --- Requests -------------------------------------------------------------------------


# What means something to a model of any kind; a diffusion model has rules of its own.
_OF_ANY_KIND = frozenset(
    {
        *("run", "out", "num_images", "batch_size", "seed", "image", "num_points"),
        *("num_seeds", "images", "scores", "features", "weights", "resize"),
        *("feature_batch_size", "reference", "reference_split", "baseline_split"),
        *("allow_few", "likelihood_split", "likelihood_num_images"),
        *("likelihood_batch_size", "source", "split"),
    }
)


_OF_A_VAE = "in a diffusion model: it is for the bound of a VAE; leave it out"


def refuse_idle(spec: TaskSpec, asked: Request) -> None:
    """Refuse the first option of a request that does nothing with this model.

    Raises:
        UserError: naming it, and what to do.
    """
    refuse(asked, rules_of(spec, asked))


def leave_out_idle(spec: TaskSpec, asked: R, given: Collection[str] = ()) -> R:
    """Put back to its default what only a recipe sets and nothing looks at.

    A recipe whose `sample.eta` is of its sampler serves requests of another sampler as
    well: who asks for that one has not asked for the eta.

    Args:
        spec: of the model.
        asked: the request.
        given: its fields that were asked for.
    """
    rules = [rule for rule in rules_of(spec, asked) if rule[0] not in given]
    changes = {name: default for name, default, _ in _idle(asked, rules)}
    return dataclasses.replace(asked, **changes)


def idle_fields(spec: TaskSpec, asked: Request) -> set[str]:
    """Name the fields that would do nothing in a request, whatever their values."""
    return {name for name, is_idle, _ in rules_of(spec, asked) if is_idle}


def rules_of(spec: TaskSpec, asked: Request) -> list[Rule]:
    """List the rules for the fields of a request."""
    rules: list[Rule] = []
    if not isinstance(spec, Diffusion):
        why = f"in a model of kind {kind_of(spec)}; leave it out"
        names = [field.name for field in dataclasses.fields(asked)]
        looked_at = _OF_ANY_KIND.union(spec.options)
        rules += [(name, True, why) for name in names if name not in looked_at]
    else:
        names = [name for name in VAE.options if hasattr(asked, name)]
        rules += [(name, True, _OF_A_VAE) for name in names]
        if isinstance(asked, Chain):
            rules += _of_chain(spec, asked)
        if isinstance(asked, Edit):
            rules += _of_edit(asked.mode, method_of(spec, asked))
        if isinstance(asked, Likelihood):
            rules += _of_likelihood(asked)
    if isinstance(asked, Evaluate):
        rules += _of_evaluation(asked)
    return rules


def _of_chain(spec: Diffusion, asked: Chain) -> list[Rule]:
    scales = asked.all_scales() if isinstance(asked, Compared) else []
    unguided = {asked.guidance_scale, *scales} == {1}
    at_one = "at guidance_scale 1; use another scale, such as 3, or leave it out"
    churnless = "without churn; set sample.churn above 0, or leave it out"
    tolerance = "but with sampler adaptive; leave it out, or use num_steps"
    return [
        ("eta", asked.sampler != "ddim", "but with sampler ddim; leave it out"),
        *((n, asked.sampler != "adaptive", tolerance) for n in ("rtol", "atol")),
        *((f"churn_{n}", not asked.churn, churnless) for n in ("low", "high", "noise")),
        (
            "variance",
            asked.sampler != "ancestral",
            "but with sampler ancestral; leave it out",
        ),
        *((f"guidance_{n}", unguided, at_one) for n in ("low", "high", "rescale")),
        (
            "dynamic_percentile",
            spec.latents_run is not None,
            "in latents, which are never clipped; leave it out",
        ),
    ]


def _of_edit(mode: str, method: str) -> list[Rule]:
    looked_at = {
        "weight": (method == "guidance", "method guidance"),
        "jump_length": (method == "repaint", "method repaint"),
        "num_resamples": (method == "repaint", "method repaint"),
        "iterations": (method in ("ddim", "encode"), "method encode"),
    }
    return [
        (
            name,
            not is_used,
            f"in mode {mode} by method {method}: it is for {whose}; leave it out",
        )
        for name, (is_used, whose) in looked_at.items()
    ]


def _of_evaluation(asked: Evaluate) -> list[Rule]:
    return [
        (
            "resize",
            asked.features != "inception",
            "but with features inception; leave it out",
        ),
        (
            "reference_split",
            bool(asked.reference),
            "beside evaluate.reference, which has its own images; leave one of them "
            "out",
        ),
    ]


def _of_likelihood(asked: Likelihood) -> list[Rule]:
    of_ode = "with method bound; leave it out, or use method ode"
    of_bound = "with method ode; leave it out, or use method bound"
    fixed = "beside likelihood.ode_steps; leave one of them out"
    return [
        *(
            (name, asked.method == "bound", of_ode)
            for name in ("ode_steps", "num_probes", "rtol", "atol")
        ),
        *(
            (name, asked.method == "ode", of_bound)
            for name in ("variance", "clip", "num_steps")
        ),
        *((name, asked.ode_steps is not None, fixed) for name in ("rtol", "atol")),
    ]


def check_ranges(spec: Diffusion, asked: Sample) -> None:
    """Refuse ranges of churn and guidance that no level of the chain falls into.

    Raises:
        UserError: naming the first.
    """
    if asked.churn:
        _check_range(spec, asked, "churn", asked.churn_low, asked.churn_high)
    if asked.guidance_scale != 1:
        _check_range(spec, asked, "guidance", asked.guidance_low, asked.guidance_high)


def _check_range(
    spec: Diffusion, asked: Sample, kind: str, low: float, high: float | None
) -> None:
    if low == 0 and high is None:
        return
    level = levels(spec, asked)
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


def check_training_effects(spec: Diffusion, fit: Fit, info: DataInfo) -> None:
    """Refuse options of a network and its training that would do nothing.

    Not asked of a model that is trained: what it was trained with cannot be changed.

    Raises:
        UserError: naming the first.
    """
    is_edm, droppable = spec.prediction == "edm", is_droppable(spec, info)
    unconditional = "in a model without labels or text; leave it out"
    plain = "but with prediction edm; leave it out"
    refuse(
        spec,
        [
            ("condition_dropout", not droppable, unconditional),
            ("data_std", not is_edm, plain),
        ],
    )
    times = (
        "with prediction edm, whose network is given log(sigma / alpha) / 4 in the "
        "place of t; leave it out"
    )
    refuse(spec.schedule, [("t_range", is_edm, times)], "schedule.")
    check_warmup(fit)
    if isinstance(spec.network, UNet):
        _check_unet(spec.network, info)


def _check_unet(network: UNet, info: DataInfo) -> None:
    is_flat = len(network.channel_multipliers) == 1
    refuse(
        network,
        [
            (
                "num_heads",
                network.head_channels is not None,
                "beside network.head_channels, which decides it; leave one of them out",
            ),
            (
                "resample_blocks",
                is_flat,
                "in a network of one level, which halves nothing; leave it out",
            ),
            (
                "downsample_padding",
                network.resample_blocks or is_flat,
                "where no convolution halves a map; leave it out",
            ),
        ],
        "network.",
    )
    asked = network.attention_resolutions
    if asked == UNet.attention_resolutions:
        return
    side = min(info.shape[:2])
    sides = [side >> level for level in range(len(network.channel_multipliers))]
    for resolution in asked:
        if resolution not in sides:
            raise UserError(
                f"config.network.attention_resolutions={asked} has {resolution}, and "
                f"no map is of that size; the maps are {', '.join(map(str, sides))} on "
                "their shorter side, and the last always has attention in the middle."
            )


def refuse_unused(fit: Fit, kind: str, *names: str) -> None:
    """Refuse options of `training` that the training of a kind does not look at.

    Raises:
        UserError: naming the first that was changed.
    """
    why = f"in the training of kind {kind}; leave it out"
    refuse(fit, [(name, True, why) for name in names], "training.")


def check_warmup(fit: Fit) -> None:
    """Refuse a warm-up that would not end before the run does.

    Raises:
        UserError: naming both.
    """
    why = (
        f"but slow down all {fit.num_steps} steps: the learning rate never reaches "
        f"config.training.learning_rate; use fewer, such as {fit.num_steps // 10}"
    )
    too_long = fit.warmup_steps > fit.num_steps
    refuse(fit, [("warmup_steps", too_long, why)], "training.")
