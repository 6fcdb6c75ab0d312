"""Sampling from trained models: chains run in batches, in stages, and their results.

    batches.py    one chain for each image to draw, in batches of one size
    stages.py     a small image, then one super-resolution model after the other

The mathematics of a chain is `diffusion.generate`; it knows nothing of this room.
"""
