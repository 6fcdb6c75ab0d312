"""Bits per dimension of a split, batch by batch, however often it is interrupted.

workdir/likelihood/0001/
    request.json        all that decides the numbers
    parts/              one file for each finished batch, until all are
    terms.npz           of the bound: each term's mean and standard error, each image's
    images.npz          else: bits/dim of each item; of the ODE its network calls, of a
                        VAE rate and distortion
    bound.png           of the bound: terms, rate and distortion
    likelihood.json     the numbers; its presence says that the folder is complete
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.codecs import AsStored
from ddpm_jax.commands import likelihood_files as files
from ddpm_jax.commands.measurement import (
    Measurement,
    not_finite,
    of_any,
    open_split,
    settings_of,
)
from ddpm_jax.commands.model import Trained, describe_model, model_request, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.data.pipeline import gather
from ddpm_jax.errors import UserError
from ddpm_jax.networks.dit import DiT
from ddpm_jax.networks.unet import UNet
from ddpm_jax.recipe import Diffusion, Plane, Recipe
from ddpm_jax.requests import Likelihood
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
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.results import result_folder
from ddpm_jax.specs import kind_of
from ddpm_jax.training.loop import catch_interrupts

_OPTIONS = {  # that decide the numbers of a method
    "bound": ("variance", "clip", "num_steps"),
    "ode": ("ode_steps", "rtol", "atol", "num_probes"),
}


def likelihood(recipe: Recipe, asked: Likelihood, workdir: Path) -> int:
    """Measure a split, of diffusion by one method or both, and write the numbers.

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
    recipe: Recipe, asked: Likelihood, workdir: Path
) -> tuple[int, list[Path]]:
    """Measure as `likelihood` does; return its status and the folders of the numbers.

    Raises:
        UserError: if the workdir holds no model, or options or data do not fit it.
    """
    if isinstance(recipe.task, Diffusion):
        measurements = _of_diffusion(recipe, asked, workdir)
    else:
        measurements = of_any(recipe.task, asked, workdir)
    results, folders = (asked.folder or workdir) / "likelihood", []
    with catch_interrupts() as interrupted:
        for one in measurements:
            request = {"command": "likelihood", **one.settings, **one.model}
            folder = result_folder(results, request)
            folders.append(folder)
            with alone_in(folder, stop=interrupted):
                if not on_every_host(files.read(folder) is not None):
                    measured = _advance(one, folder, interrupted)
                    if measured.done < one.num_items:
                        print(
                            f"Interrupted after {measured.done} of {one.num_items} "
                            f"{one.noun}; saved. The same command goes on from here."
                        )
                        return 128 + interrupted(), folders
                    files.finish(folder, measured, one)
                    wait_for_all_hosts(f"the result in {folder}")
            found = files.read(folder)
            if found is None:
                raise UserError(
                    f"the result in {folder} is gone; give the same command again."
                )
            print(files.format_result(found))
            print(f"Files: {folder}/")
    return 0, folders


def _advance(
    one: Measurement, folder: Path, interrupted: Callable[[], int]
) -> parts.PartialResults:
    """Measure batch after batch; return what is measured."""
    measured = parts.PartialResults(folder, files.PARTS, one.num_items)
    started = f", going on after {measured.done}" if measured.done else ""
    print(
        f"{one.method}: {one.num_items} {one.noun} of {one.source.name} "
        f"({one.settings['split']}), with {one.described} on {describe()}{started}.",
        flush=True,
    )
    unit = one.noun.removesuffix("s")
    with progress(one.num_items, done=measured.done, unit=unit) as bar:
        for found in one.batches(measured.done, interrupted):
            bar.update(measured.add(found))
    return measured


# --- Diffusion ------------------------------------------------------------------------


def _of_diffusion(
    recipe: Recipe[Diffusion], asked: Likelihood, workdir: Path
) -> list[Measurement]:
    """Prepare the measurement of a diffusion model by each method that is asked for."""
    spec = recipe.task
    described = describe_model(spec, asked, workdir)
    assembly.check_likelihood(spec, described.info, asked)
    _check_items(spec, asked, described.info)
    trained = open_model(recipe, asked, workdir)
    info = trained.info
    source = open_split(spec.data, asked, info.item_shape, info.dtype, info.fingerprint)
    _check_conditions(spec, asked, info, source)
    exact = _in_float32(spec)
    return [
        Measurement(
            method=method,
            settings=settings_of(
                asked,
                source,
                method,
                _OPTIONS[method],
                checkpoint_step=trained.step,
                parameters=parameters_name(asked),
                seed=assembly.seed_of(spec, asked),
            ),
            model=model_request(asked, trained),
            source=source,
            num_items=asked.num_images or len(source),
            described=trained.described,
            batches=_batches(exact, asked, trained, source, method),
            times=assembly.bound_times(spec, asked) if method == "bound" else None,
        )
        for method in asked.methods
    ]


def _in_float32(spec: Diffusion) -> Diffusion:
    """Compute in float32, whatever it was trained in.

    The parameters are what they are; rounding in between would be charged in bits.
    """

    def has_dtype(part: Any) -> bool:
        return any(field.name == "dtype" for field in dataclasses.fields(part))

    network = spec.network
    if has_dtype(network):
        network = network.clone(dtype="float32")
    if isinstance(network, UNet | DiT):
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


def _check_conditions(
    spec: Diffusion, asked: Likelihood, info: assembly.DataInfo, source: data.Dataset
) -> None:
    """Refuse a split that lacks what the model is conditioned on."""
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


def _batches(
    spec: Diffusion,
    asked: Likelihood,
    trained: Trained,
    source: data.Dataset,
    method: str,
) -> Callable[..., Any]:
    """Return what measures from an item on, as `Measurement` has it."""
    mesh, params, info = trained.mesh, trained.params.network, trained.info
    key = assembly.likelihood_key(assembly.seed_of(spec, asked))
    num_items = asked.num_images or len(source)

    def given(places: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        batch = gather(source, places, with_text=spec.text is not None)
        return places, batch["image"], assembly.example_cond(spec, info, batch)

    def batches(first: int, stop: Callable[[], int]) -> Any:
        evaluate = assembly.kept(
            f"likelihood {method}",
            spec,
            info,
            lambda: _compiled(spec, asked, trained, method),
            mesh=mesh,
            request=assembly.compiled_options(spec, asked),
        )
        return map_batches(
            lambda batch: _precisely(evaluate, params, key, *batch),
            given,
            num_items,
            min(asked.batch_size, num_items),
            mesh=mesh,
            first=first,
            stop=stop,
            not_finite=not_finite(
                "use another checkpoint (config.sample.step), or a larger "
                "config.likelihood.rtol and atol"
            ),
        )

    return batches


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
