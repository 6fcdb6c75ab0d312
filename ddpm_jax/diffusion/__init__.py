"""The mathematics of diffusion: pure functions on arrays `[B, ...]`.

No files, no config, no network architecture. `process` states the theory and numbers
its equations; `schedules` makes levels; `denoisers` is the seam to networks; `samplers`
and `generate` run the chain backwards; `losses` and `likelihood` train and judge it.
"""
