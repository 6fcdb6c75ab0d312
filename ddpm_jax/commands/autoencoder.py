"""Training the KL autoencoder in whose latents a diffusion model works.

Beside what every run leaves, WORKDIR/reconstructions.png: held-out images, and below
each its reconstruction.
"""

import time
from pathlib import Path
from typing import Any

from ddpm_jax import assembly, data
from ddpm_jax.assembly import autoencode as of
from ddpm_jax.assembly import autoencoder as folder
from ddpm_jax.assembly import auxiliary
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.commands.fitting import Training, already_finished, train_auxiliary
from ddpm_jax.commands.reconstructions import Latents, draw, latents, psnr
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.recipe import AutoencoderTask, Recipe
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.training.state import TrainState


def autoencoder(recipe: Recipe[AutoencoderTask], workdir: Path) -> int:
    """Train an autoencoder on the data of a recipe and write it, with what it measures.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training
    source, test, held_out = with_test_split(spec.data, workdir)
    info = assembly.data_info(source)
    of.check_autoencode(spec, fit, info)
    data_mesh(recipe.devices.fsdp)
    assembly.check_batch(fit)
    training = Training(folder.KIND, "the autoencoder")
    about = already_finished(recipe, workdir, training, source.fingerprint)
    if about is not None:
        folder.load(workdir)  # refuses a damaged one
        print(f"{_report(about, workdir)} It is finished. Nothing to do.")
        return 0
    source, test = data.ready(source), data.ready(test)
    started = time.perf_counter()

    def finish(state: TrainState) -> dict[str, Any]:
        finished, found = _measured(spec, info, state, source, test, held_out)
        draw(workdir / "reconstructions.png", finished, test)
        seconds = time.perf_counter() - started
        return {**folder.describe(finished), **found, **auxiliary.origin(seconds)}

    ended = train_auxiliary(
        recipe,
        workdir,
        training,
        of.autoencode_task(spec, fit, info, finish),
        source=source,
        fingerprint=source.fingerprint,
        key=of.autoencode_key(spec),
    )
    if ended.signal_number:
        return 128 + ended.signal_number
    print(_report(ended.result, workdir))
    return 0


def _measured(
    spec: AutoencoderTask,
    info: assembly.DataInfo,
    state: TrainState,
    source: data.Dataset,
    test: data.Dataset,
    held_out: str,
) -> tuple[Autoencoder, dict[str, Any]]:
    """Scale the latents by their spread on the training images; test on others."""
    net, params = of.autoencoder_network(spec, info), state.ema_params
    name = f"autoencoder of {info.name}"
    raw = latents(folder.make(name, net, params, info.image_shape), source)
    finished = folder.make(name, net, params, info.image_shape, scale=1.0 / raw.std)
    seen = latents(finished, test)
    return finished, {
        "psnr": {held_out: psnr(finished, test)},
        "latents": {"train": _scaled(raw), held_out: seen._asdict()},
        "num_images": {"train": len(source), held_out: len(test)},
    }


def _scaled(raw: Latents) -> dict[str, float]:
    return {name: value / raw.std for name, value in raw._asdict().items()}


def _report(result: dict[str, Any], workdir: Path) -> str:
    ((split, psnr_of_test),) = result["psnr"].items()
    shape = "x".join(map(str, result["latent_shape"]))
    return (
        f"{result['name']}, weights {result['fingerprint']}: latents of {shape}; on "
        f"{result['num_images'][split]:,} images ({split}) PSNR {psnr_of_test:.2f} dB, "
        f"latents with standard deviation {result['latents'][split]['std']:.3f}; see "
        f"{workdir / 'reconstructions.png'}."
    )
