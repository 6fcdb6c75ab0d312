"""What evaluations found: rows of numbers, as a table, as pictures, as text.

A row says all that decides its scores; see `evaluate`. Rows that differ in the seed
alone are shown as one, with the standard error over seeds: single draws scatter.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.runtime import files, plots
from ddpm_jax.runtime import partial_results as parts

Row = Mapping[str, Any]

# Column titles: of the Inception network of the published scores, and of any other
# network, whose Frechet distance is not what the field calls FID.
_TITLES = {
    "frechet_distance": ("FID", "FD"),
    "frechet_infinity": ("FID∞", "FD∞"),
    "kernel_distance": ("KID·10³", "KD·10³"),
    "inception_score": ("IS", "IS (own)"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
    "density": ("density", "density"),
    "coverage": ("coverage", "coverage"),
    "class_accuracy": ("accuracy", "accuracy"),
    "nearest_distance": ("nearest", "nearest"),
    "bits_per_dim": ("bits/dim", "bits/dim"),
}
SCALE = {"kernel_distance": 1e3}
"""What a value is shown times, as its title says."""
_PUBLISHED = "inception-2015-12-05"


def title(score: str, features: str) -> str:
    """Name a score as the field does, if it is of the field's own network."""
    return _TITLES[score][features != _PUBLISHED]


# --- Rows -----------------------------------------------------------------------------

WANTED = (
    "set",
    "request",
    "images",
    "num_images",
    "model",
    "reference",
    "features",
    "scores",
)
"""What a row has at the least."""


def read_rows(folder: Path) -> list[Row]:
    """Collect the rows of a workdir's evaluations, in a fixed order."""
    rows = parts.stored_rows(folder.glob("*/*/scores_*.json"), WANTED)
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple:
    model = row["model"] or {}
    options = model.get("options", {})
    return (
        row["features"]["name"],
        row["features"]["weights"],
        json.dumps(row["reference"], sort_keys=True),
        bool(model),
        row["num_images"],
        model.get("checkpoint_step", 0),
        model.get("parameters", ""),
        options.get("sampler", ""),
        options.get("num_steps", 0),
        options.get("guidance_scale", 1.0),
        options.get("seed", 0),
        row["images"],
    )


def over_seeds(rows: Iterable[Row]) -> list[Row]:
    """Join rows that differ in the seed alone: means, and their standard errors."""
    together: dict[str, list[Row]] = {}
    for row in rows:
        together.setdefault(_without(row, "seed"), []).append(row)
    return [_joined(group) for group in together.values()]


def _without(row: Row, *left_out: str) -> str:
    """Name all that a row's scores are of, but for what is left out of its model."""
    of: list[Any] = [row["features"], row["reference"]]
    if row["model"] is None:
        return json.dumps([row["set"], *of])
    facts = {**row["model"], **row["model"]["options"], "options": None}
    kept = {name: value for name, value in facts.items() if name not in left_out}
    return json.dumps([kept, row["num_images"], *of], sort_keys=True)


def _joined(group: Sequence[Row]) -> Row:
    if len(group) == 1:
        return {**group[0], "num_seeds": 1}
    scores = {}
    for name in group[0]["scores"]:
        found = [row["scores"][name]["value"] for row in group if name in row["scores"]]
        error = np.std(found, ddof=1) / len(found) ** 0.5 if len(found) > 1 else None
        scores[name] = {
            "value": float(np.mean(found)),
            "standard_error": None if error is None else float(error),
        }
    said = group[0]["images"].rsplit(", seed", 1)[0]
    return {
        **group[0],
        "images": f"{said}, {len(group)} seeds)",
        "num_seeds": len(group),
        "scores": scores,
    }


# --- Text -----------------------------------------------------------------------------


def format_row(row: Row, baseline: Row | None) -> str:
    """Format one row, and beside each score what real images reach."""
    width = max(len(title(name, row["features"]["name"])) for name in row["scores"])
    lines = [f"{row['num_images']:,} {row['images']}", f"  {against(row)}"]
    for name, found in row["scores"].items():
        line = (
            f"  {title(name, row['features']['name']):<{width}}  {number(name, found)}"
        )
        if (
            baseline is not None
            and baseline["set"] != row["set"]
            and name in baseline["scores"]
        ):
            line = f"{line:<{width + 28}}real: {number(name, baseline['scores'][name])}"
            if baseline["num_images"] != row["num_images"]:
                line += f" at {baseline['num_images']:,}"
        lines.append(line)
    return "\n".join(lines)


def against(row: Row) -> str:
    """Format what a row's scores were computed from, besides its images."""
    reference, features = row["reference"], row["features"]
    size = "x".join(map(str, reference.get("resolution") or ["?"]))
    count = reference.get("num_images")
    number = f"{count:,} images of " if count else ""
    split = f" ({reference['split']})" if reference.get("split") else ""
    return (
        f"against {number}{reference['data']}{split} at {size}; features: "
        f"{features['name']}, weights {features['weights']}, resize "
        f"{features['resize']}"
    )


