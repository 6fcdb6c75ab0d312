"""Importing an autoencoder: the folder of a trained one, made of diffusers' files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.assembly import autoencoder as folder
from ddpm_jax.assembly import auxiliary
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import KLAutoencoder
from ddpm_jax.weights import diffusers_autoencoder, torch_layout

_TAKEN = "data.image_size"


def import_autoencoder(
    place: Path, source: str, workdir: Path, given: Mapping[str, Any]
) -> None:
    """Make a workdir as the training of one does, of an AutoencoderKL of diffusers.

    Args:
        place: the folder that holds it.
        source: what the user calls it.
        workdir: where to; it may hold no autoencoder yet.
        given: the user's options, by "section.name".

    Raises:
        UserError: the checkpoint cannot be read, or is no autoencoder that can be built
            here.
    """
    for name in set(given) - {_TAKEN}:
        raise UserError(
            f"--config.{name} is no option of an autoencoder; only "
            f"--config.{_TAKEN} is."
        )
    if auxiliary.is_finished(workdir):
        raise UserError(f"{workdir} holds an autoencoder; use another folder.")
    made = read_autoencoder(place, source, given.get(_TAKEN))
    folder.write(workdir, made, {"imported": source})
    count = sum(leaf.size for leaf in auxiliary.flat_params(made.params).values())
    shown = [
        "x".join(map(str, shape)) for shape in (made.image_shape, made.latent_shape)
    ]
    print(
        f"autoencoder of {count:,} parameters, images of {shown[0]} to latents of "
        f"{shown[1]}, scaled by {made.scale:g}; in {workdir}.",
        flush=True,
    )


def read_autoencoder(
    place: Path, source: str, image_size: int | tuple[int, int] | None = None
) -> Autoencoder:
    """Read an AutoencoderKL of diffusers, writing nothing.

    Args:
        place: the folder that holds it.
        source: what the user calls it.
        image_size: of the images it is for; None for what its files say.

    Raises:
        UserError: it cannot be read, or is no autoencoder that can be built here.
    """
    pretrained = diffusers_autoencoder.read(place, source, image_size)
    net = KLAutoencoder(**pretrained.facts["network"])
    try:
        net.check(pretrained.image_shape)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    images = auxiliary.images_like(pretrained.image_shape)
    shapes = auxiliary.parameter_shapes(net, images)
    params = torch_layout.to_flax(
        pretrained,
        {tuple(path.split("/")): shape for path, shape in shapes.items()},
        null_row=True,
    )
    return folder.make(
        pretrained.name,
        net,
        params,
        pretrained.image_shape,
        **pretrained.facts["latents"],
    )
