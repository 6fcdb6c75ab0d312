"""Captioned shapes: synthetic images with a rule-based attribute classifier.

    scene = parse("a small red circle top left and a large blue square bottom right")
    pixels = render(scene, 32)       # uint8 [32, 32, 3]
    (found,) = classify(pixels[None])    # the scene again, from the pixels alone
    agreement(scene, found).color   # True

`grammar` has scenes and captions, `examples` the splits for training and testing.
`rendering` turns a scene into pixels, `attribute_classifier` pixels into a scene, and
`scoring` compares two scenes.
"""

from ddpm_jax.data.shapes.attribute_classifier import UNKNOWN, classify
from ddpm_jax.data.shapes.examples import DEFAULT_COUNTS, SPLITS, example, split_of
from ddpm_jax.data.shapes.grammar import (
    COLORS,
    HELD_OUT,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    caption,
    parse,
)
from ddpm_jax.data.shapes.rendering import SMALLEST_SIDE, render
from ddpm_jax.data.shapes.scoring import Agreement, agreement
from ddpm_jax.data.shapes.source import load_shapes

__all__ = [
    "COLORS",
    "DEFAULT_COUNTS",
    "HELD_OUT",
    "PLACES",
    "SHAPES",
    "SIZES",
    "SMALLEST_SIDE",
    "SPLITS",
    "UNKNOWN",
    "Agreement",
    "Scene",
    "Thing",
    "agreement",
    "caption",
    "classify",
    "example",
    "load_shapes",
    "parse",
    "render",
    "split_of",
]
