"""Options that would do nothing are refused, since whoever sets one expects an effect.

A rule names a field, says whether it has no effect, and what to do. Fields at their
default are never refused. What two options of a request say to each other is a rule
here, never refused in its `__post_init__`: a recipe may hold the one, and then whoever
asks for the other is served without it.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from ddpm_jax.assembly.conditions import has_tokens, is_droppable
from ddpm_jax.assembly.editing import edit_methods, is_encoding, method_of
from ddpm_jax.assembly.labels_prompts import OF_MANY
from ddpm_jax.assembly.sampling import levels, num_steps
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.diffusion.few_steps import FewStepSpec
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import VAE, Diffusion, DiT, Fit, TaskSpec, UNet
from ddpm_jax.requests import (
    Attributes,
    Edit,
    Evaluate,
    Interpolate,
    Likelihood,
    Parameters,
    Request,
    Sample,
)
from ddpm_jax.requests.evaluate import BITS_PER_DIM, Compared, images_kind
from ddpm_jax.requests.flags import sections_of
from ddpm_jax.requests.options import Chain, section_counts
from ddpm_jax.sampling.edits import OF_EMBEDDED
from ddpm_jax.specs import kind_of, located

R = TypeVar("R", bound=Request)

Rule = tuple[str, bool, str]
"""Field, whether it is without effect, "with ...; do ..." for the line.