def number(score: str, found: Mapping[str, float | None]) -> str:
    """Format a value with two digits of its standard error, if it has one."""
    scale = SCALE.get(score, 1.0)
    value, error = found["value"], found["standard_error"]
    assert value is not None  # a score has one, and perhaps an error
    value *= scale
    if not error:
        return f"{value:.4g}"
    error *= scale
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def markdown(rows: Sequence[Row]) -> str:
    """Lay rows out as tables, one for each network and reference."""
    blocks: dict[str, list[Row]] = {}
    for row in rows:
        blocks.setdefault(against(row), []).append(row)
    text = "# Scores\n"
    for said, block in blocks.items():
        names = [n for n in _TITLES if any(n in row["scores"] for row in block)]
        titles = [title(name, block[0]["features"]["name"]) for name in names]
        text += f"\n{said[0].upper()}{said[1:]}.\n\n"
        text += _line(["images", "number", *titles])
        text += _line(["---"] * (2 + len(names)))
        for row in block:
            cells = [
                number(name, row["scores"][name]) if name in row["scores"] else ""
                for name in names
            ]
            text += _line([row["images"], f"{row['num_images']:,}", *cells])
    return text + _NOTE


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n"


_NOTE = """
± is a standard error: over seeds where there are several, else the score's own (KID
over its subsets, IS over its splits, accuracy binomial). The rows of real images are
the baseline: what a perfect model would be expected to reach at that number of images.
"IS (own)" is the Inception Score's formula with the classes of this network.
"nearest" is the median distance of an image to its nearest neighbour in the reference,
in features; far below that of real images it speaks of memorized ones.
"""


# --- Curves ---------------------------------------------------------------------------


class Curve(NamedTuple):
    """Scores over one thing that was varied, all else being equal."""

    label: str
    x: list[float]
    rows: list[Row]


VARIABLES = {
    "training-steps": ("training step", "checkpoint_step"),
    "sampling-steps": ("sampling steps", "num_steps"),
    "guidance": ("guidance scale", "guidance_scale"),
}
"""Name of a picture -> what its axis is called, and is in the model of a row."""


def curves(rows: Iterable[Row], variable: str) -> list[Curve]:
    """Collect the rows that differ in one variable alone, where there are two or more.

    Args:
        rows: as `over_seeds` returns them.
        variable: of `VARIABLES`.
    """
    name, together = VARIABLES[variable][1], dict[str, list[Row]]()
    for row in rows:
        if row["model"] is not None:
            together.setdefault(_without(row, "seed", name), []).append(row)

    def value(row: Row) -> float:
        return {**row["model"], **row["model"]["options"]}[name]

    return [
        Curve(_label(group[0], variable), [value(row) for row in group], group)
        for group in (sorted(group, key=value) for group in together.values())
        if len(group) > 1
    ]


def _label(row: Row, variable: str) -> str:
    model, options = row["model"], row["model"]["options"]
    said = [model["parameters"], options["sampler"]]
    if variable != "training-steps":
        said.insert(0, f"step {model['checkpoint_step']:,}")
    if variable != "sampling-steps":
        said.append(f"{options['num_steps']} steps")
    if variable != "guidance" and options["guidance_scale"] != 1:
        said.append(f"guidance {options['guidance_scale']:g}")
    if options.get("autoguidance", 1) != 1:
        said.append(f"autoguidance {options['autoguidance']:g}")
    return ", ".join(said)


# --- On one page ----------------------------------------------------------------------


def summarise(workdir: Path) -> None:
    """Write what all evaluations of a workdir found, this one's and earlier ones'."""
    folder = workdir / "evaluation"
    rows = read_rows(folder)
    files.write_json(folder / "evaluation.json", rows)
    shown = over_seeds(rows)
    files.write_text(workdir / "results.md", markdown(shown))
    for variable, (axis, _) in VARIABLES.items():
        found = curves(shown, variable)
        if found:
            _plot(folder / f"over-{variable}.png", axis, found, shown)
    print(f"Files: {workdir}/results.md, {folder}/")


def _plot(path: Path, axis: str, found: list[Curve], rows: list[Row]) -> None:
    """Draw the curves of one network and reference: those of the longest curve."""
    first = max(found, key=lambda curve: len(curve.x)).rows[0]
    same = [c for c in found if against(c.rows[0]) == against(first)]
    real = [
        row
        for row in rows
        if row["request"]["images"] == "data"
        and row["request"]["split"] != row["reference"].get("split")
        and row["num_images"] == first["num_images"]  # else it is another floor
        and against(row) == against(first)
    ]
    floor = real[-1]["scores"] if real else {}
    features = first["features"]["name"]
    panels = [
        plots.Panel(
            title(name, features),
            [_plotted(curve, name) for curve in same],
            _scaled(floor, name, "value") if name in floor else None,
        )
        for name in first["scores"]
    ]
    said = f"{first['num_images']:,} images each, {against(first)}"
    plots.plot_scores(path, axis, panels, title=said)


def _plotted(curve: Curve, name: str) -> plots.Line:
    values, errors = (
        [_scaled(row["scores"], name, kind) for row in curve.rows]
        for kind in ("value", "standard_error")
    )
    return plots.Line(curve.label, curve.x, values, errors)


def _scaled(scores: Mapping[str, Any], name: str, kind: str) -> float:
    """Return a number as its title says it, NaN if there is none."""
    found = scores.get(name, {}).get(kind)
    return math.nan if found is None else found * SCALE.get(name, 1.0)
