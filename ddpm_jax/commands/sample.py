"""Sampling from a trained model, after its training and while it lasts."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.assembly.auxiliary import DIFFUSION
from ddpm_jax.codecs import Codec, Params
from ddpm_jax.commands.drawing import (
    format_consistency,
    sample_request,
    sheet_of,
    write_forward,
    write_samples,
)
from ddpm_jax.commands.model import describe_model, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.commands.plane import portray_points
from ddpm_jax.commands.sampled import sample_any
from ddpm_jax.recipe import to_json
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

PORTRAITS = {"plane": portray_points}
"""Kind of a codec -> what shows a model of such items, beside its samples."""


def sample(cfg: ConfigDict, workdir: Path, out: Path | None = None) -> Path:
    """Draw `config.sample.num_images` images from a checkpoint, and write them.

    What was asked for before is found, and not sampled again.

    Args:
        cfg: its `sample` says what is sampled, and how.
        workdir: of the model.
        out: their folder; None: a numbered one of `samples/` in the workdir.

    Returns:
        The folder that holds them.

    Raises:
        UserError: if the workdir holds no model, or the options do not fit it.
    """
    if cfg.kind != DIFFUSION:
        return sample_any(cfg, workdir, out)
    results = workdir / "samples"
    asked = sample_request(cfg, describe_model(cfg, workdir))
    done = finished_result(results, asked, out)
    if done is not None:
        return done
    trained = open_model(cfg, workdir)
    info, mesh = trained.info, trained.mesh
    folder = result_folder(results, sample_request(cfg, trained), out)
    if is_finished(folder):  # of an older checkpoint, the newest being damaged
        return folder
    print(
        f"Drawing {cfg.sample.num_images} images with {trained.described}: "
        f"{cfg.sample.sampler}, {assembly.num_steps(cfg)} steps, on {describe()}.",
        flush=True,
    )
    started = time.perf_counter()
    program = sampling_program(cfg, info, trained.unet, mesh, trained.codec)
    bar = tqdm(
        total=cfg.sample.num_images, unit="image", disable=None, dynamic_ncols=True
    )
    with bar:
        conditions = conditions_of(cfg, info, trained.unet, trained.params.network)
        items, trajectory = _sample_all(
            cfg, program, trained.params, conditions, on_batch=bar.update
        )
    seconds = time.perf_counter() - started
    record: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "checkpoint_step": trained.step,
        "parameters": parameters_name(cfg),
        "sample": to_json(cfg)["sample"],
        "seed": assembly.sample_seed(cfg),
        "device": describe(),
        "versions": trained.about.get("versions", {}),
    }
    if assembly.map_name(cfg):
        assert conditions.cond is not None  # such a model is given pictures
        _, given = assembly.shown(cfg, conditions.cond)
        record["consistency_db"] = assembly.consistency(cfg, items, given)
    show = trained.codec.show
    sheet = sheet_of(cfg, info, conditions.cond, items, show)
    write_forward(cfg, folder, trained.codec)
    if cfg.codec.kind in PORTRAITS:
        PORTRAITS[cfg.codec.kind](cfg, trained, workdir, folder, items, trajectory)
    write_samples(cfg, info, folder, items, trajectory, sheet, record, show)
    if record.get("consistency_db") is not None:
        print(format_consistency(record["consistency_db"]))
    print(f"{seconds:.1f} s. Pictures: {folder}/grid.png, film.png, chain.gif, images/")
    return folder


class Conditions(NamedTuple):
    """The condition of each sample, and whose noise it starts from."""

    cond: dict[str, Any] | None  # leaves [N, ...]
    noise: np.ndarray | None  # int32 [N]; None: each its own


def conditions_of(
    cfg: ConfigDict, info: DataInfo, unet: Any, params: Any
) -> Conditions:
    """Make the condition of each sample.

    Args:
        cfg: its `sample` says what is asked for.
        info: of the model.
        unet: the network.
        params: its parameters, which read the two ends of a walk between prompts.

    Raises:
        UserError: a label or a prompt cannot be used.
    """
    if not cfg.sample.prompt_to:
        return Conditions(assembly.sample_cond(cfg, info), None)
    cond = assembly.cond_between(cfg, info, unet, params)
    return Conditions(cond, np.zeros(cfg.sample.num_images, np.int32))


def sampling_program(
    cfg: ConfigDict, info: DataInfo, unet: Any, mesh: Mesh, codec: Codec
) -> Program:
    """Make the program that `config.sample` describes; it is given `codecs.Params`."""
    record = Record(cfg.sample.film_frames, cfg.sample.film_images)
    return assembly.kept(
        "sample",
        cfg,
        info,
        lambda own: compile_plan(
            assembly.sampling_plan(own, unet, codec), mesh, record
        ),
        mesh=mesh,
        request={**assembly.compiled_options(cfg), "record": record},
    )


def sample_batches(
    cfg: ConfigDict,
    program: Program,
    params: Any,
    conditions: Conditions,
    **options: Any,
) -> Iterator[Made]:
    """Sample `config.sample.num_images` images, a batch at a time.

    Args:
        cfg: its `sample` says how many, and of which seed.
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
        assembly.sample_key(cfg),
        conditions.cond or {},
        num_rows=cfg.sample.num_images,
        batch_size=min(cfg.sample.batch_size, cfg.sample.num_images),
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
    cfg: ConfigDict,
    info: DataInfo,
    unet: Any,
    mesh: Mesh,
    codec: Codec,
) -> Callable[[TrainState], Mapping[str, np.ndarray]]:
    """Sample a few images with the averaged parameters, quickly, while training."""
    quick = cfg.copy_and_resolve_references()
    quick.sample.sampler = "ddim"
    quick.sample.eta = 0.0
    quick.sample.spacing = "trailing"
    quick.sample.churn = 0.0
    quick.sample.num_steps = cfg.preview_steps
    quick.sample.num_images = min(cfg.sample.num_images, cfg.sample.batch_size)
    quick.sample.prompt_to = ""
    program = sampling_program(quick, info, unet, mesh, codec)
    conditions = Conditions(assembly.sample_cond(quick, info), None)
    of_codec = spread_whole(codec.params, mesh)

    def preview(state: TrainState) -> Mapping[str, np.ndarray]:
        params = Params(state.ema_params, of_codec)
        items, trajectory = _sample_all(quick, program, params, conditions)
        sheet = sheet_of(quick, info, conditions.cond, items, codec.show)
        return {"samples": sheet, "film": codec.show.trajectory(trajectory.x_t)}

    return preview
