"""Latent space: the chain is made of the latents of a trained first stage.

Latents outside the autoencoder are (z - shift) * scale, z being those of its network:
of about unit variance over the data, as a diffusion process needs them.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models", section 3.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.codecs.codec import Codec, Start
from ddpm_jax.errors import UserError
from ddpm_jax.networks.kl_autoencoder import KLAutoencoder, sample_posterior


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """A trained autoencoder, and the scaling of its latents.

    Attributes:
        name: for messages.
        fingerprint: 16 hexadecimal digits of a SHA-256 over weights, scale and shift:
            equal latents of equal images.
        image_shape: (H, W, C) that it was trained on.
        latent_shape: (h, w, c) of these images' latents.
        factor: H / h = W / w.
        scale: what latents are multiplied by, 1 / their standard deviation.
        shift: what is taken off them before.
        net: the network.
        params: its parameters.
    """

    name: str
    fingerprint: str
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    factor: int
    scale: float
    shift: float
    net: KLAutoencoder
    params: Any

    def shape_of(self, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return (h, w, c) of the latents of images of (H, W, C), of any size.

        Raises:
            UserError: it does not take such images.
        """
        *sides, channels = image_shape
        height, width = sides
        wanted = self.image_shape[-1]
        if channels != wanted or height % self.factor or width % self.factor:
            raise UserError(
                f"the data have images of {height}x{width}x{channels}, and "
                f"{self.name} takes {wanted} channel(s) and sides that {self.factor} "
                "divides; set config.data.image_size, pad_to or channels, or train an "
                "autoencoder on these data."
            )
        return height // self.factor, width // self.factor, self.latent_shape[-1]

    def posterior(self, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map images to the distribution of their scaled latents.

        Args:
            params: of the network.
            x: [B, H, W, C] in [-1, 1].

        Returns:
            Mean and log-variance, each float32 [B, h, w, c].
        """
        posterior: Any = self.net.apply({"params": params}, x, method="encode")
        mean, log_variance = posterior
        added = 2.0 * math.log(self.scale)
        return (mean - self.shift) * self.scale, log_variance + added

    def encode(
        self, params: Any, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Map images to scaled latents.

        Args:
            params: of the network.
            x: [B, H, W, C] in [-1, 1].
            key: to sample the posterior; None takes its mean.

        Returns:
            float32 [B, h, w, c].
        """
        mean, log_variance = self.posterior(params, x)
        return mean if key is None else sample_posterior(key, mean, log_variance)

    def decode(self, params: Any, z: jax.Array) -> jax.Array:
        """Map scaled latents [B, h, w, c] to images, float32 [B, H, W, C]."""
        z = z / self.scale + self.shift
        return jnp.asarray(self.net.apply({"params": params}, z, method="decode"))


def latents(autoencoder: Autoencoder, image_shape: tuple[int, ...]) -> Codec:
    """Return the codec of images (H, W, C) to the means of their latents."""
    shape, factor = autoencoder.shape_of(image_shape), autoencoder.factor

    def reduce(mask: jax.Array) -> jax.Array:
        """Mark a latent as known where all pixels of its square are known."""
        square = (1, factor, factor, 1)
        known = jax.lax.reduce_window(mask, 1.0, jax.lax.min, square, square, "VALID")
        least = known.min(axis=-1, keepdims=True)
        return jnp.broadcast_to(least, (*least.shape[:-1], shape[-1]))

    return Codec(
        shape, autoencoder.params, autoencoder.encode, autoencoder.decode, reduce
    )


def from_moments(num_views: int) -> Start:
    """Start training from latents sampled from their posterior, as Rombach et al. 2022.

    Args:
        num_views: V, how many images of an example were encoded, such as one and its
            mirror image; each example takes one of them. The posterior mean and
            standard deviation of each lie one after the other along the last axis.

    Returns:
        A function of moments float32 [B, h, w, 2 c V].
    """

    def start(key: jax.Array, moments: jax.Array) -> jax.Array:
        key_view, key_noise = jax.random.split(key)
        views = jnp.stack(jnp.split(moments, num_views, axis=-1), axis=1)
        chosen = jax.random.randint(
            key_view, moments.shape[:1], 0, num_views, jnp.int32
        )
        one = jax.vmap(lambda of, view: of[view])(views, chosen)
        mean, std = jnp.split(one, 2, axis=-1)
        return mean + std * jax.random.normal(key_noise, mean.shape, mean.dtype)

    return start
