"""Sampling from a trained model, after its training and while it lasts."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax import assembly
from ddpm_jax.codecs import Params
from ddpm_jax.commands.drawing import (
    format_consistency,
    sample_options,
    sample_request,
    sheet_of,
    write_forward,
    write_samples,
)
from ddpm_jax.commands.model import describe_model, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.commands.plane import portray_points
from ddpm_jax.commands.prior import check_prior, embeddings_of
from ddpm_jax.commands.sampled import sample_any
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.diffusion.editing import slerp
from ddpm_jax.recipe import Diffusion, Plane, Recipe
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import describe, spread_whole
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.results import finished_result, is_finished, result_folder
from ddpm_jax.sampling.plan import Made, Program, Trajectory, run_batches
from ddpm_jax.training.state import TrainState

PORTRAITS: Mapping[type, Callable[..., None]] = {Plane: portray_points}
"""Class of a codec -> what shows a model of such items, beside its samples."""


def sample(recipe: Recipe, asked: Sample, workdir: Path) -> Path:
    """Sample from a checkpoint, and write what is made.

    What was asked for before is found, and not sampled again.

    Args:
        recipe: of the model.
        asked: what is sampled, and how; its `out` may name the folder, which else is a
            numbered one of `samples/` in the workdir.
        workdir: of the model.

    Returns:
        The folder that holds them.

    Raises:
        UserError: if the workdir holds no model, or the options do not fit it.
    """
    spec = recipe.task
    if not isinstance(spec, Diffusion):
        return sample_any(spec, asked, workdir)
    results, out = workdir / "samples", asked.folder
    described = describe_model(spec, asked, workdir)
    assembly.check_sample(spec, described.info, asked)
    check_prior(spec, described.info, asked)
    done = finished_result(results, sample_request(described, asked), out)
    if done is not None:
        return done
    trained = open_model(recipe, asked, workdir)
    folder = result_folder(results, sample_request(trained, asked), out)
    if is_finished(folder):  # of an older checkpoint, the newest being damaged
        return folder
    print(
        f"Drawing {asked.num_images} images with {trained.described}: "
        f"{asked.sampler}, {assembly.num_steps(spec, asked)} steps, on {describe()}.",
        flush=True,
    )
    started = time.perf_counter()
    program = assembly.program(trained, asked)
    with progress(asked.num_images) as bar:
        conditions = conditions_of(trained, asked, trained.params.network)
        if conditions.described:
            print(f"Image embeddings: {conditions.described}.", flush=True)
        items, trajectory = _sample_all(
            spec, asked, program, trained.params, conditions, on_batch=bar.update
        )
    seconds = time.perf_counter() - started
    record: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "checkpoint_step": trained.step,
        "parameters": parameters_name(asked),
        **({} if trained.worse is None else {"worse": trained.worse}),
        "sample": sample_options(asked),
        "seed": assembly.seed_of(spec, asked),
        "device": describe(),
        "versions": trained.about.get("versions", {}),
    }
    if conditions.described:
        record["image_embedding"] = conditions.described
    if spec.map_name:
        assert conditions.cond is not None  # such a model is given pictures
        _, given = assembly.shown(spec, conditions.cond)
        record["consistency_db"] = assembly.consistency(spec, items, given)
    sheet = sheet_of(trained, asked, conditions.cond, items)
    write_forward(trained, asked, folder)
    portray = PORTRAITS.get(type(spec.codec))
    if portray is not None:
        portray(spec, asked, trained, workdir, folder, items, trajectory)
    write_samples(trained, asked, folder, items, trajectory, sheet, record)
    if record.get("consistency_db") is not None:
        print(format_consistency(record["consistency_db"]))
    print(f"{seconds:.1f} s. Pictures: {folder}/grid.png, film.png, chain.gif, images/")
    return folder


class Conditions(NamedTuple):
    """The condition of each sample, and whose noise it starts from."""

    cond: dict[str, Any] | None  # leaves [N, ...]
    noise: np.ndarray | None  # int32 [N]; None: each its own
    described: str = ""  # where image embeddings come from


def conditions_of(
    model: assembly.Model,
    asked: Sample,
    params: Any,
    texts: Sequence[str] | None = None,
) -> Conditions:
    """Make the condition of each sample.

    Args:
        model: that samples.
        asked: what is asked for.
        params: of the network, which reads the two ends of a walk between prompts.
        texts: prompts in the place of that of the request, one for each sample.

    Raises:
        UserError: a label or a prompt cannot be used.
    """
    spec, info = model.spec, model.info
    if asked.prompt_to:
        cond = assembly.cond_between(spec, info, asked, model.unet, params)
        found = Conditions(cond, np.zeros(asked.num_images, np.int32))
        texts = [asked.prompt, asked.prompt_to]
    else:
        found = Conditions(assembly.sample_cond(spec, info, asked), None)
        if texts is None:
            texts = assembly.prompts(spec, info, asked)
        else:
            text = assembly.text_cond(info, texts, asked.negative_prompt)
            found = found._replace(cond={**(found.cond or {}), **text})
    embedded = embeddings_of(model, asked, texts or [])
    if embedded is None:
        return found
    rows = embedded.rows
    if asked.prompt_to:
        rows = _between(rows, asked.num_images)
    return found._replace(
        cond={**(found.cond or {}), NAME: rows}, described=embedded.described
    )


def _between(ends: np.ndarray, count: int) -> np.ndarray:
    """Go from one embedding to another on the great circle: [2, D] -> [N, D]."""
    a, b = (np.repeat(end[None], count, axis=0) for end in ends)
    shares = np.linspace(0, 1, count, dtype=np.float32)
    return np.asarray(slerp(jnp.asarray(a), jnp.asarray(b), jnp.asarray(shares)))


def sample_batches(
    spec: Diffusion,
    asked: Sample,
    program: Program,
    params: Any,
    conditions: Conditions,
    **options: Any,
) -> Iterator[Made]:
    """Sample what is asked for, a batch at a time.

    Args:
        spec: of the model.
        asked: how many, and of which seed.
        program: from `assembly.program`.
        params: `codecs.Params`.
        conditions: what they are conditioned on.
        options: `first`, `stop` and `on_batch` of `plan.run_batches`.

    Yields:
        What was made of each batch.

    Raises:
        UserError: an image is not finite.
    """
    for (made,) in run_batches(
        program,
        params,
        assembly.sample_key(assembly.seed_of(spec, asked)),
        conditions.cond or {},
        num_rows=asked.num_images,
        batch_size=min(asked.batch_size, asked.num_images),
        indices=conditions.noise,
        advice="draw in float32 and clipped, or from an earlier checkpoint "
        "(sample.step).",
        **options,
    ):
        yield made


def _sample_all(*given: Any, **options: Any) -> tuple[np.ndarray, Trajectory]:
    """Sample all images, and the trajectory of the first batch."""
    made = list(sample_batches(*given, **options))
    assert made[0].trajectory is not None  # as it is recorded
    return np.concatenate([batch.items for batch in made]), made[0].trajectory


def make_preview(
    model: assembly.Model, asked: Sample
) -> Callable[[TrainState], Mapping[str, np.ndarray]]:
    """Sample a few images with the averaged parameters, quickly, while training."""
    spec, show = model.spec, model.codec.show
    quick = dataclasses.replace(
        asked,
        # A network of few steps is seen by the sampler that it is made for.
        sampler=asked.sampler if asked.sampler == "consistency" else "ddim",
        eta=0.0,
        spacing="trailing",
        churn=0.0,
        zero_init_steps=0,
        autoguidance=1.0,  # whose parameters are of a finished run
        num_steps=spec.preview_steps,
        num_images=min(asked.num_images, asked.batch_size),
        prompt_to="",
    )
    program = assembly.program(model, quick)
    conditions = conditions_of(model, quick, None)
    of_codec = spread_whole(model.codec.params, model.mesh)

    def preview(state: TrainState) -> Mapping[str, np.ndarray]:
        params = Params(state.ema_params, of_codec)
        items, trajectory = _sample_all(spec, quick, program, params, conditions)
        sheet = sheet_of(model, quick, conditions.cond, items)
        return {"samples": sheet, "film": show.trajectory(trajectory.x_t)}

    return preview
