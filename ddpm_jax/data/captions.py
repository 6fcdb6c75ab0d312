"""A captions file: `metadata.jsonl` beside the images, a JSON object a line.

    {"file_name": "images/0001.png", "text": "a red boat", "label": "boat"}

`file_name` is the path below the folder and must be there; `text` is the image's
caption; a field of the user's choice, by default `label`, gives its class, a word or a
whole number. Other fields are passed over. Where one line has a caption, or a class,
all must. Blank lines count as lines and are skipped.

Source: the image-folder convention of Hugging Face's `datasets`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import printable

NAME = "metadata.jsonl"
_LISTED = 3  # faults that a message spells out
_LONGEST = 100  # characters of a name in a message


@dataclass(frozen=True)
class Captions:
    """The content of a captions file, in the order of its lines.

    Attributes:
        files: names of the images, as paths below the folder.
        texts: a caption each, or None if there are none.
        labels: a class each, words or whole numbers, or None if there are none.
    """

    files: tuple[str, ...]
    texts: tuple[str, ...] | None
    labels: tuple[str | int, ...] | None


def read_captions(path: Path, images: frozenset[str], label_field: str) -> Captions:
    """Read a captions file, and check it against the images of the folder.

    Args:
        path: of the file.
        images: names of all images under the folder.
        label_field: the field that holds the class.

    Raises:
        UserError: naming the lines, counted from 1, with which something is wrong.
    """
    try:
        # Not `splitlines`: JSON strings may hold U+2028 and others that it splits at.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot read {printable(path)} ({reason}); write it as UTF-8."
        ) from error
    faults, rows = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _parse(line, images, label_field)
        except ValueError as error:
            faults.append((number, str(error)))
        else:
            rows.append((number, row))
    faults += _disagreements(rows, label_field)
    if faults:
        raise UserError(_format(path, sorted(faults)))
    if not rows:
        raise UserError(
            f"{printable(path)} has no lines; describe the images, or remove it."
        )
    columns = [
        tuple(row[field] for _, row in rows)
        for field in ("file_name", "text", label_field)
    ]
    return Captions(columns[0], *(_or_none(column) for column in columns[1:]))


def _parse(line: str, images: frozenset[str], label_field: str) -> dict[str, Any]:
    """Return file_name, text and class of a line, None for what it does not give."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("is nested too deep") from error
    except ValueError as error:  # Python reads integers of up to 4,300 digits
        raise ValueError("has a number of too many digits") from error
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}, not an object")
    name, text, label = (row.get(field) for field in ("file_name", "text", label_field))
    if not isinstance(name, str):
        raise ValueError("has no 'file_name' that is a string")
    if name.removeprefix("./") not in images:
        raise ValueError(f"names {_short(name)}, and there is no such image")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"has a 'text' that is a {type(text).__name__}, not a string")
    if isinstance(label, bool) or not isinstance(label, str | int | None):
        raise ValueError(
            f"has a {label_field!r} that is a {type(label).__name__}, not a string or "
            "a whole number"
        )
    for field, value in (("text", text), (label_field, label)):
        if isinstance(value, str) and not _is_unicode(value):
            raise ValueError(f"has half a character (a lone surrogate) in {field!r}")
    return {"file_name": name.removeprefix("./"), "text": text, label_field: label}


def _is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8; JSON can hold others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(name: str) -> str:
    return repr(name if len(name) <= _LONGEST else name[:_LONGEST] + "...")


def _disagreements(
    rows: list[tuple[int, dict[str, Any]]], label_field: str
) -> list[tuple[int, str]]:
    """Find faults beyond single lines: repeated names, fields that some lack."""
    faults: list[tuple[int, str]] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        first = lines.setdefault(row["file_name"], number)
        if first != number:
            name = _short(row["file_name"])
            faults.append((number, f"names {name}, as does line {first}"))
    for field in ("text", label_field):
        given = [(n, type(row[field])) for n, row in rows if row[field] is not None]
        odd = [n for n, kind in given if kind is not given[0][1]]
        faults += [(n, f"mixes words and numbers in {field!r}") for n in odd]
        if given:
            lacking = [number for number, row in rows if row[field] is None]
            faults += [(n, f"has no {field!r}, which others have") for n in lacking]
    return faults


def _format(path: Path, faults: list[tuple[int, str]]) -> str:
    listed = "; ".join(f"line {number} {fault}" for number, fault in faults[:_LISTED])
    more = len(faults) - _LISTED
    rest = f"; and {more} more" if more > 0 else ""
    return f"{printable(path)}: {listed}{rest}. Correct the file."


def _or_none(column: tuple) -> tuple | None:
    return None if column[0] is None else column
