"""Options that several requests share, and how a field of a request is declared."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ddpm_jax import limits
from ddpm_jax.errors import UserError

T = TypeVar("T")

MAX_SCALE = 1000.0
"""Of guidance, far beyond any that is of use: more leaves no digit of the image."""
SAMPLERS = (
    *("ancestral", "ddim", "euler", "heun", "adaptive", "dpmpp_2m", "dpmpp_3m"),
    *("dpmpp_2m_sde", "unipc", "unipc_3", "pndm", "consistency"),
)
SPACINGS = ("trailing", "leading", "linear", "quadratic", "karras", "logsnr")
"""Spacings of one word; another says how many steps each section of the chain has."""
VARIANCES = ("small", "large", "learned")
_SECTIONS = "sections"


def option(
    default: Any, text: str, *, of: str = "", choices: Collection[str] = ()
) -> Any:
    """Declare an option of a request.

    Args:
        default: without a recipe that sets another.
        text: what the option says, for `--help`.
        of: the option of a recipe that holds its default, such as "sample.labels";
            "" for that of its own name in the section of the request, if it has one.
        choices: all that it may be, beside None where that is its default; () for
            whatever `__post_init__` or the command can read.
    """
    where = {"of": of} if of else {}
    metadata = {"help": text, "choices": tuple(choices), **where}
    return dataclasses.field(default=default, metadata=metadata)


def listed(words: Sequence[str]) -> str:
    """List words for a person: "a, b or c"."""
    *before, last = words
    return f"{', '.join(before)} or {last}" if before else last


def place(default: str | None, text: str, *, positional: bool = True) -> Any:
    """Declare where something lies; no recipe has a default for it.

    Args:
        default: None if it may be left out, "" if it may not.
        text: what the place is, for `--help`.
        positional: given without a flag.
    """
    metadata = {"help": text, "positional": positional}
    return dataclasses.field(default=default, metadata=metadata)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def request(section: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class a request: a frozen dataclass, whose fields are options.

    Args:
        section: of a recipe, which holds the defaults of its options by their names;
            "" where none does. An option that says `of` has its default there.
    """

    def made(cls: type[T]) -> type[T]:
        for name, field in vars(cls).items():
            is_option = isinstance(field, dataclasses.Field) and (
                "positional" not in field.metadata  # which no recipe has a default for
            )
            if section and is_option:
                where = {"of": f"{section}.{name}"}
                field.metadata = types.MappingProxyType({**where, **field.metadata})
        return dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    return made


