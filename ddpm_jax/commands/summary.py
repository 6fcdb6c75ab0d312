"""All rows of a workdir on one page: results.md, evaluation.json and the plots."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.commands import report
from ddpm_jax.runtime import files, plots


def summarise(workdir: Path) -> None:
    """Write what all evaluations of a workdir found, this one's and earlier ones'."""
    folder = workdir / "evaluation"
    rows = report.read_rows(folder)
    files.write_json(folder / "evaluation.json", rows)
    shown = report.over_seeds(rows)
    files.write_text(workdir / "results.md", report.markdown(shown))
    for variable, (axis, _) in report.VARIABLES.items():
        found = report.curves(shown, variable)
        if found:
            _plot(folder / f"over-{variable}.png", axis, found, shown)
    print(f"Files: {workdir}/results.md, {folder}/")


def _plot(
    path: Path, axis: str, found: list[report.Curve], rows: list[report.Row]
) -> None:
    """Draw the curves of one network and reference: those of the longest curve."""
    first = max(found, key=lambda curve: len(curve.x)).rows[0]
    same = [c for c in found if report.against(c.rows[0]) == report.against(first)]
    real = [
        row
        for row in rows
        if row["request"]["images"] == "data"
        and row["request"]["split"] != row["reference"].get("split")
        and row["num_images"] == first["num_images"]  # else it is another floor
        and report.against(row) == report.against(first)
    ]
    floor = real[-1]["scores"] if real else {}
    features = first["features"]["name"]
    panels = [
        plots.Panel(
            report.title(name, features),
            [_line(curve, name) for curve in same],
            _scaled(floor, name, "value") if name in floor else None,
        )
        for name in first["scores"]
    ]
    said = f"{first['num_images']:,} images each, {report.against(first)}"
    plots.plot_scores(path, axis, panels, title=said)


def _line(curve: report.Curve, name: str) -> plots.Line:
    values, errors = (
        [_scaled(row["scores"], name, kind) for row in curve.rows]
        for kind in ("value", "standard_error")
    )
    return plots.Line(curve.label, curve.x, values, errors)


def _scaled(scores: Mapping[str, Any], name: str, kind: str) -> float:
    """Return a number as its title says it, NaN if there is none."""
    found = scores.get(name, {}).get(kind)
    return math.nan if found is None else found * report.SCALE.get(name, 1.0)
