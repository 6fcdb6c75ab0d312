"""Denoising diffusion probabilistic models in JAX.

The rooms: `diffusion` (the mathematics), `models` (networks), `data`, `training`,
`evaluation` (scores), `images`; `build` joins them as a config says. Importing this
touches no device.
"""

__version__ = "0.1.0"
