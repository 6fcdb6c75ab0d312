"""Examples of captioned shapes: three splits, each a pure function of its number.

| split    | its scenes                                                             |
| -------- | ---------------------------------------------------------------------- |
| train    | no pair of `HELD_OUT`; the caption's CRC-32 is not a multiple of 10       |
| test     | no pair of `HELD_OUT`; the caption's CRC-32 is a multiple of ten        |
| held_out | at least one pair of `HELD_OUT`; examples have just one  |

The number of things, 1, 2 or 3, is sampled first, then the places, then each thing: a
color, one of the shapes that training has with it, a size, all uniformly. Each shape
being held out once, shapes are equally frequent too. A scene of another split is
sampled again. In a scene of `held_out` one thing, any of them, has a pair of
`HELD_OUT`; the others are like those of training.

Source: J. K. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
(Philox, whose words NumPy guarantees never to change; see `pipeline`).
"""

import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from ddpm_jax.data.shapes.grammar import (
    COLORS,
    HELD_OUT,
    MOST,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    caption,
)
from ddpm_jax.data.shapes.partial import (
    ATTRIBUTES,
    DROPPED,
    WORDS,
    Description,
    describe,
    is_true,
)

DEFAULT_COUNTS = {"train": 20_000, "test": 2_000, "held_out": 2_000}
SPLITS = tuple(DEFAULT_COUNTS)

Key = tuple[int, int]  # of a Philox generator

_NUM_THINGS = (1, 1, 2, 3)  # of partial examples
_ONE_IN = 10  # captions that are kept for testing
_CHUNK = 64  # words generated at a time
_PLACINGS = {n: list(itertools.combinations(PLACES, n)) for n in range(1, MOST + 1)}
_SHAPES_OF = {
    color: [shape for shape in SHAPES if (color, shape) not in HELD_OUT]
    for color in COLORS
}
Option = TypeVar("Option")


def split_of(scene: Scene) -> str:
    """Return the split of a scene; every scene belongs to one."""
    if any(thing and (thing.color, thing.shape) in HELD_OUT for thing in scene):
        return "held_out"
    tested = zlib.crc32(caption(scene).encode()) % _ONE_IN == 0
    return "test" if tested else "train"


def example(split: str, index: int) -> tuple[Scene, Key]:
    """Sample an example of a split, independent of all others.

    Args:
        split: one of `SPLITS`.
        index: 0, 1, ...

    Returns:
        The scene, and the key by which `render` shifts its things.
    """
    stream = SPLITS.index(split)
    words = _words((stream, index))
    num_things = _choose(words, range(1, MOST + 1))
    while True:
        scene = _draw(words, num_things, split == "held_out")
        if split_of(scene) == split:
            return scene, (len(SPLITS) + stream, index)


def partial_example(split: str, index: int) -> tuple[Scene, Key, Description]:
    """Sample an example whose caption leaves things unsaid; see `partial`.

    Half of the scenes are of one thing, the others of two and three.

    Args:
        split: one of `SPLITS`, of whose scenes it is.
        index: 0, 1, ...

    Returns:
        The scene, the key by which `render` shifts its things, and what is said.
    """
    stream = 2 * len(SPLITS) + SPLITS.index(split)
    words = _words((stream, index))
    num_things = _choose(words, _NUM_THINGS)
    scene = _draw(words, num_things, split == "held_out")
    while split_of(scene) != split:
        scene = _draw(words, num_things, split == "held_out")
    said = [name for name in DROPPED if _choose(words, (True, False))]
    orders = list(itertools.permutations(range(num_things)))
    order = None if "place" in said else _choose(words, orders)
    return scene, (len(SPLITS) + stream, index), describe(scene, said, order)


def unsaid_law(description: Description, split: str = "train") -> dict[str, dict]:
    """Return the law of what is unsaid of one thing: what partial examples show.

    Exact, by all scenes of one thing that the split has.

    Args:
        description: of one thing.
        split: train or test.

    Returns:
        word -> probability for each attribute of which nothing is said; empty if
        no scene of the split is such.
    """
    (phrase,) = description
    weights: dict[tuple[str, str, str, str], float] = {}
    for color, size, place in itertools.product(COLORS, SIZES, PLACES):
        for shape in _SHAPES_OF[color]:
            at = PLACES.index(place)
            scene = tuple(
                Thing(size, color, shape) if i == at else None
                for i in range(len(PLACES))
            )
            if split_of(scene) == split and is_true(description, scene):
                words = (size, color, shape, place)
                weights[words] = 1 / len(_SHAPES_OF[color])
    law: dict[str, dict[str, float]] = {}
    for i, name in enumerate(ATTRIBUTES):
        if getattr(phrase, name) is None and weights:
            law[name] = dict.fromkeys(WORDS[name], 0.0)
            for words, weight in weights.items():
                law[name][words[i]] += weight / sum(weights.values())
    return law


def _draw(words: Iterator[int], num_things: int, strange: bool) -> Scene:
    """Sample a scene of N things, one of them with a held-out pair if `strange`."""
    places = _choose(words, _PLACINGS[num_things])
    strange_place = _choose(words, places) if strange else None
    things = {place: _thing(words, place == strange_place) for place in places}
    return tuple(things.get(place) for place in PLACES)


def _thing(words: Iterator[int], strange: bool) -> Thing:
    if strange:
        color, shape = _choose(words, HELD_OUT)
    else:
        color = _choose(words, tuple(COLORS))
        shape = _choose(words, _SHAPES_OF[color])
    return Thing(_choose(words, tuple(SIZES)), color, shape)


def _choose(words: Iterator[int], options: Sequence[Option]) -> Option:
    # Of 2^64 words, so the chances differ by less than 2^-60.
    return options[next(words) % len(options)]


def _words(key: Key) -> Iterator[int]:
    """Yield the random words of 64 bits that belong to a key."""
    generator = np.random.Philox(key=np.array(key, np.uint64))
    while True:
        yield from generator.random_raw(_CHUNK).tolist()