@request()
class Request:
    """What is asked for of a run.

    Numbers that cannot be are refused when it is made, whatever the model.
    """

    run: str | None = place("", "folder of the run")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = _written(field), getattr(self, field.name)
            limits.check_ceilings(value, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name}={value} is not finite; use a number.")
            choices = field.metadata.get("choices")
            if choices and value not in (*choices, field.default):
                raise UserError(
                    f"{name}={value!r} is not known; use {', '.join(choices)}."
                )

    def check_at_least(self, lowest: int, *names: str) -> None:
        """Refuse numbers below the lowest; those that are None are not looked at.

        Raises:
            UserError: naming the first.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in names and value is not None and not value >= lowest:
                raise UserError(
                    f"{_written(field)}={value} is too small; use {lowest} or more."
                )


def _written(field: dataclasses.Field) -> str:
    """Name a field in a message: the option of a recipe, or the flag if it has none."""
    of = field.metadata.get("of")
    return f"config.{of}" if of else f"--{field.name.replace('_', '-')}"


@request()
class WithResults(Request):
    """Where results go."""

    out: str | None = place(
        None,
        "folder of the results; unset: one within the run",
        positional=False,
    )

    @property
    def folder(self) -> Path | None:
        """Where they go, if that was said."""
        return None if self.out is None else Path(self.out)


@request("sample")
class Parameters(Request):
    """Which parameters of a run are used."""

    step: int | None = option(None, "step of the checkpoint; unset: the newest")
    ema: bool = option(True, "use the averaged (EMA) parameters")
    ema_std: float | None = option(
        None, "length of an average built from training.ema_stds, as a share of the run"
    )


@request("sample")
class Chain(Parameters):
    """How a reverse chain is run."""

    sampler: str = option("ancestral", listed(SAMPLERS), choices=SAMPLERS)
    num_steps: int | None = option(None, "steps of the chain; unset: all T")
    spacing: str = option("trailing", f"{', '.join(SPACINGS)}, or {_SECTIONS}:20,10,10")
    variance: str | None = option(
        None, f"of ancestral: {listed(VARIANCES)}; unset: as trained", choices=VARIANCES
    )
    eta: float = option(0.0, "of ddim: 0 deterministic, 1 ancestral")
    churn: float = option(0.0, "of euler and heun, EDM's S_churn: 0 deterministic")
    churn_low: float = option(0.0, "S_tmin of the churn, as sigma / alpha")
    churn_high: float | None = option(None, "S_tmax of the churn; unset: no bound")
    churn_noise: float = option(1.0, "S_noise of the churn")
    rtol: float = option(1e-4, "of adaptive: relative tolerance")
    atol: float = option(1e-4, "of adaptive: absolute tolerance")
    clip: bool = option(True, "clamp the predicted x0 to [-1, 1]; latents never are")
    dynamic_percentile: float = option(
        0.0, "clip by each image's own range, such as 0.995; 0: not"
    )
    guidance_scale: float = option(
        1.0, "1 conditional, 0 unconditional, more: classifier-free guidance"
    )
    guidance_low: float = option(0.0, "guide only above this sigma / alpha")
    guidance_high: float | None = option(None, "and up to this; unset: no bound")
    guidance_rescale: float = option(
        0.0, "restore the contrast that guidance adds: 0 to 1"
    )
    guidance_parallel: float = option(
        1.0, "share of guidance along the predicted x0 (APG's eta): 1 all, 0 none"
    )
    guidance_norm: float | None = option(
        None, "most that the two predictions of x0 differ (APG's r); unset: no bound"
    )
    guidance_optimized: bool = option(
        False, "scale the unconditional velocity by its optimal scale (CFG-Zero*)"
    )
    zero_init_steps: int = option(
        0, "first steps of ddim or euler that stand still (CFG-Zero*), such as 1"
    )
    autoguidance: float = option(
        1.0, "more than 1: guide away from worse parameters of the run, such as 2"
    )
    autoguidance_step: int | None = option(
        None, "step of these parameters; unset: that of the model"
    )
    autoguidance_ema: bool = option(True, "whether they are averaged (EMA)")
    autoguidance_ema_std: float | None = option(
        None, "length of their average, as ema_std; unset: the ordinary one"
    )
    classifier_scale: float = option(
        0.0, "guide by a classifier fitted to the data in closed form"
    )
    label: str = option(
        "", "classes such as 7 or 0,1,2, taken in turn", of="sample.labels"
    )
    prompt: str = option(
        "",
        "a prompt, file:PATH with one in each line, or data:SPLIT for the captions of "
        "a split",
    )
    negative_prompt: str = option("", "what guidance goes away from")
    cond: str = option(
        "",
        "further conditions by name: NAME=VALUE, several values with commas, taken in "
        "turn, and several conditions with semicolons",
    )
    picture_noise: float = option(
        0.0,
        "noise-conditioning augmentation of a super-resolution model, 0 to "
        "conditioners.low_res.max_aug_level",
    )
    seed: int | None = option(None, "unset: that of the run")
    batch_size: int = option(64, "images at a time, over all devices")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "batch_size")
        if self.seed is not None:
            limits.check_seed("config.sample.seed", self.seed)
        if not 0 <= self.eta <= 1:
            raise UserError(
                f"config.sample.eta={self.eta} is not in [0, 1]; 0 is deterministic "
                "DDIM, 1 the ancestral sampler."
            )
        section_counts(self.spacing)  # refuses what is no spacing
        self._check_churn()
        for name in ("rtol", "atol"):
            check_tolerance(f"config.sample.{name}", getattr(self, name))
        self._check_guidance()

    def _check_churn(self) -> None:
        if not 0 <= self.churn < math.inf:
            raise UserError(
                f"config.sample.churn={self.churn} is not 0 or more; 0 is the "
                "deterministic sampler."
            )
        _check_range("churn", self.churn_low, self.churn_high)
        if not 0 < self.churn_noise < math.inf:
            raise UserError(
                f"config.sample.churn_noise={self.churn_noise} is not positive; 1 is "
                "as much noise as the level asks for."
            )

    def _check_guidance(self) -> None:
        for name in ("guidance_scale", "classifier_scale", "autoguidance"):
            scale = getattr(self, name)
            if not abs(scale) <= MAX_SCALE:
                raise UserError(
                    f"config.sample.{name}={scale} is out of range; use "
                    f"-{MAX_SCALE:g} to {MAX_SCALE:g}, such as 2."
                )
        _check_range("guidance", self.guidance_low, self.guidance_high)
        if self.guidance_norm is not None and not self.guidance_norm > 0:
            raise UserError(
                f"config.sample.guidance_norm={self.guidance_norm} is not above 0; "
                "leave it out for no bound."
            )
        self.check_at_least(0, "zero_init_steps")
        for name in ("guidance_rescale", "guidance_parallel", "dynamic_percentile"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise UserError(
                    f"config.sample.{name}={share} is not in [0, 1]; use "
                    f"{1 if name == 'guidance_parallel' else 0} to switch it off."
                )


def section_counts(spacing: str) -> tuple[int, ...] | None:
    """Read "sections:20,10,10": steps by section; None for a spacing of one word.

    Raises:
        UserError: it is not known.
    """
    if spacing in SPACINGS:
        return None
    word, _, text = spacing.partition(":")
    counts = [count.strip() for count in text.split(",")]
    if word != _SECTIONS or not all(c.isdecimal() and int(c) for c in counts):
        raise UserError(
            f"config.sample.spacing={spacing!r} is not known; use "
            f"{', '.join(SPACINGS)}, or steps by section from the image to the noise, "
            f"such as {_SECTIONS}:20,10,10."
        )
    return tuple(int(count) for count in counts)


def check_tolerance(option: str, value: float) -> None:
    """Refuse a tolerance that float32 cannot reach.

    Raises:
        UserError: naming the option.
    """
    if not 1e-6 <= value < math.inf:
        raise UserError(
            f"{option}={value} is out of reach in float32; use 1e-6 or more, such as "
            "1e-4."
        )


def _check_range(kind: str, low: float, high: float | None) -> None:
    end = math.inf if high is None else high
    if not 0 <= low <= end:
        raise UserError(
            f"config.sample.{kind}_low={low} and {kind}_high={end} are no range of "
            "sigma / alpha; use 0 <= low <= high."
        )


@request("sample")
class ByPrior(Request):
    """Where a decoder (unCLIP) has the image embedding of a prompt from."""

    prior: str = option(
        "", "of a decoder (unCLIP): run of a prior, or text or nearest; unset: none"
    )


@request("sample")
class Shown(Request):
    """How much of the chain is shown."""

    film_frames: int = option(16, "frames of the film strip and the GIF")
    film_images: int = option(8, "images in them")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(2, "film_frames")
        self.check_at_least(1, "film_images")
