"""Attribute agreement: how far a recognized scene matches the one in the prompt."""

from collections import Counter
from dataclasses import dataclass

from ddpm_jax.data.shapes.attribute_classifier import UNKNOWN
from ddpm_jax.data.shapes.grammar import Scene, Thing


@dataclass(frozen=True)
class Agreement:
    """Which attributes of the requested scene are in the recognized one.

    Colors, shapes and sizes are compared as collections, wherever the things are: a
    red circle and a blue square, requested and classified with their colors exchanged,
    agree in all of them but not in `things`.

    Attributes:
        count: As many things.
        place: In the same quarters.
        color: The same colors, as often.
        shape: The same shapes, as often.
        size: The same sizes, as often.
        things: The same things, wherever they are.
        scene: All of it: the same things in the same quarters.
    """

    count: bool
    place: bool
    color: bool
    shape: bool
    size: bool
    things: bool
    scene: bool


def agreement(requested: Scene, found: Scene) -> Agreement:
    """Compare a request with the result of `classify`; unknown agrees with nothing."""
    wanted, given = (
        [thing for thing in scene if thing] for scene in (requested, found)
    )
    clear = Thing(UNKNOWN, UNKNOWN, UNKNOWN) not in given
    same = {
        field: Counter(getattr(thing, field) for thing in wanted)
        == Counter(getattr(thing, field) for thing in given)
        for field in Thing._fields
    }
    where = [[thing is not None for thing in scene] for scene in (requested, found)]
    return Agreement(
        count=clear and len(wanted) == len(given),
        place=clear and where[0] == where[1],
        things=Counter(wanted) == Counter(given),
        scene=requested == found,
        **same,
    )
