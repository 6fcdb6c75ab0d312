"""From a data set to latents or embeddings, and the frozen models that make them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ddpm_jax import assembly, data
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.codecs.embeddings import scaled
from ddpm_jax.commands.about import any_metadata, info_of
from ddpm_jax.commands.map_images import map_images
from ddpm_jax.conditioning.clip import Clip
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, Diffusion, Embeddings
from ddpm_jax.runtime.devices import on_every_host
from ddpm_jax.runtime.progress import progress

# To be raised where the same weights give other moments than before.
_VERSION = 1


def runs_of(spec: Diffusion, workdir: Path) -> assembly.Opened:
    """Open the frozen models that a run of this model works with; see `other_runs`.

    Raises:
        UserError: one is not there, is damaged, or is not that of the run.
    """
    known = _begun(workdir)
    if known is not None:
        assembly.check_latents(spec, known)
    return assembly.open_runs(spec, workdir, known)


def _begun(workdir: Path) -> assembly.DataInfo | None:
    """Read what a run that has begun knows of its data; None if none has."""
    with contextlib.suppress(UserError):  # there is none, or that is told elsewhere
        return info_of(any_metadata(workdir))
    return None


def keep_runs(opened: assembly.Opened, workdir: Path) -> None:
    """Lay the models that a run works with into its workdir, when it begins.

    Raises:
        UserError: one cannot be written.
    """
    if _begun(workdir) is None:
        assembly.keep_copies(opened, workdir)


class Prepared(NamedTuple):
    """What a training is fed with.

    Attributes:
        items: the images, decoded if they fit into memory, or what was made of them.
        beside: what else a batch has of each example, arrays [N, ...] by name.
    """

    items: data.Dataset
    beside: dict[str, np.ndarray]


def prepared(
    spec: Diffusion,
    source: data.Dataset,
    opened: assembly.Opened,
    report: Callable[[str], None],
) -> Prepared:
    """Apply the frozen models of a run to its data, once.

    A dual encoder embeds the images as they are: what takes the place of an image, or
    conditions the network on it, is a vector, and no step of the training computes it
    again.

    Args:
        spec: what is trained.
        source: the images.
        opened: the models, by kind.
        report: called with a line for the user.

    Raises:
        UserError: an image cannot be read, or the disk is full.
    """
    if assembly.AUTOENCODER in opened:
        autoencoder = opened[assembly.AUTOENCODER]
        return Prepared(encoded(spec.data, source, autoencoder, report), {})
    # Decodes what fits in memory, and so finds a broken image before any compile.
    source = data.ready(source, report=report)
    replaced = isinstance(spec.codec, Embeddings)
    if not replaced and NAME not in spec.conditioners:
        return Prepared(source, {})
    embedded, labels = image_embeddings(source, opened[assembly.CLIP])
    beside = {NAME: embedded} if NAME in spec.conditioners else {}
    if not replaced:
        return Prepared(source, beside)
    items = data.Arrays(scaled(embedded), labels)
    vectors = dataclasses.replace(
        source, source=items, shape=embedded.shape[1:], listing=None, cache_key=""
    )
    return Prepared(vectors, beside)


def image_embeddings(
    source: data.Dataset, clip: Clip
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed all images of a data set: float32 [N, D], and their labels [N] or None.

    Raises:
        UserError: an image cannot be read.
    """
    found, labels = [], []
    with progress(len(source), "embedding") as bar:
        for vectors, known in map_images(clip.embed, clip.params, source):
            found.append(vectors)
            labels += [] if known is None else [known]
            bar.update(len(vectors))
    return np.concatenate(found), np.concatenate(labels) if labels else None


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
