"""Grammar of captioned shapes: a scene, and the one caption it has.

    caption = thing {" and " thing}                            one to three things
    thing   = "a " size " " color " " shape " " place

Places are the four quarters of the image, each with one thing at most. Things are
named in the order of `PLACES`, so a scene has one caption and a caption one scene.
There are 56 things, and 4 * 56 + 6 * 56^2 + 4 * 56^3 = 721,504 scenes.
"""

from typing import NamedTuple

from ddpm_jax.errors import UserError

BACKGROUND = (30, 30, 30)
# Any two of these, and the background, are at least 140 levels apart.
COLORS = {
    "red": (225, 45, 45),
    "green": (50, 200, 70),
    "blue": (40, 70, 240),
    "yellow": (245, 215, 50),
    "purple": (200, 60, 220),
    "cyan": (60, 210, 225),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 0.125, "large": 0.2}  # half of the width and height, by the side
PLACES = ("top left", "top right", "bottom left", "bottom right")
MOST = 3  # things in a scene

# Pairs of color and shape held out of training: each shape once, no color twice.
HELD_OUT = (
    ("red", "cross"),
    ("blue", "triangle"),
    ("yellow", "circle"),
    ("purple", "square"),
)

_EXAMPLE = "a small red circle top left"


class Thing(NamedTuple):
    """One object, by the words for it."""

    size: str
    color: str
    shape: str


Scene = tuple[Thing | None, ...]  # what is at each of the four `PLACES`; None: nothing


def caption(scene: Scene) -> str:
    """Write the caption of a scene, things in the order of `PLACES`."""
    things = zip(scene, PLACES, strict=True)
    return " and ".join(f"a {' '.join(thing)} {at}" for thing, at in things if thing)


def parse(text: str) -> Scene:
    """Read a caption; things may come in any order, and capitals do not matter.

    Raises:
        UserError: naming the word that is not understood, or what is missing.
    """
    words = text.lower().split()
    things: dict[str, Thing] = {}
    rest = ["and", *words]
    while rest:
        _take(text, rest, "what joins two things", ("and",))
        _take(text, rest, "the first word of a thing", ("a",))
        thing = Thing(
            _take(text, rest, "a size", tuple(SIZES)),
            _take(text, rest, "a color", tuple(COLORS)),
            _take(text, rest, "a shape", SHAPES),
        )
        height = _take(text, rest, "a place", ("top", "bottom"))
        place = f"{height} {_take(text, rest, 'a place', ('left', 'right'))}"
        if place in things:
            raise UserError(
                f"the caption {text!r} puts two things {place}; a quarter has room for "
                "one."
            )
        things[place] = thing
    if len(things) > MOST:
        raise UserError(
            f"the caption {text!r} names {len(things)} things; name one to {MOST}."
        )
    return tuple(things.get(place) for place in PLACES)


def _take(text: str, rest: list[str], role: str, known: tuple[str, ...]) -> str:
    """Remove and return the next word, which has to be one of those known."""
    listed = ", ".join(known)
    if not rest:
        raise UserError(
            f"the caption {text!r} ends where {role} is due ({listed}); write as in "
            f"{_EXAMPLE!r}."
        )
    word = rest.pop(0)
    if word not in known:
        raise UserError(
            f"the caption {text!r} has {word!r} for {role} ({listed}); write as in "
            f"{_EXAMPLE!r}."
        )
    return word
