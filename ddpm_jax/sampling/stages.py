"""Cascade: an unconditional base model, then super-resolution models.

    low ~ p(low),   z = alpha_s low + sigma_s eps,   high ~ p(high | z)

Each stage has its own denoiser, with its own guidance and thresholding around it, its
own sampler and its own levels; all are conditioned on labels or text. Where the
networks are exact and s = 0, the images of all stages together are a sample of p(low,
high). With noise every stage by itself still samples its data distribution; low and the
box average of high are then two samples of p(low | z).

Sources:
    Ho et al. 2021, "Cascaded Diffusion Models for High Fidelity Image Generation".
    Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep
        Language Understanding", section 2.4.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from ddpm_jax.conditioning import low_res
from ddpm_jax.conditioning.image_maps import map_keys
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.generate import fold_each, initial_noise
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.sampling.plan import Chain, Given, Plan, Stage

_STAGES = 3  # beyond the numbers by which an image's key is split elsewhere


class CascadeStage(NamedTuple):
    """One model of a cascade, and how it is sampled from.

    Attributes:
        denoise: the model, guidance and thresholding included.
        sampler: the method.
        image_shape: (H, W, C) of its samples.
        low_shape: (h, w, C) of the image that it upsamples; None of the first stage,
            an unconditional base model.
        aug_level: s in [0, 1], [] and perhaps traced: the level of the noise added to
            that image, which the network is conditioned on too; None of a network
            without noise-conditioning augmentation.
    """

    denoise: Denoiser
    sampler: Sampler
    image_shape: tuple[int, int, int]
    low_shape: tuple[int, int, int] | None = None
    aug_level: jax.Array | float | None = None


def check_stages(
    stages: Sequence[CascadeStage], names: Sequence[str] | None = None
) -> None:
    """Refuse stages that do not fit each other, before any compile.

    Args:
        stages: first the smallest.
        names: of the stages, for messages; None: their numbers from 1.

    Raises:
        UserError: naming the first that does not fit.
    """
    if not stages:
        raise UserError("a cascade of no stages; give one or more.")
    called = names or [f"stage {i + 1}" for i in range(len(stages))]
    if stages[0].low_shape is not None:
        raise UserError(
            f"{called[0]} upsamples images of {_size(stages[0].low_shape)}; begin a "
            "cascade with an unconditional base model."
        )
    for i, (before, stage) in enumerate(itertools.pairwise(stages), 1):
        if stage.low_shape is None:
            raise UserError(
                f"{called[i]} is a base model; after the first, each stage of a "
                "cascade is a super-resolution model."
            )
        _check_pair(before, stage, called[i - 1], called[i])


def _check_pair(
    before: CascadeStage, stage: CascadeStage, first: str, second: str
) -> None:
    made, wanted, shape = before.image_shape, stage.low_shape, stage.image_shape
    assert wanted is not None  # check_stages has refused a second base
    if made[2] != wanted[2]:
        raise UserError(
            f"{first} makes images of {made[2]} channel(s), and {second} upsamples "
            f"those of {wanted[2]}; use models of the same."
        )
    if made != wanted:
        raise UserError(
            f"{first} makes {_size(made)}, and {second} upsamples {_size(wanted)}; use "
            "a model of that size before it."
        )
    factors = {shape[axis] / wanted[axis] for axis in (0, 1)}
    if len(factors) > 1 or factors.pop() not in range(2, max(shape) + 1):
        raise UserError(
            f"{second} makes {_size(shape)} out of {_size(wanted)}; both sides must "
            "grow by the same whole factor, 2 or more."
        )
    s = stage.aug_level
    if isinstance(s, int | float) and not 0 <= s <= 1:
        raise UserError(
            f"aug_level {s} of {second} is not in [0, 1]; 0 is no noise, 0.1 a little."
        )


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def stage_keys(keys: jax.Array, index: int) -> jax.Array:
    """Derive the keys of a stage from those of the cascade, [B]; the first has them."""
    return fold_each(keys, _STAGES + index) if index else keys


def begin_stage(
    keys: jax.Array,
    index: int,
    stage: CascadeStage,
    low: jax.Array | None,
    cond: Cond = None,
) -> Chain:
    """Make the chain of a stage ready to start.

    Args:
        keys: of the cascade, typed keys [B].
        index: which stage it is, from 0.
        stage: the stage.
        low: samples of the stage before, [B, h, w, C]; None for the first.
        cond: further conditions.
    """
    keys = stage_keys(keys, index)
    if low is not None:
        rows = low_res.from_low(map_keys(keys), low, stage.image_shape, stage.aug_level)
        cond = {**(cond or {}), low_res.NAME: rows}
    return Chain(
        keys,
        initial_noise(keys, stage.image_shape),
        stage.sampler,
        stage.denoise,
        cond,
        lambda x: x,
        lambda x: x,
    )


class CascadeModel(NamedTuple):
    """A model of a cascade, before it has its parameters.

    Attributes:
        levels: leaves [N + 1], of sampling.
        bind: parameters -> CascadeStage.
        condition: (parameters, rows) -> its further conditions.
    """

    levels: Level
    bind: Callable[[Any], CascadeStage]
    condition: Callable[[Any, Given], Cond]


def cascade_plan(models: Sequence[CascadeModel]) -> Plan:
    """Describe a cascade: a stage for each model.

    The plan takes a tuple of parameters, one entry for each model, and rows by the
    name "stages", a tuple likewise.

    Args:
        models: first that of the smallest images.
    """

    def begin_with(index: int, model: CascadeModel) -> Callable[..., Chain]:
        def begin(params: Any, keys: jax.Array, given: Given, levels: Level) -> Chain:
            del levels
            low = given[_made_by(index - 1)] if index else None
            cond = model.condition(params[index], given["stages"][index])
            return begin_stage(keys, index, model.bind(params[index]), low, cond)

        return begin

    return tuple(
        Stage(_made_by(index), model.levels, begin_with(index, model), to_uint8)
        for index, model in enumerate(models)
    )


def _made_by(index: int) -> str:
    return f"x of stage {index + 1}"
