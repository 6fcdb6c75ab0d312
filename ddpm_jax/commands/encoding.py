"""From a data set to its latents, and the autoencoder that makes them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ddpm_jax import assembly, data
from ddpm_jax.assembly import autoencoder as folder
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.commands.about import any_metadata, info_of
from ddpm_jax.commands.map_images import map_images
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, Diffusion
from ddpm_jax.runtime.devices import on_every_host

# To be raised where the same weights give other moments than before.
_VERSION = 1


def autoencoder_of(spec: Diffusion, workdir: Path) -> Autoencoder | None:
    """Open the autoencoder that a run of this model works with; None for pixels.

    A run that has begun has its own copy, and needs `config.codec.run` no more; but
    if another autoencoder has taken that place, the user is told.

    Raises:
        UserError: it is not there, is damaged, or is not that of the run.
    """
    known = _begun(workdir)
    if known is not None:
        assembly.check_latents(spec, known)
    run = spec.latents_run
    if run is None:
        return None
    given, copy = Path(run).expanduser(), workdir / assembly.COPY
    if known is None:
        return folder.load(given)
    assembly.check_copy(known, workdir)
    found = folder.load(copy)
    now = assembly.fingerprint_in(given)
    if now not in (None, found.fingerprint):
        raise UserError(
            f"config.codec.run={run!r} holds another autoencoder, "
            f"weights {now}, than the run in {workdir}, which works with "
            f"{found.fingerprint}; use another --workdir."
        )
    return found


def _begun(workdir: Path) -> assembly.DataInfo | None:
    """Read what a run that has begun knows of its data; None if none has."""
    with contextlib.suppress(UserError):  # there is none, or that is told elsewhere
        return info_of(any_metadata(workdir))
    return None


def keep_autoencoder(autoencoder: Autoencoder | None, workdir: Path) -> None:
    """Lay the autoencoder of a run that begins into its workdir.

    Raises:
        UserError: it cannot be written.
    """
    if autoencoder is not None and _begun(workdir) is None:
        assembly.keep_copy(autoencoder, workdir)


def moments_shape(
    num_views: int, latent_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return the shape of an image's moments, from (h, w, c) of its latents."""
    height, width, channels = latent_shape
    return height, width, 2 * num_views * channels


def encoded(
    of: Data,
    source: data.Dataset,
    autoencoder: Autoencoder,
    report: Callable[[str], None],
) -> data.Dataset:
    """Replace the images of a data set by the moments of their latents.

    Those of one image are mean and standard deviation side by side, and with
    `config.data.flip` those of its mirror image after them.

    Args:
        of: whether images are flipped, and whether the disk is used.
        source: the images.
        autoencoder: which one.
        report: called with a line for the user.

    Raises:
        UserError: an image cannot be read, or the disk is full.
    """
    views = assembly.num_views(of)

    def moments(params: Any, x: jax.Array) -> jax.Array:
        parts = []
        for view in (x, x[:, :, ::-1])[:views]:
            mean, log_variance = autoencoder.posterior(params, view)
            parts += [mean, jnp.exp(0.5 * log_variance)]
        return jnp.concatenate(parts, axis=-1)

    def encode() -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        with tqdm(
            total=len(source), desc="encoding", unit="image", disable=None, delay=5
        ) as bar:
            for found, labels in map_images(moments, autoencoder.params, source):
                yield found, labels
                bar.update(len(found))

    network = {
        field.name: getattr(autoencoder.net, field.name)
        for field in dataclasses.fields(type(autoencoder.net))
        if field.name not in ("parent", "name")
    }
    identity = (autoencoder.fingerprint, sorted(network.items()), views, _VERSION)
    return data.encoded(
        source,
        map(str, identity),
        moments_shape(views, autoencoder.shape_of(source.image_shape)),
        encode,
        cache=of.cache,
        report=report,
        agree=on_every_host,
    )
