"""Sampling from a trained model, after its training and while it lasts."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.codecs import Codec, Params
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
from ddpm_jax.commands.sampled import sample_any
from ddpm_jax.recipe import Diffusion, Plane, Recipe
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import describe, spread_whole
from ddpm_jax.runtime.results import finished_result, is_finished, result_folder
from ddpm_jax.sampling.plan import (
    Made,
    Program,
    Record,
    Trajectory,
    compile_plan,
    run_batches,
)
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
    done = finished_result(results, sample_request(spec, asked, described), out)
    if done is not None:
        return done
    trained = open_model(recipe, asked, workdir)
    info, mesh = trained.info, trained.mesh
    folder = result_folder(results, sample_request(spec, asked, trained), out)
    if is_finished(folder):  # of an older checkpoint, the newest being damaged
        return folder
    print(
        f"Drawing {asked.num_images} images with {trained.described}: "
        f"{asked.sampler}, {assembly.num_steps(spec, asked)} steps, on {describe()}.",
        flush=True,
    )
    started = time.perf_counter()
    program = sampling_program(spec, asked, info, trained.unet, mesh, trained.codec)
    bar = tqdm(total=asked.num_images, unit="image", disable=None, dynamic_ncols=True)
    with bar:
        conditions = conditions_of(
            spec, asked, info, trained.unet, trained.params.network
        )
        items, trajectory = _sample_all(
            spec, asked, program, trained.params, conditions, on_batch=bar.update
        )
    seconds = time.perf_counter() - started
    record: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "checkpoint_step": trained.step,
        "parameters": parameters_name(asked),
        "sample": sample_options(asked),
        "seed": assembly.seed_of(spec, asked),
        "device": describe(),
        "versions": trained.about.get("versions", {}),
    }
    if spec.map_name:
        assert conditions.cond is not None  # such a model is given pictures
        _, given = assembly.shown(spec, conditions.cond)
        record["consistency_db"] = assembly.consistency(spec, items, given)
    show = trained.codec.show
    sheet = sheet_of(spec, asked, info, conditions.cond, items, show)
    write_forward(spec, asked, folder, trained.codec)
    portray = PORTRAITS.get(type(spec.codec))
    if portray is not None:
        portray(spec, asked, trained, workdir, folder, items, trajectory)
    write_samples(spec, asked, info, folder, items, trajectory, sheet, record, show)
    if record.get("consistency_db") is not None:
        print(format_consistency(record["consistency_db"]))
    print(f"{seconds:.1f} s. Pictures: {folder}/grid.png, film.png, chain.gif, images/")
    return folder


class Conditions(NamedTuple):
    """The condition of each sample, and whose noise it starts from."""

    cond: dict[str, Any] | None  # leaves [N, ...]
    noise: np.ndarray | None  # int32 [N]; None: each its own


def conditions_of(
    spec: Diffusion, asked: Sample, info: DataInfo, unet: Any, params: Any
) -> Conditions:
    """Make the condition of each sample.

    Args:
        spec: of the model.
        asked: what is asked for.
        info: of the data.
        unet: the network.
        params: its parameters, which read the two ends of a walk between prompts.

    Raises:
        UserError: a label or a prompt cannot be used.
    """
    if not asked.prompt_to:
        return Conditions(assembly.sample_cond(spec, info, asked), None)
    cond = assembly.cond_between(spec, info, asked, unet, params)
    return Conditions(cond, np.zeros(asked.num_images, np.int32))


def sampling_program(
    spec: Diffusion,
    asked: Sample,
    info: DataInfo,
    unet: Any,
    mesh: Mesh,
    codec: Codec,
) -> Program:
    """Make the program that samples as asked for; it is given `codecs.Params`."""
    record = Record(asked.film_frames, asked.film_images)
    return assembly.kept(
        "sample",
        spec,
        info,
        lambda: compile_plan(
            assembly.sampling_plan(spec, asked, unet, codec), mesh, record
        ),
        mesh=mesh,
        request={**assembly.compiled_options(spec, asked), "record": record},
    )


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
        program: from `sampling_program`.
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
        not_finite=lambda what, first, last: (
            f"an image among {first} to {last} is not finite; draw in float32 and "
            "clipped, or from an earlier checkpoint (sample.step)."
        ),
        **options,
    ):
        yield made


def _sample_all(*given: Any, **options: Any) -> tuple[np.ndarray, Trajectory]:
    """Sample all images, and the trajectory of the first batch."""
    made = list(sample_batches(*given, **options))
    assert made[0].trajectory is not None  # as it is recorded
    return np.concatenate([batch.items for batch in made]), made[0].trajectory


def make_preview(
    spec: Diffusion,
    asked: Sample,
    info: DataInfo,
    unet: Any,
    mesh: Mesh,
    codec: Codec,
) -> Callable[[TrainState], Mapping[str, np.ndarray]]:
    """Sample a few images with the averaged parameters, quickly, while training."""
    quick = dataclasses.replace(
        asked,
        sampler="ddim",
        eta=0.0,
        spacing="trailing",
        churn=0.0,
        num_steps=spec.preview_steps,
        num_images=min(asked.num_images, asked.batch_size),
        prompt_to="",
    )
    program = sampling_program(spec, quick, info, unet, mesh, codec)
    conditions = Conditions(assembly.sample_cond(spec, info, quick), None)
    of_codec = spread_whole(codec.params, mesh)

    def preview(state: TrainState) -> Mapping[str, np.ndarray]:
        params = Params(state.ema_params, of_codec)
        items, trajectory = _sample_all(spec, quick, program, params, conditions)
        sheet = sheet_of(spec, quick, info, conditions.cond, items, codec.show)
        return {"samples": sheet, "film": codec.show.trajectory(trajectory.x_t)}

    return preview
