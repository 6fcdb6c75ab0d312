"""Train/test split of data that come in one piece: every N-th item is for testing."""

import numpy as np

from ddpm_jax.data.dataset import NoSplitError
from ddpm_jax.errors import UserError

SPLITS = ("train", "test", "all")


def check_split(split: str, hold_out: int, name: str) -> None:
    """Refuse a split that there is not, before any item is read.

    Args:
        split: "train" or "all"; with `hold_out` also "test".
        hold_out: N: every N-th item is for testing; 0: none.
        name: of the data set, for messages.

    Raises:
        UserError: `hold_out` leaves nothing to train on.
        NoSplitError: no such split.
    """
    if hold_out < 0 or hold_out == 1:
        raise UserError(
            f"hold_out={hold_out} leaves nothing to train on; use 2 or more, such as "
            "10 for a tenth, or 0 to hold none out."
        )
    if hold_out and split not in SPLITS:
        raise NoSplitError(f"{name} has no split {split!r}; use train, test or all.")
    if not hold_out and split not in ("train", "all"):
        raise NoSplitError(
            f"{name} has no split {split!r}, since it is one split; use train for the "
            "whole of it, or hold out some items for 'test', such as a tenth with "
            "hold_out=10."
        )


def split_indices(
    count: int, split: str, hold_out: int, name: str
) -> np.ndarray | None:
    """Return the indices of the items of a split, rising; None for all items.

    Items N - 1, 2 N - 1, 3 N - 1, ... are those for testing.

    Args:
        count: number of items.
        split: as of `check_split`.
        hold_out: N, as of `check_split`.
        name: of the data set, for messages.

    Raises:
        UserError: fewer than N items, or what `check_split` raises.
        NoSplitError: no such split.
    """
    check_split(split, hold_out, name)
    if hold_out > count:
        raise UserError(
            f"{name} has {count} items, and hold_out={hold_out} holds none of them "
            f"out; use hold_out={count} or less."
        )
    if not hold_out or split == "all":
        return None
    is_held = np.arange(count) % hold_out == hold_out - 1
    return np.flatnonzero(is_held if split == "test" else ~is_held)
