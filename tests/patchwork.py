"""An exact autoencoder: squares of pixels, turned by an orthogonal matrix.

Its latents are the images in another basis, so that whatever is known of images is
known of latents, and the other way round.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpm_jax.codecs import Autoencoder


@dataclasses.dataclass(frozen=True)
class Squares:
    """Stands in the place of a network.

    Attributes:
        factor: side of a square.
        std: of the posterior, the same everywhere.
    """

    factor: int
    std: float

    def apply(self, variables: Any, x, *, method):
        matrix = variables["params"]["matrix"]  # [f f C, f f C]
        return {"encode": self.encode, "decode": self.decode}[method](matrix, x)

    def encode(self, matrix, x):
        f, (count, height, width, channels) = self.factor, x.shape
        x = x.reshape(count, height // f, f, width // f, f, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        flat = x.reshape(count, height // f, width // f, f * f * channels)
        mean = jnp.matmul(flat, matrix, precision="highest")
        with np.errstate(divide="ignore"):
            log_variance = 2 * np.log(np.float32(self.std))  # -inf if there is none
        return mean, jnp.full_like(mean, log_variance)

    def decode(self, matrix, z):
        f, (count, height, width, channels) = self.factor, z.shape
        flat = jnp.matmul(z, matrix.T, precision="highest")
        x = flat.reshape(count, height, width, f, f, channels // f**2)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(count, height * f, width * f, channels // f**2)


def orthogonal(size, seed=0):
    """Draw an orthogonal matrix, float64 [size, size]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def autoencoder(image_shape, factor=2, matrix=None, std=0.0, scale=1.0, shift=0.0):
    """Make the autoencoder of squares of images (H, W, C); by default the identity."""
    height, width, channels = image_shape
    size = factor**2 * channels
    matrix = np.eye(size) if matrix is None else matrix
    return Autoencoder(
        name="squares",
        fingerprint="squares",
        image_shape=image_shape,
        latent_shape=(height // factor, width // factor, size),
        factor=factor,
        scale=scale,
        shift=shift,
        net=Squares(factor, std),
        params={"matrix": np.asarray(matrix, np.float32)},
    )
