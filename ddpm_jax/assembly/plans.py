"""Plans of sampling and of edits, and their programs."""

import dataclasses
from functools import partial
from typing import Any

import jax

from ddpm_jax.assembly.conditions import encode_for
from ddpm_jax.assembly.editing import edit_of
from ddpm_jax.assembly.guidance import CLASSIFIED, clips
from ddpm_jax.assembly.parts import Model
from ddpm_jax.assembly.programs import kept
from ddpm_jax.assembly.sampling import denoiser, levels, sampler
from ddpm_jax.codecs import Params
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.conditioner import NEGATIVE
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Edit, Request, Sample
from ddpm_jax.requests.sample import sample_of
from ddpm_jax.sampling.edits import edit_plan
from ddpm_jax.sampling.plan import (
    Given,
    ImageCondition,
    Plan,
    Program,
    Record,
    compile_plan,
    sample_plan,
)
from ddpm_jax.sampling.plan import Model as ChainModel
from ddpm_jax.specs import to_json

NOT_COMPILED = frozenset(
    {
        *("run", "out", "step", "ema", "ema_std", "seed", "num_images", "batch_size"),
        *("label", "cond", "prompt", "negative_prompt", "prompt_to", "picture"),
        *("prior", "from_text", "to_text", "share"),
        *("autoguidance_step", "autoguidance_ema", "autoguidance_ema_std"),
        *("film_frames", "film_images", "image", "mask", "num_points"),
        *("source", "split"),
    }
)
"""Fields of requests that reach a compiled program through its arguments or the record
of the plan, or not at all."""


def compiled_options(spec: Diffusion, asked: Request) -> dict[str, Any]:
    """Return what of a request is built into a compiled program, as plain data.

    The classifier's guidance is fitted to the data, which are named with it.

    Args:
        spec: of the model.
        asked: the request.
    """
    stored = dataclasses.asdict(asked)
    options = {k: v for k, v in stored.items() if k not in NOT_COMPILED}
    if options.get("classifier_scale"):
        options["data"] = to_json(spec.data)
    return options


def condition(network: Conditioned, params: Params, given: Given) -> Cond:
    """Return the condition among what is given, None if there is none."""
    known = {*network.conditioners, NEGATIVE, CLASSIFIED}
    cond = {name: rows for name, rows in given.items() if name in known}
    return encode_for(network, params, cond)


def plan_model(model: Model, asked: Sample) -> ChainModel:
    """Describe what the chains of a plan are made with.

    Args:
        model: of which model.
        asked: how chains are run.
    """
    spec = model.spec

    def guided(params: Params) -> Denoiser:
        return denoiser(spec, asked, model.unet, params.network, params.worse)

    return ChainModel(
        model.codec,
        levels(spec, asked),
        partial(sampler, spec, asked),
        guided,
        partial(condition, model.unet),
        clip=clips(spec, asked),
    )


def plan_of(model: Model, asked: Sample | Edit) -> Plan:
    """Describe sampling from noise, or an edit.

    Args:
        model: that samples, or edits.
        asked: what is done, and how chains are run.
    """
    if isinstance(asked, Sample):
        return sample_plan(plan_model(model, asked))
    edit, chain = edit_of(model.spec, asked), sample_of(asked)
    clip = clips(model.spec, chain)
    if edit.is_unclipped:
        chain = dataclasses.replace(chain, clip=False, dynamic_percentile=0.0)
    return edit_plan(
        edit,
        plan_model(model, chain)._replace(
            image_condition=_image_condition(model.spec, chain), clip=clip
        ),
    )


def _image_condition(spec: Diffusion, chain: Sample) -> ImageCondition | None:
    """Return what conditions an image-conditional model on a given image."""
    conditioner, name = spec.image_map, spec.map_name
    if conditioner is None:
        return None

    def of_image(keys: jax.Array, given: Given) -> tuple[dict[str, Any], jax.Array]:
        rows = conditioner.from_given(keys, given, chain.picture_noise)
        return {name: rows}, conditioner.show(rows)

    return of_image


def program(
    model: Model, asked: Sample | Edit, *, recorded: bool = True, what: str = ""
) -> Program:
    """Make the program of a request, or find that of an earlier one.

    Args:
        model: that samples, or edits; the program is given its `codecs.Params`.
        asked: what is done, and how chains are run.
        recorded: whether the trajectory is kept, as far as the request has it.
        what: tells programs of other codecs apart.
    """
    record = None
    if recorded and isinstance(asked, Sample):
        record = Record(asked.film_frames, asked.film_images)
    elif recorded:
        record = Record(asked.film_frames, with_start=False, with_x0=False)
    return kept(
        f"{what}{type(asked).__name__}",
        model.spec,
        model.info,
        lambda: compile_plan(plan_of(model, asked), model.mesh, record),
        mesh=model.mesh,
        request={**compiled_options(model.spec, asked), "record": record},
    )
