"""Points in the plane: sets that a student can see, some with exact densities.

| name         | what it is                                       | classes |
| ------------ | ------------------------------------------------ | ------- |
| ring         | 8 Gaussians on a circle                          | 8       |
| grid         | 25 Gaussians on a square grid                    | 25      |
| moons        | two half circles that reach into each other      | 2       |
| swiss_roll   | a spiral                                         | none    |
| checkerboard | uniform on 8 of 16 squares                       | none    |
| tree         | a trunk that branches, by branch                 | 8       |
| file:PATH    | a .csv with the columns x, y and perhaps label   | if any  |

All have coordinates of mean about 0 and variance about 1, as a diffusion process wants
them; a file's are moved and scaled to that, by the same factor each way.

Source: Srivastava et al. 2017, "VEEGAN", section 4.1, for ring and grid, here divided
    by the deviation of their coordinates.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from ddpm_jax.data.dataset import Arrays, Dataset, NoSplitError, fingerprint_of
from ddpm_jax.data.hold_out import check_split, split_indices
from ddpm_jax.data.vector_input import csv_rows
from ddpm_jax.errors import UserError

SIZES = {"train": 20_000, "test": 10_000}
"""Split -> how many points it has; each is drawn by a seed of its own."""

Drawn = tuple[np.ndarray, np.ndarray | None]
"""Points float64 [N, 2], and classes int [N] or None."""

_VERSION = 1  # to be raised where the same name gives other points


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Gaussians of one deviation and equal weights, whose density is known.

    Attributes:
        centers: [K, 2].
        std: of each coordinate around its center.
    """

    centers: np.ndarray
    std: float

    def draw(self, rng: np.random.Generator, count: int) -> Drawn:
        """Draw points, and which center each is of."""
        labels = rng.integers(len(self.centers), size=count)
        noise = self.std * rng.standard_normal((count, 2))
        return self.centers[labels] + noise, labels

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Return the log density [N] at points [N, 2]."""
        offsets = np.asarray(points, np.float64)[:, None] - self.centers
        exponents = -0.5 * np.square(offsets / self.std).sum(-1)
        most = exponents.max(axis=1, keepdims=True)
        total = np.log(np.exp(exponents - most).sum(1)) + most[:, 0]
        normal = math.log(2 * math.pi * self.std**2) + math.log(len(self.centers))
        found: np.ndarray = total - normal
        return found


def _ring() -> Mixture:
    angles = 2 * np.pi * np.arange(8) / 8
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(circle * math.sqrt(2), 0.02 * math.sqrt(2))


def _grid() -> Mixture:
    lines = np.arange(-2, 3) / math.sqrt(2)
    x, y = np.meshgrid(lines, lines, indexing="ij")
    return Mixture(np.stack([x.ravel(), y.ravel()], axis=1), 0.05 / (2 * math.sqrt(2)))


MIXTURES = {"ring": _ring(), "grid": _grid()}
"""The sets whose density is exact."""


def _moons(rng: np.random.Generator, count: int) -> Drawn:
    labels = rng.integers(2, size=count)
    angle = np.pi * rng.random(count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(labels[:, None] == 0, upper, lower)
    points = points + 0.05 * rng.standard_normal((count, 2))
    return (points - [0.5, 0.25]) / 0.708, labels


def _swiss_roll(rng: np.random.Generator, count: int) -> Drawn:
    turn = 1.5 * np.pi * (1 + 2 * rng.random(count))
    points = turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points = points + 0.25 * rng.standard_normal((count, 2))
    return (points - [1.95, 0.15]) / 6.81, None


def _checkerboard(rng: np.random.Generator, count: int) -> Drawn:
    column = rng.integers(4, size=count)
    row = 2 * rng.integers(2, size=count) + column % 2
    points = np.stack([column, row], axis=1) + rng.random((count, 2))
    return (points - 2.0) * (math.sqrt(3) / 2), None  # a square of side 2 sqrt(3)


def _tree(rng: np.random.Generator, count: int) -> Drawn:
    """Draw from the tips' paths down to the root: branches part three times."""
    labels = rng.integers(8, size=count)
    start, ends = np.array([0.0, -2.0]), []
    for branch in range(8):
        place, angle, path = start, np.pi / 2, [start]
        for depth in range(3):
            side = 1 if branch >> (2 - depth) & 1 else -1
            angle = angle + side * (0.62, 0.45, 0.32)[depth]
            step = (1.5, 1.2, 0.9)[depth]
            place = place + step * np.array([math.cos(angle), math.sin(angle)])
            path.append(place)
        ends.append(np.stack(path))
    paths = np.stack(ends)[labels]  # [N, 4, 2]
    along = 3 * rng.random(count)
    piece = np.minimum(along.astype(int), 2)
    each = np.arange(count)
    low, high = paths[each, piece], paths[each, piece + 1]
    points = low + (along - piece)[:, None] * (high - low)
    points = points + 0.04 * rng.standard_normal((count, 2))
    return (points - [0.0, -0.433]) / 1.094, labels


