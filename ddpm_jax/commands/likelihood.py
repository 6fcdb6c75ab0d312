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
from tqdm import tqdm

from ddpm_jax import assembly, data
from ddpm_jax.codecs import AsStored
from ddpm_jax.commands import likelihood_files as files
from ddpm_jax.commands.drawing import model_request
from ddpm_jax.commands.model import Trained, describe_model, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.data.pipeline import gather
from ddpm_jax.errors import UserError
from ddpm_jax.networks.unet import UNet
from ddpm_jax.recipe import Diffusion, Plane, Recipe
from ddpm_jax.requests import Likelihood, sections
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
from ddpm_jax.specs import kind_of
from ddpm_jax.training.loop import catch_interrupts

_OPTIONS = {  # that decide the numbers of a method
    "bound": ("variance", "clip", "num_steps"),
    "ode": ("ode_steps", "rtol", "atol", "num_probes"),
}


def likelihood(recipe: Recipe[Diffusion], asked: Likelihood, workdir: Path) -> int:
    """Measure a split by one method or both, and write the numbers.

    Args:
        recipe: of the model.
        asked: what is measured, and how; its `out` may name the folder in which
            `likelihood/` is made, which else is the workdir.
        workdir: of the model.

    Returns:
        0 if all is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: if the workdir holds no model, or options or data do not fit it.
    """
    status, _ = measure_likelihood(recipe, asked, workdir)
    return status


def measure_likelihood(
    recipe: Recipe[Diffusion], asked: Likelihood, workdir: Path
) -> tuple[int, list[Path]]:
    """Measure as `likelihood` does; return its status and the folders of the numbers.

    Raises:
        UserError: if the workdir holds no model, or options or data do not fit it.
    """
    spec, folders = recipe.task, []
    described = describe_model(spec, asked, workdir)
    assembly.check_likelihood(spec, described.info, asked)
    _check_items(spec, asked, described.info)
    trained = open_model(recipe, asked, workdir)
    source = _open_split(spec, asked, trained)
    exact, out = _in_float32(spec), asked.folder or workdir
    with catch_interrupts() as interrupted:
        for method in asked.methods:
            run = _Run(exact, asked, trained, source, Path(), method)
            request = {"command": "likelihood", **_about(run)}
            request |= model_request(asked, trained)
            folder = result_folder(out / "likelihood", request)
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
                    times = assembly.bound_times(spec, asked)
                    files.finish(folder, measured, _about(run), times)
                    wait_for_all_hosts(f"the result in {folder}")
            found = files.read(folder)
            if found is None:
                raise UserError(
                    f"the result in {folder} is gone; give the same command again."
                )
            print(files.format_result(found))
            print(f"Files: {folder}/")
    return 0, folders


def _in_float32(spec: Diffusion) -> Diffusion:
    """Compute in float32, whatever it was trained in.

    The parameters are what they are; rounding in between would be charged in bits.
    """

    def has_dtype(part: Any) -> bool:
        return any(field.name == "dtype" for field in dataclasses.fields(part))

    network = spec.network
    if has_dtype(network):
        network = network.clone(dtype="float32")
    if isinstance(network, UNet):
        network = network.clone(attention="plain")
    in_float32: Any = {"dtype": "float32"}
    conditioners = {
        name: dataclasses.replace(one, **in_float32) if has_dtype(one) else one
        for name, one in spec.conditioners.items()
    }
    return dataclasses.replace(spec, network=network, conditioners=conditioners)


_CODECS = (AsStored, Plane)  # whose chains are made of the items themselves


def _check_items(spec: Diffusion, asked: Likelihood, info: assembly.DataInfo) -> None:
    """Refuse items on which a method is not defined, before any compile."""
    if type(spec.codec) not in _CODECS:
        raise UserError(
            f"bits per dimension are of items, and codec {kind_of(spec.codec)} makes "
            f"something else of them; use a model with codec {kind_of(AsStored)}."
        )
    if info.dtype != "uint8" and "bound" in asked.methods:
        raise UserError(
            f"config.likelihood.method={asked.method!r} measures bytes, and "
            f"{info.name} holds {info.dtype}; use method ode, whose bits are those of "
            "a density."
        )


def _open_split(spec: Diffusion, asked: Likelihood, trained: Trained) -> data.Dataset:
    """Open the split asked for, and hold it against what the model was trained on."""
    info, of = trained.info, spec.data
    source = dataclasses.replace(of, source=asked.source or of.source).open(asked.split)
    if source.shape != info.item_shape or str(source.dtype) != info.dtype:
        raise UserError(
            f"the items of split {asked.split!r} are {source.dtype} {source.shape}, "
            f"the model's {info.dtype} {info.item_shape}; give the data that it was "
            "trained on."
        )
    if "label" in spec.conditioners and source.label_names != info.label_names:
        raise UserError(
            f"the classes of split {asked.split!r} are not those of the model; give "
            "the data that it was trained on."
        )
    if spec.text is not None and source.texts is None:
        raise UserError(
            f"the model is conditioned on captions, and {source.name} has none; "
            "give the data that it was trained on."
        )
    if asked.num_images is not None and asked.num_images > len(source):
        raise UserError(
            f"config.likelihood.num_images={asked.num_images}, but split "
            f"{asked.split!r} of {source.name} has {len(source)}; use that or fewer."
        )
    if source.fingerprint == info.fingerprint:
        print(
            f"note: {asked.split!r} is what the model was trained on; "
            "--split names another split.",
            file=sys.stderr,
        )
    return source


@dataclasses.dataclass(frozen=True)
class _Run:
    """One measurement, of which a part is stored after each batch."""

    spec: Diffusion
    asked: Likelihood
    trained: Trained
    source: data.Dataset
    folder: Path
    method: str

    @property
    def num_images(self) -> int:
        return self.asked.num_images or len(self.source)


def _about(run: _Run) -> dict[str, Any]:
    """Describe a measurement by all that decides its numbers."""
    options = sections.options_in(run.asked, "likelihood")
    return {
        "method": run.method,
        "data": run.source.name,
        "fingerprint": run.source.fingerprint,
        "split": run.asked.split,
        "num_images": run.num_images,
        "dimensions": int(np.prod(run.source.shape)),
        "checkpoint_step": run.trained.step,
        "parameters": parameters_name(run.asked),
        "seed": assembly.seed_of(run.spec, run.asked),
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
        f"({run.asked.split}), with {run.trained.described} on "
        f"{describe()}{started}.",
        flush=True,
    )
    mesh = run.trained.mesh
    params = run.trained.params.network
    key = assembly.likelihood_key(assembly.seed_of(run.spec, run.asked))
    evaluate = assembly.kept(
        f"likelihood {run.method}",
        run.spec,
        run.trained.info,
        lambda: _compiled(run.spec, run.asked, run.trained, run.method),
        mesh=mesh,
        request=assembly.compiled_options(run.spec, run.asked),
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
            min(run.asked.batch_size, run.num_images),
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


def _compiled(
    spec: Diffusion, asked: Likelihood, trained: Trained, method: str
) -> Callable[..., Any]:
    """Compile the measure of a batch: (params, key, rows, ...) -> by row."""
    mesh = trained.mesh
    network = assembly.model(spec, trained.info)  # in float32, as this spec says
    measure = assembly.measure(spec, asked, network, method)
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
    batch = gather(run.source, places, with_text=run.spec.text is not None)
    cond = assembly.example_cond(run.spec, run.trained.info, batch)
    return places, batch["image"], cond
