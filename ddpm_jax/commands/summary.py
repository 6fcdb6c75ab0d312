"""All rows of a workdir on one page: results.md, evaluation.json and the plots."""

import math
from pathlib import Path

from ddpm_jax import files, plots
from ddpm_jax.commands import report


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
        if row["model"] is None
        and row["set"].startswith("data_")
        and report.against(row) == report.against(first)
    ]
    floor = real[-1]["scores"] if real else {}
    features = first["features"]["name"]
    names = [name for name in first["scores"]]
    panels = [
        plots.Panel(
            report.title(name, features),
            [_line(curve, name) for curve in same],
            floor.get(name, {}).get("value"),
        )
        for name in names
    ]
    plots.plot_scores(path, axis, panels)


def _line(curve: report.Curve, name: str) -> plots.Line:
    found = [row["scores"].get(name, {}) for row in curve.rows]
    values = [_or_nan(one.get("value")) for one in found]
    errors = [_or_nan(one.get("standard_error")) for one in found]
    return plots.Line(curve.label, curve.x, values, errors)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
