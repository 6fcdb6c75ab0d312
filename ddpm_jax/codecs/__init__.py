"""Codecs: what a diffusion chain is made of, and how items of data become that.

A codec lies between the items that a person has (images in [-1, 1]) and the arrays
[B, ...] of the chain. With one at hand, sampling, editing and training need not ask
which it is: `pixels` changes nothing, `latents` is a first stage (Rombach et al. 2022).
"""

from ddpm_jax.codecs.codec import Codec, Params, Start
from ddpm_jax.codecs.latents import Autoencoder, from_moments, latents
from ddpm_jax.codecs.pixels import from_bytes, pixels

__all__ = [
    "Autoencoder",
    "Codec",
    "Params",
    "Start",
    "from_bytes",
    "from_moments",
    "latents",
    "pixels",
]
