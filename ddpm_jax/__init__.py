"""Denoising diffusion probabilistic models in JAX.

The rooms: `diffusion` (the mathematics), `networks`, `data`, `training`, `sampling`,
`evaluation` (scores), `runtime`; `build` joins them as a config says. Importing this
touches no device.
"""

__version__ = "0.1.0"
