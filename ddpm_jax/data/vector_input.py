"""Vectors that are inputs of an edit, such as points, and which of their numbers."""

import csv
import math
from pathlib import Path

import numpy as np

from ddpm_jax.errors import UserError

_LETTERS = "xyz"


def csv_rows(path: str | Path, name: str, wanted: str) -> list[list[str]]:
    """Read the rows of a .csv that are not blank.

    Args:
        path: of the file.
        name: what the message calls it.
        wanted: what to do if it cannot be read, for the message.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8") as file:
            return [row for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no table of text"
        raise UserError(f"cannot read {name} ({reason}); {wanted}.") from error


def read_vectors(path: str | Path, size: int) -> np.ndarray:
    """Read vectors from a .csv, one a line, without or with a line of names above.

    They are taken as they are: neither moved nor scaled.

    Args:
        path: of the file.
        size: D, the numbers of each.

    Returns:
        float32 [N, D].

    Raises:
        UserError: the file cannot be read, or holds no such vectors.
    """
    wanted = f"give a .csv with {size} numbers in each line"
    numbers = [_numbers(row) for row in csv_rows(path, str(path), wanted)]
    if numbers and numbers[0] is None:
        numbers = numbers[1:]  # names of columns
    if not numbers or any(row is None or len(row) != size for row in numbers):
        raise UserError(f"{path} holds something else than vectors; {wanted}.")
    return np.array(numbers, np.float32)


def _numbers(row: list[str]) -> list[float] | None:
    try:
        found = [float(word) for word in row]
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


def read_coordinates(text: str, size: int) -> np.ndarray:
    """Read which numbers of a vector are meant: "y", or "0,2" by their places.

    Args:
        text: letters x, y, z up to three numbers, or places from 0, with commas.
        size: D.

    Returns:
        bool [D].

    Raises:
        UserError: there are no such numbers, or all are meant.
    """
    names = list(_LETTERS[:size]) if size <= len(_LETTERS) else []
    chosen = np.zeros(size, bool)
    for word in filter(None, map(str.strip, text.split(","))):
        place = names.index(word) if word in names else word
        if not str(place).isdecimal() or not int(place) < size:
            listed = f"{', '.join(names)} or " if names else ""
            raise UserError(
                f"{text!r} names no numbers of a vector of {size}; use {listed}places "
                f"from 0 to {size - 1}, with commas."
            )
        chosen[int(place)] = True
    if chosen.all() or not chosen.any():
        raise UserError(
            f"{text!r} means {'all' if chosen.all() else 'none'} of {size} numbers; "
            "name those that are to be filled, and leave some known."
        )
    return chosen


def read_frames(text: str, num_frames: int) -> np.ndarray:
    """Read which frames of a clip are to be filled, such as "1-6" or "3,5".

    Args:
        text: numbers from 0, and ranges of them, with commas.
        num_frames: F.

    Returns:
        bool [F].

    Raises:
        UserError: it names no frames, or all of them.
    """
    named = np.zeros(num_frames, bool)
    for word in text.split(","):
        first, _, last = word.strip().partition("-")
        ends = (first, last or first)
        if not all(end.isdecimal() and int(end[:9]) < num_frames for end in ends):
            break
        named[int(ends[0]) : int(ends[1]) + 1] = True
    else:
        if named.any() and not named.all():
            return named
    raise UserError(
        f"{text!r:.80} names no frames to fill of 0 to {num_frames - 1}; write some, "
        f"not all, such as 1-{num_frames - 2}."
    )
