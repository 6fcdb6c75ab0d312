"""Systems: several models, or a model and a given picture, composed of the core.

    pictures.py     pictures as conditions: low-resolution, grey, masked; their noise
    cascade.py      a small picture, then one network after the other that enlarges it

What is here calls `generate` and the wrappers of denoisers; the core knows of none.
"""
