"""Captioned shapes: synthetic images with a rule-based attribute classifier.

    scene = parse("a small red circle top left and a large blue square bottom right")
    pixels = render(scene, 32)       # uint8 [32, 32, 3]
    (found,) = classify(pixels[None])    # the scene again, from the pixels alone
    agreement(scene, found).color   # True

`grammar` has scenes and captions, `examples` the splits for training and testing.
`rendering` turns a scene into pixels, `attribute_classifier` pixels into a scene, and
`scoring` compares two scenes. `partial` has captions that leave things unsaid, of what
images they are true, and how far a scene is what they say.
"""

from ddpm_jax.data.shapes.attribute_classifier import UNKNOWN, classify
from ddpm_jax.data.shapes.examples import (
    DEFAULT_COUNTS,
    SPLITS,
    example,
    partial_example,
    split_of,
    unsaid_law,
)
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
from ddpm_jax.data.shapes.partial import (
    Description,
    PartialAgreement,
    Phrase,
    describe,
    is_true,
    parse_partial,
    partial_agreement,
    partial_caption,
)
from ddpm_jax.data.shapes.rendering import SMALLEST_SIDE, render
from ddpm_jax.data.shapes.scoring import Agreement, agreement
from ddpm_jax.data.shapes.source import PARTIAL, load_shapes

__all__ = [
    "COLORS",
    "DEFAULT_COUNTS",
    "HELD_OUT",
    "PARTIAL",
    "PLACES",
    "SHAPES",
    "SIZES",
    "SMALLEST_SIDE",
    "SPLITS",
    "UNKNOWN",
    "Agreement",
    "Description",
    "PartialAgreement",
    "Phrase",
    "Scene",
    "Thing",
    "agreement",
    "caption",
    "classify",
    "describe",
    "example",
    "is_true",
    "load_shapes",
    "parse",
    "parse_partial",
    "partial_agreement",
    "partial_caption",
    "partial_example",
    "render",
    "split_of",
    "unsaid_law",
]
