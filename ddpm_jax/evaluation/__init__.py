"""Evaluation: features of images, and scores of one set against another.

Nothing here depends on diffusion: `feature_extractor` maps images to vectors, the other
modules compare sets of vectors, in float64 on the host where it is a matter of digits
and in blocks on the devices where it is a matter of size.
"""
