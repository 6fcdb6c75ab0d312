"""Plots of a run's loss, bound and scores, made without a display.

Figures are built from matplotlib's objects, never through pyplot, so that nothing is
kept between calls and any thread may draw.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import save_png

# Loaded where something is drawn: it takes a second, and most commands draw nothing.
if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#222222"
_FAINT = "#9a9a9a"
# From clean to noisy: light to dark blue, one hue because the quartiles are ordered.
_QUARTILE_COLORS = ("#9ecae1", "#6baed6", "#3182bd", "#08519c")
_LINE_COLORS = ("#08519c", "#d95f0e", "#31a354", "#756bb1", "#c51b8a")
_MOST_CURVES = 16
_QUARTILE_NAMES = ("cleanest quarter of t", "second", "third", "noisiest quarter")


def plot_loss(
    path: str | Path,
    records: Sequence[Mapping[str, float | None]],
    *,
    title: str = "",
    smoothing: float = 0.05,
) -> None:
    """Draw the training loss, whole and by quartile of t, as a PNG.

    Args:
        path: where to write the image.
        records: lines of `metrics.jsonl`, each with "step", "loss" and, if known,
            "loss_q0" (least noise) to "loss_q3"; None or NaN where no t was sampled.
        title: line above the image.
        smoothing: length of the running mean, as a fraction of the steps plotted.

    Raises:
        UserError: no record holds a positive loss, or the file cannot be written.
    """
    steps, loss = _series(records, "loss")
    if not len(steps):
        raise UserError(
            f"none of {len(records)} records holds a positive loss; train until the "
            "first report, then plot."
        )
    quartiles = [_series(records, f"loss_q{i}") for i in range(len(_QUARTILE_NAMES))]
    has_quartiles = any(len(s) for s, _ in quartiles)
    inches = 11 if has_quartiles else 6.2
    figure = _figure(inches, 4.2, layout=None)
    # Every run draws this one, and to work out the margins takes longer than to draw.
    margins = {"left": 0.85 / inches, "right": 1 - 0.2 / inches}
    figure.subplots_adjust(**margins, bottom=0.125, top=0.86, wspace=0.22)
    panels = figure.subplots(1, 2 if has_quartiles else 1, squeeze=False)[0]
    width = smoothing * (steps[-1] - steps[0])
    panels[0].plot(steps, loss, color=_FAINT, alpha=0.45, linewidth=0.8)
    panels[0].plot(steps, smooth(steps, loss, width), color=_INK, linewidth=1.8)
    _finish(panels[0], "training loss")
    if has_quartiles:
        _draw_quartiles(panels[1], quartiles, width)
    if title:
        figure.suptitle(title, color=_INK, fontsize=11)
    _save(path, figure)


def plot_bound(
    path: str | Path,
    times: np.ndarray,
    terms: np.ndarray,
    rate: np.ndarray,
    distortion: np.ndarray,
    *,
    title: str = "",
) -> None:
    """Draw the variational bound: its terms, the rate by t, and the distortion.

    Args:
        path: where to write the image.
        times: t of each term, rising [N]; t = 0 is the decoder.
        terms: L_0, L_1, ..., bits/dim [N].
        rate: bits/dim paid once x_t is known, [N].
        distortion: root mean square error of x_0 predicted from x_t, 0..255, [N].
        title: line above the image.

    Raises:
        UserError: the file cannot be written.

    The two panels on the right follow figure 5 of Ho et al. 2020.
    """
    figure = _figure(13, 4.2)
    panels = figure.subplots(1, 3)
    positive = terms > 0  # a logarithm has no place for a term that rounding made 0
    panels[0].plot(times[positive] + 1, terms[positive], color=_INK, linewidth=1.4)
    panels[0].plot(times[:1] + 1, terms[:1], "o", color=_INK, markersize=4)
    panels[0].set(xscale="log", yscale="log", xlabel="step t + 1 (1: the decoder)")
    _name(panels[0], "terms of the bound", "bits/dim")
    panels[1].plot(times, rate, color=_INK, linewidth=1.6)
    panels[1].plot(times[:1], [rate[0] + terms[0]], "o", color=_INK, markersize=4)
    panels[1].set(xlabel="t, from noise to image")
    panels[1].invert_xaxis()
    _name(panels[1], "rate: paid by t (dot: with the decoder)", "bits/dim")
    panels[2].plot(rate, distortion, color=_INK, linewidth=1.6)
    panels[2].set(xlabel="rate (bits/dim)", ylim=(0, None))
    _name(panels[2], "distortion of the predicted image", "RMSE on 0..255")
    if title:
        figure.suptitle(title, color=_INK, fontsize=11)
    _save(path, figure)


def _figure(
    width: float,
    height: float,
    layout: Literal["constrained"] | None = "constrained",
) -> "Figure":
    """Begin a figure of this size, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)
    figure.set_layout_engine(layout)
    return figure


class Line(NamedTuple):
    """One curve: values over x with their standard errors, NaN where unknown."""

    label: str
    x: Sequence[float]
    values: Sequence[float]
    errors: Sequence[float]