Without "; do ..." it is to be left out, or one of two that are beside each other."""


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
        remedy = "leave one of them out" if "beside " in why else "leave it out"
        what = why if ";" in why else f"{why}; {remedy}"
        raise UserError(f"config.{option}={shown} does nothing {what}.")


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


_OF_A_VAE = "in a diffusion model: it is for the bound of a VAE"


def refuse_idle(spec: TaskSpec, asked: Request) -> None:
    """Refuse the first option of a request that does nothing with this model.

    Raises:
        UserError: naming it, and what to do.
    """
    refuse(asked, rules_of(spec, asked))


def leave_out_idle(spec: TaskSpec, asked: R, given: Collection[str] = ()) -> R:
    """Put back to its default what only a recipe sets and nothing looks at.

    A recipe whose `sample.eta` is of its sampler serves requests of another sampler as
    well: who asks for that one has not asked for the eta. Of two options that exclude
    each other that which was asked for stays, whichever it is.

    Args:
        spec: of the model.
        asked: the request.
        given: its fields that were asked for.
    """
    while True:  # one at a time: without it, others may do something, or nothing
        rules = [rule for rule in rules_of(spec, asked) if rule[0] not in given]
        name, default, _ = next(_idle(asked, rules), ("", None, ""))
        if not name:
            return asked
        asked = dataclasses.replace(asked, **{name: default})


def idle_fields(spec: TaskSpec, asked: Request) -> set[str]:
    """Name the fields that would do nothing in a request, whatever their values."""
    return {name for name, is_idle, _ in rules_of(spec, asked) if is_idle}


def rules_of(spec: TaskSpec, asked: Request) -> list[Rule]:
    """List the rules for the fields of a request."""
    rules: list[Rule] = []
    if not isinstance(spec, Diffusion):
        why = f"in a model of kind {kind_of(spec)}"
        names = [field.name for field in dataclasses.fields(asked)]
        looked_at = _OF_ANY_KIND.union(spec.options)
        rules += [(name, True, why) for name in names if name not in looked_at]
        if isinstance(asked, Interpolate):
            rules += _of_latent_walks(asked)
    if isinstance(asked, Evaluate | Attributes):
        rules += _of_given_images(asked)
    if isinstance(asked, Evaluate):
        rules += _of_evaluation(asked)
    if not isinstance(spec, Diffusion):
        return rules
    names = [name for name in VAE.options if hasattr(asked, name)]
    rules += [(name, True, _OF_A_VAE) for name in names]
    if isinstance(asked, Parameters):
        rules += of_parameters(asked)
    if isinstance(asked, Edit):
        rules += _of_edit(spec, asked)
    if isinstance(asked, Compared):
        rules += _of_compared(asked)
    if isinstance(asked, Chain):
        rules += _of_chain(spec, asked)
    if isinstance(asked, Sample):
        rules += _of_prompts(asked)
    if isinstance(asked, Likelihood):
        rules += _of_likelihood(asked)
    return rules


def of_parameters(asked: Parameters) -> list[Rule]:
    """List the rules for which parameters are used."""
    raw = "beside sample.ema=False, which asks for raw ones"
    averaged = "beside sample.ema_std, which asks for averaged ones"
    return [("ema_std", not asked.ema, raw), ("ema", bool(asked.ema_std), averaged)]


def _of_chain(spec: Diffusion, asked: Chain) -> list[Rule]:
    sampler = asked.sampler
    scales = {asked.guidance_scale}
    if isinstance(asked, Compared):
        scales = set(asked.all_scales())
    unguided = scales == {1}
    unaided = (
        "without autoguidance; set sample.autoguidance, such as 2, or leave it out"
    )
    at_one = "at guidance_scale 1; use another scale, such as 3, or leave it out"
    churnless = "without churn; set sample.churn above 0, or leave it out"
    tolerance = "but with sampler adaptive; leave it out, or use num_steps"
    unclipped = "in latents, which are never clipped"
    of_latents = spec.latents_run is not None
    unlabeled = _guides_to_no_class(spec, asked)
    return [
        *((name, unlabeled, _NO_CLASS) for name in _SCALES if hasattr(asked, name)),
        ("classifier_scale", _is_no_class(asked), _NO_CLASS),
        (
            "churn",
            sampler not in ("euler", "heun"),
            f"with sampler {sampler}; use euler or heun, or leave it out",
        ),
        ("eta", sampler != "ddim", "but with sampler ddim"),
        *((n, sampler != "adaptive", tolerance) for n in ("rtol", "atol")),
        *((f"churn_{n}", not asked.churn, churnless) for n in ("low", "high", "noise")),
        ("variance", sampler != "ancestral", "but with sampler ancestral"),
        *(
            (f"guidance_{n}", unguided and asked.autoguidance == 1, at_one)
            for n in ("low", "high")
        ),
        *(
            (f"guidance_{n}", unguided, at_one)
            for n in ("rescale", "parallel", "norm", "optimized")
        ),
        *_of_ways_to_guide(asked),
        (
            "zero_init_steps",
            sampler not in ("ddim", "euler") or bool(asked.eta or asked.churn),
            "but with sampler ddim or euler, and neither eta nor churn",
        ),
        *(
            (f"autoguidance_{n}", asked.autoguidance == 1, unaided)
            for n in ("step", "ema", "ema_std")
        ),
        (
            "autoguidance_ema_std",
            not asked.autoguidance_ema,
            "beside sample.autoguidance_ema=False, which asks for raw parameters",
        ),
        ("negative_prompt", unguided, at_one),
        ("clip", of_latents, unclipped),
        ("dynamic_percentile", of_latents, unclipped),
        (
            "prior",
            NAME not in spec.conditioners,
            "in a model that no image embedding conditions; leave it out",
        ),
        (
            "dynamic_percentile",
            not asked.clip,
            "beside sample.clip=False, which asks for no clipping",
        ),
        (
            "clip",
            bool(asked.dynamic_percentile),
            "beside sample.dynamic_percentile, which clips",
        ),
        *_of_sections(asked),
    ]


def _of_ways_to_guide(asked: Chain) -> list[Rule]:
    """Guidance is changed in one way at a time."""
    ways = [
        ("guidance_rescale", bool(asked.guidance_rescale)),
        ("guidance_parallel", asked.guidance_parallel != 1),
        ("guidance_norm", asked.guidance_norm is not None),
        ("guidance_optimized", asked.guidance_optimized),
    ]
    together = {"guidance_parallel", "guidance_norm"}
    return [
        (name, is_asked, f"beside sample.{other}, another way to guide")
        for name, _ in ways
        for other, is_asked in ways
        if name != other and {name, other} != together
    ]


_SCALES = ("guidance_scale", "guidance_scales")
_NO_CLASS = (
    "with sample.labels=none, which is no class; name one (a class called none by its "
    "number), or leave it out"
)


def _is_no_class(asked: Chain) -> bool:
    words = {word.strip() for word in asked.label.split(",")}
    return words == {"none"}


def _guides_to_no_class(spec: Diffusion, asked: Chain) -> bool:
    """Tell whether the label is all that could be guided to, and there is none."""
    # Those that are never dropped say so themselves; of a text only the spec is known.
    names = {
        name
        for name, one in spec.conditioners.items()
        if getattr(one, "droppable", True)
    }
    return names == {"label"} and _is_no_class(asked)


def _of_sections(asked: Chain) -> list[Rule]:
    """A spacing by section counts the steps as well."""
    counts, name = {asked.num_steps}, "num_steps"
    if isinstance(asked, Compared) and asked.sample_steps:
        counts, name = set(asked.all_steps()), "sample_steps"
    total = sum(section_counts(asked.spacing) or ())
    is_other = bool(total) and not counts <= {None, total}
    of = type(asked).__dataclass_fields__[name].metadata["of"]
    return [
        (
            "spacing",
            is_other,
            f"beside {of}={getattr(asked, name)}: its sections make {total} steps",
        ),
        (
            name,
            is_other,
            f"beside sample.spacing={asked.spacing}, whose sections make {total} steps",
        ),
    ]


def _of_prompts(asked: Sample) -> list[Rule]:
    is_one = bool(asked.prompt) and not asked.prompt.startswith(OF_MANY)
    return [
        (
            "prompt_to",
            not is_one,
            "without one prompt to come from; give sample.prompt, or leave it out",
        ),
        (
            "prompt_to",
            asked.num_images < 2,
            "in one image, as a walk has two ends; use num_images of 2 or more, or "
            "leave it out",
        ),
    ]


# --- Of edits -------------------------------------------------------------------------

_OF_SAMPLERS = ("sampler", "variance", "eta", "rtol", "atol", "churn")
_OF_CHURN = ("churn_low", "churn_high", "churn_noise")


def _of_edit(spec: Diffusion, asked: Edit) -> list[Rule]:
    mode, method = asked.mode, method_of(spec, asked)
    known = edit_methods(spec, mode)
    here = f"in mode {mode} by method {method}"
    # Both chains of an encoding are deterministic DDIM, whatever is asked for.
    encodes = is_encoding(spec, asked)
    unclipped = encodes or method == "guidance"
    own = f"{here}, which is deterministic DDIM both ways"
    wanted = f"without a label or prompt to guide to; give {_guides(spec)}"
    unconditional = not (asked.label or asked.prompt or asked.cond) and not (
        NAME in spec.conditioners and mode in OF_EMBEDDED and method != "noise"
    )
    looked_at = {
        "weight": (method == "guidance", "method guidance"),
        "jump_length": (method == "repaint", "method repaint"),
        "num_resamples": (method == "repaint", "method repaint"),
        "iterations": (encodes, "method encode"),
    }
    return [
        (
            "method",
            bool(known) and method not in known,
            f"in mode {mode} of this model; use {', '.join(known)}",
        ),
        *(
            (name, not is_used, f"{here}: it is for {whose}")
            for name, (is_used, whose) in looked_at.items()
        ),
        *((name, encodes, own) for name in (*_OF_SAMPLERS, *_OF_CHURN, "seed")),
        ("zero_init_steps", True, "in an edit; it is for chains that start from noise"),
        ("clip", encodes, f"{here}, which never clips"),
        ("dynamic_percentile", unclipped, f"{here}, which does not clip so"),
        ("guidance_scale", unconditional, wanted),
        ("classifier_scale", not asked.label, "without a class; give sample.labels"),
        ("negative_prompt", not asked.prompt, "without a prompt; give sample.prompt"),
    ]


def _guides(spec: Diffusion) -> str:
    """Name the options that guidance may go towards."""
    named = {"label": "sample.labels", "text": "sample.prompt"}
    found = [option for name, option in named.items() if name in spec.conditioners]
    return " or ".join(found or ["sample.cond"])


def _of_latent_walks(asked: Interpolate) -> list[Rule]:
    """Rules for a walk of a model that samples at once."""
    drawn = "between items that are given, as nothing is drawn"
    whole = "in the walks of such a model, which are made at once"
    return [("seed", bool(asked.image), drawn), ("batch_size", True, whole)]


# --- Of comparisons -------------------------------------------------------------------

_OF_LIKELIHOOD = tuple(
    f"likelihood_{name}"
    for name in ("split", "num_images", "num_steps", "batch_size", "num_samples")
)
_OF_SETS = ("num_seeds", "sample_steps", "guidance_scales", "checkpoints", "picture")


def _of_compared(asked: Compared) -> list[Rule]:
    """One value of what there are several of."""

    def beside(option: str) -> str:
        return f"beside {option}, which says it too"

    return [
        ("num_steps", bool(asked.sample_steps), beside("evaluate.sample_steps")),
        ("sample_steps", asked.num_steps is not None, beside("sample.num_steps")),
        (
            "guidance_scale",
            bool(asked.guidance_scales),
            beside("evaluate.guidance_scales"),
        ),
        ("guidance_scales", asked.guidance_scale != 1, beside("sample.guidance_scale")),
    ]


def _of_given_images(asked: Evaluate | Attributes) -> list[Rule]:
    """Nothing of a sampling is looked at beside images that are given."""
    kind, _ = images_kind(asked.images)
    given = f"beside evaluate.images={asked.images}"
    unsampled = f"{given}, as nothing is sampled"
    names = [name for name in sections_of(Chain).values() if name != "seed"]
    if kind != "noise":  # which is drawn
        names.append("seed")
    if isinstance(asked, Attributes):
        names.append("num_images")
    rules = [
        (name, kind != "samples", unsampled)
        for name in (*names, *_OF_SETS)
        if hasattr(asked, name)
    ]
    if isinstance(asked, Attributes):
        captions = (
            "in attributes, which reads captions; use folder:PATH, or leave it out"
        )
        return [("images", kind not in ("samples", "folder"), captions), *rules]
    scored = kind != "samples" and BITS_PER_DIM in asked.scored
    of_model = f"for {BITS_PER_DIM}, which is of a model, "
    return [
        *rules,
        ("scores", scored, f"{of_model}{given}"),
        ("images", scored, f"{of_model}beside evaluate.scores"),
    ]


def _of_evaluation(asked: Evaluate) -> list[Rule]:
    features, scores = asked.features, asked.scored
    splits = (asked.reference_split, asked.baseline_split)
    reference = "beside evaluate.reference, which has its own images"
    unmeasured = (
        f"without score {BITS_PER_DIM}; name it in evaluate.scores, or leave it"
    )
    return [
        ("resize", features != "inception", "but with features inception"),
        (
            "weights",
            features != "inception",
            f"beside evaluate.features={features}: they are of inception",
        ),
        (
            "features",
            asked.weights is not None,
            "beside evaluate.weights, which are of inception",
        ),
        ("reference_split", bool(asked.reference), reference),
        ("baseline_split", bool(asked.reference), reference),
        (
            "reference",
            splits != (Evaluate.reference_split, Evaluate.baseline_split),
            "beside a split of the data of the run",
        ),
        (
            "allow_few",
            not {"all", "frechet", "frechet_infinity"} & set(scores),
            "without a Frechet distance, which few images make wrong",
        ),
        *(
            (name, BITS_PER_DIM not in scores, f"{unmeasured} out")
            for name in _OF_LIKELIHOOD
        ),
        (
            "step",
            bool(asked.checkpoints),
            "beside evaluate.checkpoints, which names steps",
        ),
        ("checkpoints", asked.step is not None, "beside sample.step, which names one"),
    ]


# --- Of likelihoods -------------------------------------------------------------------


def _of_likelihood(asked: Likelihood) -> list[Rule]:
    of_ode = "with method bound; leave it out, or use method ode"
    of_bound = "with method ode; leave it out, or use method bound"
    fixed = "beside likelihood.ode_steps"
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
        (
            "ode_steps",
            bool({asked.rtol, asked.atol} - {Likelihood.rtol, Likelihood.atol}),
            "beside likelihood.rtol and atol, which choose the steps",
        ),
    ]


# --- Ranges ---------------------------------------------------------------------------


def check_ranges(spec: Diffusion, asked: Sample) -> None:
    """Refuse ranges of churn and guidance that no level of the chain falls into.

    And as many steps that stand still as the chain has.

    Raises:
        UserError: naming the first.
    """
    steps = num_steps(spec, asked)
    if asked.zero_init_steps >= steps:
        raise UserError(
            f"config.sample.zero_init_steps={asked.zero_init_steps} leaves none of the "
            f"{steps} steps; use fewer, such as 1."
        )
    if asked.churn:
        _check_range(spec, asked, "churn", asked.churn_low, asked.churn_high)
    if asked.guidance_scale != 1 or asked.autoguidance != 1:
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
    unconditional = "in a model without labels or text"
    plain = "but with prediction edm"
    refuse(
        spec,
        [
            ("condition_dropout", not droppable, unconditional),
            ("data_std", not is_edm, plain),
        ],
    )
    times = (
        "with prediction edm, whose network is given log(sigma / alpha) / 4 in the "
        "place of t"
    )
    refuse(spec.schedule, [("t_range", is_edm, times)], "schedule.")
    check_warmup(fit)
    if isinstance(spec.loss, FewStepSpec):
        _check_few_steps(spec, spec.loss, fit, droppable=droppable)
    if isinstance(spec.network, UNet):
        _check_unet(spec.network, info)
    if isinstance(spec.network, DiT):
        where = "in a model that is conditioned on no text and no image embedding"
        is_idle = spec.network.tokens != DiT.tokens and not has_tokens(spec, info)
        refuse(spec.network, [("tokens", is_idle, where)], "network.")


def _check_few_steps(
    spec: Diffusion, loss: FewStepSpec, fit: Fit, *, droppable: bool
) -> None:
    untaught = "without a teacher; use loss.pairs teacher, or leave it out"
    refuse(loss, [("guidance_scale", not loss.needs_teacher, untaught)], "loss.")
    with located("config.loss"):
        loss.check_levels(spec.schedule.num_levels)
    steps = fit.restarts[0] if fit.restarts else fit.num_steps
    if loss.least_steps > steps:
        raise UserError(
            f"config.loss.num_stages={loss.least_steps} is more than the {steps} steps "
            "of training; use fewer, or a larger config.training.num_steps."
        )
    rates = (spec.condition_dropout, *spec.dropout_rates.values())
    if loss.guidance_scale != 1 and not (droppable and any(rates)):
        raise UserError(
            f"config.loss.guidance_scale={loss.guidance_scale} is of conditions with "
            "dropout, and this model has none; use 1."
        )


def _check_unet(network: UNet, info: DataInfo) -> None:
    is_flat = len(network.channel_multipliers) == 1
    refuse(
        network,
        [
            (
                "num_heads",
                network.head_channels is not None,
                "beside network.head_channels, which decides it",
            ),
            (
                "resample_blocks",
                is_flat,
                "in a network of one level, which halves nothing",
            ),
            (
                "downsample_padding",
                network.resample_blocks or is_flat,
                "where no convolution halves a map",
            ),
        ],
        "network.",
    )
    asked = network.attention_resolutions
    if asked == UNet.attention_resolutions:
        return
    side = min(info.shape[-3:-1]) // network.patch  # also of clips
    sides = [side >> level for level in range(len(network.channel_multipliers))]
    of_patches = f", in patches of {network.patch} pixels" if network.patch > 1 else ""
    for resolution in asked:
        if resolution not in sides:
            raise UserError(
                f"config.network.attention_resolutions={asked} has {resolution}, and "
                f"no map is of that size; the maps are {', '.join(map(str, sides))} on "
                f"their shorter side{of_patches}, and the last always has attention in "
                "the middle."
            )


def refuse_unused(fit: Fit, kind: str, *names: str) -> None:
    """Refuse options of `training` that the training of a kind does not look at.

    Raises:
        UserError: naming the first that was changed.
    """
    why = f"in the training of kind {kind}"
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
