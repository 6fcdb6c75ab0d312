"""Codecs: between items of data and the arrays that are diffused.

A codec lies between items of data (images in [-1, 1]) and the arrays [B, ...] of
the chain. Sampling, editing and training do not depend on which it is: `pixels` scales
bytes and changes nothing else, `latents` is a first stage (Rombach et al. 2022),
`arrays` takes floating point of any rank as it is, `points` plots such items,
`embeddings` are those of a CLIP-style dual encoder, which the prior of unCLIP makes.
`display` plots items of any shape.
"""

from ddpm_jax.codecs.arrays import arrays, as_they_are
from ddpm_jax.codecs.codec import Codec, Params, Start
from ddpm_jax.codecs.display import Display, display_of
from ddpm_jax.codecs.latents import Autoencoder, from_moments, latents
from ddpm_jax.codecs.pixels import from_bytes, pixels
from ddpm_jax.codecs.points import Plane
from ddpm_jax.codecs.spec import AsStored, CodecSpec, Latents, encoded_start

__all__ = [
    "AsStored",
    "Autoencoder",
    "Codec",
    "CodecSpec",
    "Display",
    "Latents",
    "Params",
    "Plane",
    "Start",
    "arrays",
    "as_they_are",
    "display_of",
    "encoded_start",
    "from_bytes",
    "from_moments",
    "latents",
    "pixels",
]