class Panel(NamedTuple):
    """One score: its curves, and the value that real images reach, if known."""

    title: str
    lines: Sequence[Line]
    baseline: float | None


def plot_scores(
    path: str | Path, x_name: str, panels: Sequence[Panel], *, title: str = ""
) -> None:
    """Draw scores over what was varied, one panel per score, as a PNG.

    Args:
        path: where to write the image.
        x_name: name of the horizontal axis.
        panels: one or more.
        title: line above the image.

    Raises:
        UserError: the file cannot be written.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(4.3 * columns, 3.4 * rows)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        _draw_panel(axes, panel, x_name)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    places[0].legend(frameon=False, fontsize=8, labelcolor=_INK)
    if title:
        figure.suptitle(title, color=_INK, fontsize=9)
    _save(path, figure)


def _draw_panel(axes: "Axes", panel: Panel, x_name: str) -> None:
    for line, color in zip(panel.lines, itertools.cycle(_LINE_COLORS), strict=False):
        axes.errorbar(
            line.x,
            line.values,
            yerr=np.nan_to_num(line.errors),
            color=color,
            marker="o",
            markersize=4,
            linewidth=1.6,
            capsize=2,
            label=line.label,
        )
    if panel.baseline is not None:
        axes.axhline(
            panel.baseline,
            color=_FAINT,
            linestyle="--",
            linewidth=1.2,
            label="real images",
        )
    axes.set_xlabel(x_name)
    _name(axes, panel.title, "")
    if max(max(line.x) for line in panel.lines) >= 1000:
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _name(axes: "Axes", title: str, unit: str) -> None:
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    axes.grid(True, which="major", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)


def draw_points(frames: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Draw scatter plots on the same axes.

    Args:
        frames: [K, N, 2], points of each plot.
        low: [2], where the axes begin.
        high: [2], where they end.

    Returns:
        uint8 [K, H, W, 3].
    """
    figure = _figure(2.5, 2.5)
    axes = figure.subplots()
    spots = axes.scatter([], [], s=4, color=_LINE_COLORS[0], linewidths=0)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")

    def show(k: int) -> None:
        spots.set_offsets(frames[k])

    return _animate(figure, [spots], show, len(frames))


def draw_density(
    values: np.ndarray, low: float, high: float, *, title: str = ""
) -> np.ndarray:
    """Draw a density over a square as a heat map, dark where there is none.

    Colors go by its fourth root, so that what lies between narrow modes is seen too.

    Args:
        values: at the centers of its pixels, [R, R], by x and then y.
        low: where both axes begin.
        high: where they end.
        title: line above.

    Returns:
        uint8 [H, W, 3].
    """
    from matplotlib.colors import PowerNorm

    figure = _figure(4.6, 4.2)
    axes = figure.subplots()
    shown = axes.imshow(
        values.T,
        origin="lower",
        extent=(low, high, low, high),
        cmap="magma",
        norm=PowerNorm(0.25, 0.0, float(values.max())),
    )
    figure.colorbar(shown, ax=axes, shrink=0.85)
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    return _pixels(figure)


def draw_trajectories(
    frames: np.ndarray, values: np.ndarray, low: float, high: float
) -> np.ndarray:
    """Animate points over the contours of a density, each with the path behind it.

    Args:
        frames: [K, N, 2], in the order of the chain.
        values: of the density, as of `draw_density`.
        low: where both axes begin.
        high: where they end.

    Returns:
        uint8 [K, H, W, 3].
    """
    from matplotlib.collections import LineCollection

    figure = _figure(3.6, 3.6)
    axes = figure.subplots()
    middle = low + (np.arange(len(values)) + 0.5) * (high - low) / len(values)
    # Even steps of the logarithm: a narrow mode shows more than one line.
    levels = values.max() * np.exp(-np.array([4.5, 3.0, 2.0, 1.0, 0.3]))
    axes.contour(middle, middle, values.T, levels, cmap="Greys", linewidths=0.8)
    paths = LineCollection([], colors=_QUARTILE_COLORS[1], linewidths=0.5, alpha=0.5)
    axes.add_collection(paths)
    spots = axes.scatter([], [], s=5, color=_LINE_COLORS[1], linewidths=0, zorder=3)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")

    def show(k: int) -> None:
        spots.set_offsets(frames[k])
        paths.set_segments(list(frames[max(0, k - 11) : k + 1].swapaxes(0, 1)))

    return _animate(figure, [paths, spots], show, len(frames))


class Field(NamedTuple):
    """Arrows at places of the plane.

    Attributes:
        title: line above.
        arrows: [M, M, 2], by x and then y.
    """

    title: str
    arrows: np.ndarray


