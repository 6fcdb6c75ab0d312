"""Bits per dimension of a split, batch by batch, however often it is interrupted.

workdir/likelihood/0001/
    request.json        all that decides the numbers
    parts/              one file for each finished batch, until all are
    terms.npz           of the bound: each term's mean and standard error, each image's
    images.npz          of the ODE: bits/dim and network calls of each image
    bound.png           terms, rate and distortion
    likelihood.json     the numbers; its presence says that the folder is complete
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ddpm_jax import assembly, data
from ddpm_jax.commands import likelihood_files as files
from ddpm_jax.commands.drawing import model_request
from ddpm_jax.commands.model import Trained, describe_model, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.data.pipeline import gather
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import to_json
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.batching import map_batches
from ddpm_jax.runtime.devices import (
    describe,
    gather_params,
    on_every_host,
    replicated,
    rows,
    wait_for_all_hosts,
)
from ddpm_jax.runtime.files import alone_in
from ddpm_jax.runtime.results import result_folder
from ddpm_jax.training.loop import catch_interrupts

_OPTIONS = {  # that decide the numbers of a method
    "bound": ("variance", "clip", "num_steps"),
    "ode": ("ode_steps", "rtol", "atol", "num_probes"),
}


def likelihood(cfg: ConfigDict, workdir: Path, out: Path | None = None) -> int:
    """Measure `config.likelihood.split` by one method or both, and write the numbers.

    Args:
        cfg: its `likelihood` says what is measured, and how.
        workdir: of the model.
        out: where `likelihood/` is made; None: in the workdir.

    Returns:
        0 if all is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: if the workdir holds no model, or options or data do not fit it.
    """
    status, _ = measure_likelihood(cfg, workdir, out)
    return status


def measure_likelihood(
    cfg: ConfigDict, workdir: Path, out: Path | None = None
) -> tuple[int, list[Path]]:
    """Measure as `likelihood` does; return its status and the folders of the numbers.

    Raises:
        UserError: if the workdir holds no model, or options or data do not fit it.
    """
    folders = []
    described = describe_model(cfg, workdir)
    assembly.check_likelihood(cfg)
    _check_items(cfg, described.info)
    trained = open_model(cfg, workdir)
    source = _open_split(cfg, trained)
    # The parameters are what they are; rounding in between would be charged in bits.
    cfg = cfg.copy_and_resolve_references()
    for node in (cfg.network, *cfg.conditioners.values()):
        if "dtype" in node:
            node.dtype = "float32"
    if cfg.network.kind == "unet":
        cfg.network.attention = "plain"
    with catch_interrupts() as interrupted:
        for method in assembly.likelihood_methods(cfg.likelihood.method):
            run = _Run(cfg, trained, source, Path(), method)
            request = {"command": "likelihood", **_about(run)}
            request |= model_request(cfg, trained)
            folder = result_folder((out or workdir) / "likelihood", request)
            run = dataclasses.replace(run, folder=folder)
            folders.append(folder)
            with alone_in(folder, stop=interrupted):
                if not on_every_host(files.read(folder) is not None):
                    measured = _advance(run, interrupted)
                    if measured.done < run.num_images:
                        print(
                            f"Interrupted after {measured.done} of {run.num_images} "
                            "images; saved. The same command goes on from here."
                        )
                        return 128 + interrupted(), folders
                    files.finish(
                        folder, measured, _about(run), assembly.bound_times(cfg)
                    )
                    wait_for_all_hosts(f"the result in {folder}")
            found = files.read(folder)
            if found is None:
                raise UserError(
                    f"the result in {folder} is gone; give the same command again."
                )
            print(files.format_result(found))
            print(f"Files: {folder}/")
    return 0, folders


_CODECS = ("as_stored", "plane")  # whose chains are made of the items themselves


def _check_items(cfg: ConfigDict, info: assembly.DataInfo) -> None:
    """Refuse items on which a method is not defined, before any compile."""
    if cfg.codec.kind not in _CODECS:
        raise UserError(
            f"bits per dimension are of items, and codec {cfg.codec.kind} makes "
            f"something else of them; use a model with codec {_CODECS[0]}."
        )
    if info.dtype != "uint8" and "bound" in assembly.likelihood_methods(
        cfg.likelihood.method
    ):
        raise UserError(
            f"config.likelihood.method={cfg.likelihood.method!r} measures bytes, and "
            f"{info.name} holds {info.dtype}; use method ode, whose bits are those of "
            "a density."
        )


def _open_split(cfg: ConfigDict, trained: Trained) -> data.Dataset:
    """Open the split asked for, and hold it against what the model was trained on."""
    options, info = cfg.likelihood, trained.info
    chosen = cfg.copy_and_resolve_references()
    chosen.data.split = options.split
    chosen.data.source = options.source or cfg.data.source
    source = assembly.dataset(chosen)
    if source.shape != info.item_shape or str(source.dtype) != info.dtype:
        raise UserError(
            f"the items of split {options.split!r} are {source.dtype} {source.shape}, "
            f"the model's {info.dtype} {info.item_shape}; give the data that it was "
            "trained on."
        )
    if "label" in cfg.conditioners and source.label_names != info.label_names:
        raise UserError(
            f"the classes of split {options.split!r} are not those of the model; give "
            "the data that it was trained on."
        )
    if "text" in cfg.conditioners and source.texts is None:
        raise UserError(
            f"the model is conditioned on captions, and {source.name} has none; "
            "give the data that it was trained on."
        )
    if options.num_images is not None and options.num_images > len(source):
        raise UserError(
            f"config.likelihood.num_images={options.num_images}, but split "
            f"{options.split!r} of {source.name} has {len(source)}; use that or fewer."
        )
    if source.fingerprint == info.fingerprint:
        print(
            f"note: {options.split!r} is what the model was trained on; "
            "--split names another split.",
            file=sys.stderr,
        )
    return source


@dataclasses.dataclass(frozen=True)
class _Run:
    """One measurement, of which a part is stored after each batch."""

    cfg: ConfigDict
    trained: Trained
    source: data.Dataset
    folder: Path
    method: str

    @property
    def num_images(self) -> int:
        return self.cfg.likelihood.num_images or len(self.source)


def _about(run: _Run) -> dict[str, Any]:
    """Describe a measurement by all that decides its numbers."""
    options = to_json(run.cfg)["likelihood"]
    return {
        "method": run.method,
        "data": run.source.name,
        "fingerprint": run.source.fingerprint,
        "split": run.cfg.likelihood.split,
        "num_images": run.num_images,
        "dimensions": int(np.prod(run.source.shape)),
        "checkpoint_step": run.trained.step,
        "parameters": parameters_name(run.cfg),
        "seed": run.cfg.seed if options["seed"] is None else options["seed"],
        "options": {
            name: value
            for name, value in options.items()
            if name in ("source", *_OPTIONS[run.method])
        },
    }


def _advance(run: _Run, interrupted: Callable[[], int]) -> parts.PartialResults:
    """Measure batch after batch; return what is measured."""
    measured = parts.PartialResults(run.folder, files.PARTS, run.num_images)
    started = f", going on after {measured.done}" if measured.done else ""
    print(
        f"{run.method}: {run.num_images} images of {run.source.name} "
        f"({run.cfg.likelihood.split}), with {run.trained.described} on "
        f"{describe()}{started}.",
        flush=True,
    )
    mesh = run.trained.mesh
    params, key = run.trained.params.network, assembly.likelihood_key(run.cfg)
    evaluate = assembly.kept(
        f"likelihood {run.method}",
        run.cfg,
        run.trained.info,
        lambda own: _compiled(own, run),
        mesh=mesh,
        request=assembly.compiled_options(run.cfg, "likelihood"),
    )
    bar = tqdm(
        total=run.num_images,
        initial=measured.done,
        unit="image",
        disable=None,
        dynamic_ncols=True,
    )
    with bar:
        for found in map_batches(
            lambda given: _precisely(evaluate, params, key, *given),
            lambda places: _given(run, places),
            run.num_images,
            min(run.cfg.likelihood.batch_size, run.num_images),
            mesh=mesh,
            first=measured.done,
            stop=interrupted,
            not_finite=lambda what, first, last: (
                f"{what} of an image among {first} to {last} is not finite; use "
                "another checkpoint (config.sample.step), or a larger "
                "config.likelihood.rtol and atol."
            ),
        ):
            bar.update(measured.add(found))
    return measured


def _compiled(cfg: ConfigDict, run: _Run) -> Callable[..., Any]:
    """Compile the measure of a batch: (params, key, rows, ...) -> by row."""
    mesh = run.trained.mesh
    network = assembly.model(cfg, run.trained.info)  # in float32, by this config
    measure = assembly.measure(cfg, network, run.method)
    everywhere, by_row = replicated(mesh), rows(mesh)
    return jax.jit(
        lambda params, *rest: measure(gather_params(mesh, params), *rest),
        in_shardings=(None, everywhere, by_row, by_row, by_row),
        out_shardings=by_row,
    )


def _precisely(function: Callable[..., Any], *given: Any) -> Any:
    with jax.default_matmul_precision("highest"):
        return function(*given)


def _given(run: _Run, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Read images by their numbers [B], and lay out what they are conditioned on."""
    batch = gather(run.source, places, with_text=bool("text" in run.cfg.conditioners))
    cond = assembly.example_cond(run.cfg, run.trained.info, batch)
    return places, batch["image"], cond
