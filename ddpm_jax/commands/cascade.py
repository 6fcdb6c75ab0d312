"""Sampling from a cascade: a base model, then super-resolution models."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.assembly.cascade import OF_STAGES
from ddpm_jax.commands.about import trained_config
from ddpm_jax.commands.drawing import (
    columns_of,
    format_consistency,
    sample_request,
    write_forward,
    write_samples,
)
from ddpm_jax.commands.model import Described, Trained, describe_model, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import to_json
from ddpm_jax.runtime import images
from ddpm_jax.runtime.devices import describe
from ddpm_jax.runtime.results import finished_result, is_finished, result_folder
from ddpm_jax.sampling.plan import Record, Trajectory, compile_plan, run_batches


def cascade(cfg: ConfigDict, workdir: Path, out: Path | None = None) -> Path:
    """Draw `config.sample.num_images` images from a cascade, and write them.

    Args:
        cfg: of the first model; its `cascade` names the others.
        workdir: of the first model.
        out: their folder; None: a numbered one of `cascades/` in that workdir.

    Returns:
        The folder that holds them.

    Raises:
        UserError: a workdir holds no model, or the models or options do not fit.
    """
    folders = [workdir, *map(Path, assembly.stage_folders(cfg.cascade.stages))]
    own = [trained_config(folder) for folder in folders[1:]]
    cfgs = [cfg, *assembly.stage_configs(cfg, own)]
    named = list(zip(folders, cfgs, strict=True))
    described = [_of(folder, describe_model, stage) for folder, stage in named]
    infos = [one.info for one in described]
    _check(folders, cfgs, infos)
    results = workdir / "cascades"
    done = finished_result(results, _request(folders, cfgs, described), out)
    if done is not None:
        return done
    opened = [_of(folder, open_model, stage) for folder, stage in named]
    folder = result_folder(results, _request(folders, cfgs, opened), out)
    if is_finished(folder):  # of an older checkpoint, a newest being damaged
        return folder
    shapes = [f"{info.image_shape[0]}x{info.image_shape[1]}" for info in infos]
    print(
        f"Drawing {cfg.sample.num_images} images of {', then '.join(shapes)}, on "
        f"{describe()}:\n"
        + "\n".join(
            f"  {where}: {trained.described}, {stage.sample.sampler}, "
            f"{assembly.num_steps(stage)} steps"
            for (where, stage), trained in zip(named, opened, strict=True)
        ),
        flush=True,
    )
    started = time.perf_counter()
    made, trajectory = _sample(cfgs, opened)
    seconds = time.perf_counter() - started
    record: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "stages": [
            {
                "workdir": str(where),
                "checkpoint_step": trained.step,
                "parameters": parameters_name(stage),
                "sample": to_json(stage)["sample"],
            }
            for (where, stage), trained in zip(named, opened, strict=True)
        ],
        "seed": assembly.sample_seed(cfg),
        "device": describe(),
    }
    agree = [
        assembly.consistency(stage, large, small)
        for stage, large, small in zip(cfgs[1:], made[1:], made, strict=False)
    ]
    for entry, decibels in zip(record["stages"][1:], agree, strict=True):
        entry["consistency_db"] = decibels
    columns = columns_of(cfg, infos[0])
    sheets = [images.grid(items, columns=columns) for items in made]
    for number, sheet in enumerate(sheets, 1):
        images.save_png(folder / f"stage-{number}.png", sheet)
    images.save_png(folder / "stages.png", _beside(made, cfg.sample.film_images))
    write_forward(cfgs[-1], folder, opened[-1].codec)
    write_samples(cfg, infos[0], folder, made[-1], trajectory, sheets[-1], record)
    for decibels in agree:
        assert decibels is not None  # a super-resolution stage has it
        print(format_consistency(decibels))
    print(f"{seconds:.1f} s. Pictures: {folder}/grid.png, stages.png, images/")
    return folder


def _of(folder: Path, find: Callable[[ConfigDict, Path], Any], cfg: ConfigDict) -> Any:
    """Find or open a model, and say in which workdir what does not fit."""
    try:
        return find(cfg, folder)
    except UserError as error:
        text = str(error)
        if assembly.map_name(
            cfg
        ):  # of a stage after the first, whose options these are
            for name, (option, _) in OF_STAGES.items():
                text = text.replace(f"config.sample.{option}", f"config.cascade.{name}")
        raise UserError(f"{folder}: {text}") from error


def _check(
    folders: Sequence[Path], cfgs: Sequence[ConfigDict], infos: Sequence[DataInfo]
) -> None:
    stages = [
        assembly.stage_of(cfg, info, assembly.model(cfg, info))
        for cfg, info in zip(cfgs, infos, strict=True)
    ]
    assembly.check_cascade([str(folder) for folder in folders], cfgs, infos, stages)


def _sample(
    cfgs: Sequence[ConfigDict], opened: Sequence[Trained]
) -> tuple[list[np.ndarray], Trajectory]:
    """Sample in batches of one size; the images of each stage, the last trajectory."""
    cfg, infos = cfgs[0], [trained.info for trained in opened]
    plan = assembly.plan_cascade(cfgs, infos, [trained.unet for trained in opened])
    record = Record(cfg.sample.film_frames, cfg.sample.film_images)
    count = cfg.sample.num_images
    bar = tqdm(total=count * len(cfgs), unit="image", disable=None, dynamic_ncols=True)
    with bar:
        batches = list(
            run_batches(
                compile_plan(plan, opened[0].mesh, record, by_stage=True),
                tuple(trained.params for trained in opened),
                assembly.sample_key(cfg),
                {"stages": tuple(assembly.cascade_conds(cfgs, infos))},
                num_rows=count,
                batch_size=min(cfg.sample.batch_size, count),
                on_batch=lambda done: bar.update(done * len(cfgs)),
                not_finite=_not_finite,
            )
        )
    made = [
        np.concatenate([batch.items for batch in of_stage])
        for of_stage in zip(*batches, strict=True)
    ]
    trajectory = batches[0][-1].trajectory
    assert trajectory is not None  # as it is recorded
    return made, trajectory


def _not_finite(stage: str, first: int, last: int) -> str:
    return (
        f"an image among {first} to {last} of {stage} is not finite; use less "
        "guidance, another sampler, or float32."
    )


def _beside(drawn: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Lay the first images of all stages below each other, in the size of the last."""
    height = drawn[-1].shape[1]
    large = []
    for made in drawn:
        factor = height // made.shape[1]
        large.append(made[:most].repeat(factor, axis=1).repeat(factor, axis=2))
    return images.grid(np.concatenate(large), columns=len(large[0]))


def _request(
    folders: Sequence[Path], cfgs: Sequence[ConfigDict], found: Sequence[Described]
) -> dict[str, Any]:
    """Describe a drawing by all that decides its images, as plain data."""
    stages = zip(folders, cfgs, found, strict=True)
    return {
        "command": "cascade",
        "stages": [
            {"run": str(folder), **sample_request(cfg, one)}
            for folder, cfg, one in stages
        ],
    }