def draw_fields(
    fields: Sequence[Sequence[Field]], low: float, high: float
) -> np.ndarray:
    """Draw vector fields side by side, colored by their length.

    Fields in one row have the same scale of colors; arrows show directions alone.

    Args:
        fields: rows of equal length.
        low: where both axes begin.
        high: where they end.

    Returns:
        uint8 [H, W, 3].
    """
    rows, columns = len(fields), len(fields[0])
    figure = _figure(2.7 * columns, 2.8 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for places, row in zip(panels, fields, strict=True):
        lengths = [np.linalg.norm(field.arrows, axis=-1) for field in row]
        most = max(float(length.max()) for length in lengths)
        for axes, field, length in zip(places, row, lengths, strict=True):
            num = len(length)
            line = low + (np.arange(num) + 0.5) * (high - low) / num
            unit = field.arrows / np.maximum(length, 1e-12)[..., None]
            axes.imshow(
                length.T,
                origin="lower",
                extent=(low, high, low, high),
                cmap="Blues",
                vmin=0,
                vmax=most,
            )
            axes.quiver(
                line,
                line,
                unit[..., 0].T,
                unit[..., 1].T,
                color=_INK,
                scale=num * 1.3,
                width=0.004,
            )
            axes.set_title(field.title, fontsize=8, loc="left", color=_INK)
            axes.tick_params(labelsize=6)
    return _pixels(figure)


def draw_curves(frames: np.ndarray, low: float, high: float) -> np.ndarray:
    """Draw rows of numbers as curves, as many as can be distinguished.

    Args:
        frames: [K, N, D], rows of each plot, all on the same axes.
        low: where the axis of values begins.
        high: where it ends.

    Returns:
        uint8 [K, H, W, 3].
    """
    frames = frames[:, :_MOST_CURVES]
    figure = _figure(2.5, 2.5)
    axes = figure.subplots()
    marker = "o" if frames.shape[2] == 1 else None
    curves = [
        axes.plot(row, color=color, linewidth=1, marker=marker, markersize=2)[0]
        for row, color in zip(frames[0], itertools.cycle(_LINE_COLORS), strict=False)
    ]
    axes.set(ylim=(low, high))

    def show(k: int) -> None:
        for curve, row in zip(curves, frames[k], strict=True):
            curve.set_ydata(row)

    return _animate(figure, curves, show, len(frames))


def _animate(
    figure: "Figure",
    artists: Sequence["Artist"],
    show: Callable[[int], object],
    num_frames: int,
) -> np.ndarray:
    """Draw a figure once, and what changes in it on top for each frame.

    Args:
        figure: all of it.
        artists: what changes.
        show: sets these to what they are in a frame, given its number.
        num_frames: K.

    Returns:
        uint8 [K, H, W, 3].
    """
    for artist in artists:
        artist.set_animated(True)  # left out when the figure is drawn
    _pixels(figure)
    canvas: Any = figure.canvas
    rest = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for number in range(num_frames):
        canvas.restore_region(rest)
        show(number)
        for artist in artists:
            figure.draw_artist(artist)
        frames.append(np.array(canvas.buffer_rgba())[..., :3])
    return np.stack(frames)


def _pixels(figure: "Figure") -> np.ndarray:
    """Draw a figure; uint8 [H, W, 3]."""
    canvas: Any = figure.canvas  # Agg's, of `_figure`
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def smooth(steps: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Average each value with its neighbours in step, in logarithm.

    Args:
        steps: increasing [N].
        values: positive [N].
        width: length of the window, in steps. It is centred, at the start narrower
            so as to stay centred (a loss falls steeply there); at the end, where the
            future is missing, the past only.

    Returns:
        Geometric means [N]: on a logarithmic axis, the middle of the visible curve.
    """
    reach = np.minimum(width / 2, steps - steps[0])
    low = np.searchsorted(steps, steps - reach, side="left")
    high = np.searchsorted(steps, steps + reach, side="right")
    total = np.concatenate([[0.0], np.cumsum(np.log(values))])
    return np.exp((total[high] - total[low]) / (high - low))


def _series(
    records: Sequence[Mapping[str, float | None]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Collect (steps, values) where a value can stand on a logarithmic axis."""
    values = [(record["step"], record.get(name)) for record in records]
    pairs = [
        (step, value)
        for step, value in values
        if value is not None and math.isfinite(value) and value > 0
    ]
    table = np.array(sorted(pairs), np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _draw_quartiles(
    axes: "Axes", quartiles: list[tuple[np.ndarray, np.ndarray]], width: float
) -> None:
    for (steps, values), color, name in zip(
        quartiles, _QUARTILE_COLORS, _QUARTILE_NAMES, strict=True
    ):
        if not len(steps):
            continue
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.7)
        line = smooth(steps, values, width)
        axes.plot(steps, line, color=color, linewidth=1.8, label=name)
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    _finish(axes, "training loss by noise level")


def _finish(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import (
        EngFormatter,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    axes.set_yscale("log")
    axes.set_xlabel("training step")
    _name(axes, title, "loss")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    low, high = axes.get_ylim()
    if high / low < 5:  # too few powers of ten to read the axis by them alone
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    elif high / low < 100:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _save(path: str | Path, figure: "Figure") -> None:
    save_png(path, _pixels(figure))