_DRAW: dict[str, Callable[[np.random.Generator, int], Drawn]] = {
    **{name: mixture.draw for name, mixture in MIXTURES.items()},
    "moons": _moons,
    "swiss_roll": _swiss_roll,
    "checkerboard": _checkerboard,
    "tree": _tree,
}
NAMES = tuple(_DRAW)


def load_points(name: str, *, split: str, hold_out: int = 0) -> Dataset:
    """Open a set of points.

    Args:
        name: one of `NAMES`, or "file:PATH" of a .csv.
        split: "train" or "test"; of a file "train" or "all", and with `hold_out` "test"
            too.
        hold_out: of a file: every so many points are the split "test"; 0: none.

    Raises:
        UserError: there is no such set, or the file does not hold points.
        NoSplitError: no such split.
    """
    if name.startswith("file:"):
        return _load_file(name.removeprefix("file:"), split, hold_out)
    if name not in _DRAW:
        raise UserError(
            f"points:{name} is not known; use {', '.join(NAMES)}, or file:PATH.csv."
        )
    if split not in SIZES:
        raise NoSplitError(
            f"points:{name} has no split {split!r}; use {' or '.join(SIZES)}."
        )
    seed = list(SIZES).index(split)
    points, labels = _DRAW[name](np.random.default_rng(seed), SIZES[split])
    count = None if labels is None else int(labels.max()) + 1
    return _dataset(f"points:{name}", split, points, labels, count, ["points", name])


def _dataset(
    name: str,
    split: str,
    points: np.ndarray,
    labels: np.ndarray | None,
    num_classes: int | None,
    identity: list[str],
    names: tuple[str, ...] | None = None,
) -> Dataset:
    items = np.ascontiguousarray(points, np.float32)
    if num_classes is not None and names is None:
        names = tuple(map(str, range(num_classes)))
    stored = None if labels is None else labels.astype(np.int32)
    content = [items.tobytes(), b"" if stored is None else stored.tobytes()]
    return Dataset(
        name=name,
        source=Arrays(items, stored),
        shape=(2,),
        label_names=names,
        fingerprint=fingerprint_of([*identity, split, _VERSION, *content]),
        split=split,
        mixture=MIXTURES.get(name.removeprefix("points:")),
    )


def _load_file(path: str, split: str, hold_out: int) -> Dataset:
    name = f"points:file:{path}"
    check_split(split, hold_out, name)
    points, words = _read_csv(path, name)
    center, scale = points.mean(0), float(np.sqrt(points.var(0).mean()))
    if not scale > 0:
        raise UserError(f"{name} has one point alone; give points that differ.")
    points = (points - center) / scale
    names = None if words is None else tuple(sorted(set(words)))
    labels = None
    if names is not None and words is not None:
        labels = np.array([names.index(word) for word in words])
    chosen = split_indices(len(points), split, hold_out, name)
    if chosen is not None:
        points = points[chosen]
        labels = None if labels is None else labels[chosen]
    count = None if names is None else len(names)
    identity = ["points-file", str(hold_out)]
    return _dataset(name, split, points, labels, count, identity, names)


def _read_csv(path: str, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Read the columns x, y and perhaps label, with or without a line of names."""
    rows = csv_rows(path, name, "give a .csv with the columns x and y")
    if rows and not _numbers(rows[0][:2]):
        rows = rows[1:]  # names of columns
    for number, row in enumerate(rows, 1):
        if not 2 <= len(row) <= 3 or not _numbers(row[:2]):
            raise UserError(
                f"{name} has {','.join(row)[:40]!r} as its point {number}; write x,y "
                "or x,y,label, two finite numbers."
            )
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        raise UserError(
            f"{name} has {len(rows)} points, of which some may have a label and others "
            "none; give two or more, all alike."
        )
    points = np.array([[float(row[0]), float(row[1])] for row in rows])
    return points, [row[2].strip() for row in rows] if len(rows[0]) == 3 else None


def _numbers(words: list[str]) -> bool:
    try:
        return all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False
