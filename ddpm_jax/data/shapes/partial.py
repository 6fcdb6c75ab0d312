"""Captions that leave things unsaid: "a red circle", wherever it is and of any size.

    caption = phrase {" and " phrase}                          one to three things
    phrase  = "a " [size " "] [color " "] shape [" " place]

Such a caption is true of many scenes, and leaves its model something to choose. The
number of things and their shapes are always said. Of an example's caption size, color
and place are each left out with probability 1/2, of all its things alike; one that
leaves out nothing is the caption of `grammar`. Where places are not said, things are
named in random order: the order of `PLACES` would say something of them.

A caption is *true* of a scene if its phrases can be assigned to the scene's things, one
to one and all of them, with every attribute that is said.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.data.dataset import CaptionRule
from ddpm_jax.data.shapes.grammar import (
    COLORS,
    MOST,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)
from ddpm_jax.errors import UserError

ATTRIBUTES = ("size", "color", "shape", "place")
DROPPED = ("size", "color", "place")
"""Attributes that a caption may leave unsaid."""

WORDS: Mapping[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "color": tuple(COLORS),
    "shape": SHAPES,
    "place": PLACES,
}
_EXAMPLE = "a red circle and a large square top left"
_ASSIGNMENTS = np.array(list(itertools.permutations(range(len(PLACES)), MOST)))
_SCENE, _TEXT = len(PLACES) * 3, MOST * len(ATTRIBUTES)  # numbers of each in facts


class Phrase(NamedTuple):
    """What a caption says of one thing; None where it says nothing."""

    size: str | None
    color: str | None
    shape: str
    place: str | None


Description = tuple[Phrase, ...]
"""A phrase for each thing, in the order in which they are named."""


def describe(
    scene: Scene, said: Sequence[str] = ATTRIBUTES, order: Sequence[int] | None = None
) -> Description:
    """Describe a scene by some of its attributes.

    Args:
        scene: what is at each of the four places.
        said: which attributes; the shape always is.
        order: in which things are named; None for that of `PLACES`.
    """
    phrases = [
        Phrase(
            thing.size if "size" in said else None,
            thing.color if "color" in said else None,
            thing.shape,
            place if "place" in said else None,
        )
        for thing, place in zip(scene, PLACES, strict=True)
        if thing
    ]
    return tuple(phrases if order is None else [phrases[i] for i in order])


def partial_caption(description: Description) -> str:
    """Write the caption that says just this."""
    return " and ".join(
        f"a {' '.join(word for word in phrase if word)}" for phrase in description
    )


def parse_partial(text: str) -> Description:
    """Read a caption that may leave things unsaid; each thing may leave out others.

    Args:
        text: such as "a red circle and a large square top left"; capitals do not
            matter.

    Returns:
        What it says of each thing, None where it says nothing.

    Raises:
        UserError: naming the word that is not understood, or what is missing.
    """
    rest = ["and", *text.lower().split()]
    phrases = []
    while rest:
        _take(text, rest, "what joins two things", ("and",), needed=True)
        _take(text, rest, "the first word of a thing", ("a",), needed=True)
        size = _take(text, rest, "a size", tuple(SIZES))
        color = _take(text, rest, "a color", tuple(COLORS))
        shape = _take(text, rest, "a shape", SHAPES, needed=True)
        height, place = _take(text, rest, "a place", ("top", "bottom")), None
        if height:
            side = _take(text, rest, "a place", ("left", "right"), needed=True)
            place = f"{height} {side}"
        assert shape is not None  # it is needed
        phrases.append(Phrase(size, color, shape, place))
    if len(phrases) > MOST:
        raise UserError(
            f"the caption {text!r} names {len(phrases)} things; name one to {MOST}."
        )
    said = Counter(phrase.place for phrase in phrases if phrase.place)
    for place, count in said.items():
        if count > 1:
            raise UserError(
                f"the caption {text!r} puts two things {place}; a quarter has room for "
                "one."
            )
    return tuple(phrases)


def _take(
    text: str,
    rest: list[str],
    role: str,
    known: tuple[str, ...],
    *,
    needed: bool = False,
) -> str | None:
    """Remove and return the next word if it is one of those known; else None."""
    if rest and rest[0] in known:
        return rest.pop(0)
    if not needed:
        return None
    found = f"has {rest[0]!r} for" if rest else "ends where"
    due = role if rest else f"{role} is due"
    raise UserError(
        f"the caption {text!r} {found} {due} ({', '.join(known)}); write as in "
        f"{_EXAMPLE!r}."
    )


def is_true(description: Description, scene: Scene) -> bool:
    """Say whether a description is true of a scene."""
    things = _things(scene)
    return len(things) == len(description) and any(
        all(map(_agrees, description, chosen))
        for chosen in itertools.permutations(things)
    )


def _things(scene: Scene) -> list[tuple[str, ...]]:
    """List (size, color, shape, place) of the things of a scene."""
    return [(*t, place) for t, place in zip(scene, PLACES, strict=True) if t]


def _agrees(phrase: Phrase, thing: Sequence[str]) -> bool:
    return all(said in (None, seen) for said, seen in zip(phrase, thing, strict=True))


# --- Scores ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PartialAgreement:
    """How far a recognized scene is what a description says.

    Phrases are assigned to things so that as much as possible of what is said is right.
    An attribute of which nothing is said has None.

    Attributes:
        count: As many things.
        place: All places that are said.
        color: All colors that are said.
        shape: All shapes.
        size: All sizes that are said.
        things: All that is said but for places, and as many things.
        scene: All that is said, and as many things.
        unsaid: attribute -> the words seen where nothing is said.
    """

    count: bool
    place: bool | None
    color: bool | None
    shape: bool
    size: bool | None
    things: bool
    scene: bool
    unsaid: Mapping[str, tuple[str, ...]]


def partial_agreement(asked: Description, found: Scene) -> PartialAgreement:
    """Compare what is said with the result of `classify`; unknown agrees with nothing.

    Args:
        asked: of one thing or more.
        found: the recognized scene.
    """
    things: list[tuple[str, ...] | None] = list(_things(found))
    count = len(things) == len(asked)
    things += [None] * (len(asked) - len(things))

    def right(chosen: Sequence[tuple[str, ...] | None]) -> int:
        return sum(
            thing is not None and word is not None and word == seen
            for phrase, thing in zip(asked, chosen, strict=True)
            for word, seen in zip(phrase, thing or phrase, strict=True)
        )

    best = max(itertools.permutations(things, len(asked)), key=right)
    shares: dict[str, bool | None] = {}
    unsaid: dict[str, tuple[str, ...]] = {}
    for i, name in enumerate(ATTRIBUTES):
        said = [(p[i], t and t[i]) for p, t in zip(asked, best, strict=True) if p[i]]
        shares[name] = all(a == b for a, b in said) if said else None
        unsaid[name] = tuple(
            t[i] for p, t in zip(asked, best, strict=True) if t and p[i] is None
        )
    named = [shares[name] in (None, True) for name in ("size", "color", "shape")]
    del unsaid["shape"]
    return PartialAgreement(
        count=count,
        place=shares["place"],
        color=shares["color"],
        shape=bool(shares["shape"]),
        size=shares["size"],
        things=count and all(named),
        scene=count and all(named) and shares["place"] in (None, True),
        unsaid=unsaid,
    )


# --- The rule, in numbers -------------------------------------------------------------


def facts_of(scene: Scene, description: Description) -> np.ndarray:
    """Write a scene and a description as numbers, int8 [24]; 0 for nothing.

    First size, color and shape at each place, then size, color, shape and place of each
    phrase, all counted from 1.
    """
    facts = np.zeros(_SCENE + _TEXT, np.int8)
    for place, thing in enumerate(scene):
        if thing:
            facts[3 * place : 3 * place + 3] = _numbers(thing)
    for i, phrase in enumerate(description):
        first = _SCENE + len(ATTRIBUTES) * i
        facts[first : first + len(ATTRIBUTES)] = _numbers(phrase)
    return facts


def _numbers(words: Thing | Phrase) -> list[int]:
    return [
        0 if word is None else 1 + WORDS[name].index(word)
        for name, word in zip(words._fields, words, strict=True)
    ]


def holds(images: Any, captions: Any) -> Any:
    """Say which captions are true of which images; of NumPy and of JAX arrays.

    Args:
        images: facts [A, 24], of which the scenes count.
        captions: facts [B, 24], of which the descriptions count.

    Returns:
        bool [A, B].
    """
    num_images, num_texts = len(images), len(captions)
    things = images[:, :_SCENE].reshape(num_images, 1, len(PLACES), 1, 3)
    said = captions[:, _SCENE:].reshape(1, num_texts, 1, MOST, len(ATTRIBUTES))
    attributes = (said[..., :3] == 0) | (said[..., :3] == things)
    places = np.arange(1, len(PLACES) + 1, dtype=np.int8)[:, None]
    where = (said[..., 3] == 0) | (said[..., 3] == places)
    is_thing, is_phrase = things[..., 2] > 0, said[..., 2] > 0
    both = attributes.all(axis=-1) & where & is_thing & is_phrase
    neither = ~is_thing & ~is_phrase
    table = both | neither  # phrase i, or none, is true of a place: [A, B, 4, 3]
    # One array of all assignments: as many expressions would take minutes to compile.
    fits = table[:, :, _ASSIGNMENTS, np.arange(MOST)].all(axis=-1)  # [A, B, 24]
    same_number = is_thing.sum(axis=(2, 3)) == is_phrase.sum(axis=(2, 3))
    return fits.any(axis=-1) & same_number


def attributes_of(facts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the classes of images, int32 [N] by attribute; -1 where there is none.

    The number of things of all, and of scenes of one thing its size, color, shape and
    place.

    Args:
        facts: int8 [N, 24].
    """
    scenes = facts[:, :_SCENE].reshape(-1, len(PLACES), 3).astype(np.int32)
    there = scenes[..., 2] > 0
    number, place = there.sum(axis=1), there.argmax(axis=1)
    thing = scenes[np.arange(len(scenes)), place]
    of_one = {
        **{name: thing[:, i] - 1 for i, name in enumerate(Thing._fields)},
        "place": place,
    }
    one = {name: np.where(number == 1, v, -1) for name, v in of_one.items()}
    return {
        name: v.astype(np.int32) for name, v in (one | {"count": number - 1}).items()
    }


def rule_of(facts: np.ndarray) -> CaptionRule:
    """Make the rule of examples of these facts, int8 [N, 24]."""
    return CaptionRule(facts, holds, attributes_of)
