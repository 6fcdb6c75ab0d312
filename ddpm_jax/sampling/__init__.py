"""Sampling from trained models: chains run in batches, in stages, and their results.

    plan.py       chains in stages, described, compiled, and run batch after batch
    parts.py      the same plan, a few steps at a time
    stages.py     a cascade: a base model, then super-resolution models
    edits.py      edits of images, by mode and method
    forward.py    the forward process of real images

The mathematics of a chain is `diffusion.generate`, which imports nothing of this room.
"""
