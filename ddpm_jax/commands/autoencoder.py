"""Training the KL autoencoder in whose latents a diffusion model works.

Beside what every run leaves, WORKDIR/reconstructions.png: held-out images, and below
each its reconstruction.
"""

from pathlib import Path
from typing import Any

from ddpm_jax import assembly, data
from ddpm_jax.assembly import autoencode as of
from ddpm_jax.assembly import autoencoder as folder
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.commands.fitting import Auxiliary, train_auxiliary
from ddpm_jax.commands.reconstructions import Latents, draw, latents, psnr
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.recipe import AutoencoderTask, Recipe


def autoencoder(recipe: Recipe[AutoencoderTask], workdir: Path) -> int:
    """Train an autoencoder on the data of a recipe and write it, with what it measures.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training
    splits = with_test_split(spec.data, workdir)
    info = assembly.data_info(splits["train"])
    of.check_autoencode(spec, fit, info)

    def measure(params: Any, splits: dict[str, data.Dataset]) -> dict[str, Any]:
        finished, found = _measured(spec, info, params, splits)
        draw(workdir / "reconstructions.png", finished, list(splits.values())[-1])
        return {**folder.describe(finished), **found}

    model = Auxiliary(
        folder.KIND,
        lambda mesh: of.autoencode_task(spec, fit, info),
        measure,
        folder.load,
        _report,
    )
    return train_auxiliary(recipe, workdir, model, splits, info)


def _measured(
    spec: AutoencoderTask,
    info: assembly.DataInfo,
    params: Any,
    splits: dict[str, data.Dataset],
) -> tuple[Autoencoder, dict[str, Any]]:
    """Scale the latents by their spread on the training images; test on others."""
    (_, source), (held_out, test) = splits.items()
    net, name = of.autoencoder_network(spec, info), f"autoencoder of {info.name}"
    raw = latents(folder.make(name, net, params, info.image_shape), source)
    finished = folder.make(name, net, params, info.image_shape, scale=1.0 / raw.std)
    return finished, {
        "psnr": {held_out: psnr(finished, test)},
        "latents": {
            "train": _scaled(raw),
            held_out: latents(finished, test)._asdict(),
        },
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
