"""How well an autoencoder reconstructs, and what its latents are like."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import data
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.commands.map_images import map_images
from ddpm_jax.data.pipeline import gather
from ddpm_jax.runtime import images
from ddpm_jax.runtime.devices import gathered
from ddpm_jax.runtime.images import grid, save_png, to_float, to_uint8

_SHOWN = 12  # images on the sheet


class Latents(NamedTuple):
    """What the latents of a data set are like.

    Attributes:
        mean: of all their numbers, drawn from the posteriors.
        std: their standard deviation, about that one mean.
        noise: root mean square of the posteriors' own standard deviation.
    """

    mean: float
    std: float
    noise: float


def latents(autoencoder: Autoencoder, source: data.Dataset) -> Latents:
    """Measure the scaled latents of all images of a data set.

    Without drawing any: their moments are those of the posteriors' means, and the mean
    variance that the posteriors add.
    """

    def look(params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        mean, log_variance = autoencoder.posterior(params, x)
        return mean, jnp.square(mean), jnp.exp(log_variance)

    mean, square, noise = _means(look, autoencoder, source).mean(0)
    return Latents(
        mean=float(mean),
        std=math.sqrt(square - mean**2 + noise),
        noise=math.sqrt(noise),
    )


def psnr(autoencoder: Autoencoder, source: data.Dataset) -> float:
    """Return the peak signal-to-noise ratio of reconstructions, dB, mean over images.

    It is that of what is decoded from the means of their posteriors, clipped to
    [-1, 1].
    """

    def look(params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        again = autoencoder.decode(params, autoencoder.encode(params, x))
        return (jnp.square(jnp.clip(again, -1.0, 1.0) - x),)

    return images.psnr(_means(look, autoencoder, source)[:, 0])


def reconstructions(
    autoencoder: Autoencoder, source: data.Dataset
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode the means of all images' posteriors.

    Returns:
        uint8 [N, H, W, C], and the labels [N] of the images, if they have any.
    """

    def again(params: Any, x: jax.Array) -> jax.Array:
        return to_uint8(autoencoder.decode(params, autoencoder.encode(params, x)))

    pixels, labels = zip(*map_images(again, autoencoder.params, source), strict=True)
    known = None if labels[0] is None else np.concatenate(labels)
    return np.concatenate(pixels), known


def _means(
    look: Callable[[Any, jax.Array], tuple[jax.Array, ...]],
    autoencoder: Autoencoder,
    source: data.Dataset,
) -> np.ndarray:
    """Return of every image the means of what is seen in it, float64 [N, number]."""

    def of_batch(params: Any, x: jax.Array) -> jax.Array:
        seen = look(params, x)
        return jnp.stack([array.mean((1, 2, 3)) for array in seen], axis=1)

    found = map_images(of_batch, autoencoder.params, source)
    return np.concatenate([seen.astype(np.float64) for seen, _ in found])


def draw(path: Path, autoencoder: Autoencoder, source: data.Dataset) -> None:
    """Draw the first images of a data set, and below each its reconstruction."""
    first = gather(source, np.arange(min(_SHOWN, len(source))))["image"]

    @jax.jit
    def reconstruct(params: Any, first: jax.Array) -> jax.Array:
        x = to_float(first)
        return to_uint8(autoencoder.decode(params, autoencoder.encode(params, x)))

    params = jax.tree.map(gathered, autoencoder.params)
    again = np.asarray(reconstruct(params, first))
    sheet = grid(np.concatenate([first, again]), columns=len(first))
    save_png(path, sheet)
