"""A number, and how far it may be off."""

from typing import NamedTuple


class Estimate(NamedTuple):
    """A score of a finite sample.

    Attributes:
        value: the estimate.
        standard_error: of the value, as its function says; None if it has none of its
            own (draw several seeds to see one).
    """

    value: float
    standard_error: float | None
