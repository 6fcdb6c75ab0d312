"""The Points tab: a person draws a set, trains a model on it, and sees its chain."""

import csv
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from ddpm_jax import data
from ddpm_jax.data.points import NAMES
from ddpm_jax.errors import UserError
from ddpm_jax.playground import canvas, panel, pictures, train_points
from ddpm_jax.playground.choices import number
from ddpm_jax.playground.scratch import make_room
from ddpm_jax.playground.train_points import Now
from ddpm_jax.runtime import files, images, plots
from ddpm_jax.sampling import plane

CANVAS = "points-canvas"
FILES = ("trajectories.gif", "points.csv")
_PIXELS = 96  # of the contours
_EDGE = 0.85  # of a preset, on the canvas
_NUM_PRESET = 1500
_COMMAND = "python main.py --config=configs/points.py --config.data.source=points:file:"
_FIRST = (
    "Draw a set of points, or take one of those below it; then train. A small network "
    "learns it in {steps:,} steps, from noise, while you watch."
)


class Desk(NamedTuple):
    """Where the tab works.

    Attributes:
        folder: for its pictures and files.
        device: held by the job that computes.
        closing: set when the server ends.
    """

    folder: Path
    device: Any
    closing: threading.Event


class _Asked(NamedTuple):
    drawing: gr.HTML
    preset: gr.Radio
    seed: gr.Number
    go: gr.Button
    stop: gr.Button


class _Shown(NamedTuple):
    status: gr.Markdown
    sheet: gr.Image
    slider: gr.Slider
    frames: gr.State  # paths of the chain's pictures
    downloads: list[gr.DownloadButton]


def points_tab(desk: Desk) -> None:
    """Lay out the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            asked = _lay_out_request()
        with gr.Column(scale=3, min_width=420):
            shown = _lay_out_result()
    asked.preset.change(
        panel.with_message(_preset),
        panel.as_sent(asked.preset),
        asked.drawing,
        show_progress="hidden",
        api_visibility="private",
    )
    _connect(desk, asked, shown)
    shown.slider.input(
        panel.with_message(_frame),
        [shown.frames, *panel.as_sent(shown.slider)],
        shown.sheet,
        show_progress="hidden",
        trigger_mode="always_last",
        queue=False,
        api_visibility="private",
    )


def _lay_out_request() -> _Asked:
    drawing = gr.HTML(
        {},
        html_template=canvas.TEMPLATE,
        css_template=canvas.CSS,
        js_on_load=canvas.SCRIPT,
        apply_default_css=False,
        elem_id=CANVAS,
    )
    preset = gr.Radio(
        list(NAMES), label="Or a set that is known", elem_id="points-preset"
    )
    seed = gr.Number(0, label="Seed", elem_id="points-seed")
    with gr.Row():
        go = gr.Button("Train", variant="primary", elem_id="points-go")
        stop = gr.Button("Stop", variant="stop", elem_id="points-stop")
    return _Asked(drawing, preset, seed, go, stop)


def _lay_out_result() -> _Shown:
    status = gr.Markdown(
        _FIRST.format(steps=train_points.NUM_STEPS),
        elem_id="points-status",
        elem_classes="status",
    )
    sheet = gr.Image(
        format="png",
        interactive=False,
        show_label=False,
        height=440,
        elem_id="points-sheet",
        buttons=["download", "fullscreen"],
    )
    slider = gr.Slider(
        0,
        train_points.NUM_FRAMES - 1,
        value=0,
        step=1,
        label="Trajectory: frame, from noise to points",
        interactive=True,
        elem_id="points-frame",
        buttons=[],
    )
    with gr.Row():
        downloads = [
            gr.DownloadButton(name, size="sm", interactive=False, elem_id=f"points-{i}")
            for i, name in enumerate(FILES)
        ]
    with gr.Accordion("Train on points.csv from the command line", open=False):
        gr.Code(
            f"{_COMMAND}points.csv",
            language="shell",
            lines=2,
            show_label=False,
            interactive=False,
            wrap_lines=True,
            elem_id="points-command",
        )
    return _Shown(status, sheet, slider, gr.State(()), downloads)


def _connect(desk: Desk, asked: _Asked, shown: _Shown) -> None:
    """Make the buttons start and stop a training."""

    def run(*given: Any) -> Iterator[tuple]:
        try:
            yield from _updates(desk, *given)
        except UserError as error:
            yield (panel.REFUSED, *[gr.skip()] * 5)
            raise panel.message(error) from error
        except Exception as error:
            yield (panel.REFUSED, *[gr.skip()] * 5)
            raise panel.defect(error) from error

    running = asked.go.click(
        run,
        panel.as_sent(asked.drawing, asked.seed),
        [*shown[:4], *shown.downloads],
        show_progress="minimal",
        show_progress_on=shown.status,
        api_visibility="private",
        **panel.ON_THE_DEVICE,
    )
    asked.stop.click(None, None, None, cancels=running)
    running.failure(
        panel.after_failure,
        panel.as_sent(shown.status),
        shown.status,
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )


def _preset(name: object) -> dict[str, Any]:
    if name not in NAMES:
        raise UserError(f"the set is not known; use {', '.join(NAMES)}.")
    points, _ = data.in_memory(data.load(f"points:{name}", split="train"))
    some = np.asarray(points[:_NUM_PRESET], np.float64)
    some = some * (_EDGE / np.abs(some).max())
    return {"points": np.round(some, 4).tolist()}


def _frame(frames: tuple[str, ...], place: object) -> str | None:
    """Return the path of a frame of the chain, as far as there is one."""
    index = int(number("the frame", place))
    return frames[min(max(index, 0), len(frames) - 1)] if frames else None


def _updates(desk: Desk, drawing: Any, seed: Any) -> Iterator[tuple]:
    """Train, and yield what changes: status, sheet, slider, frames, two files."""
    points = canvas.points_of(drawing)
    seed = int(number("the seed", seed, whole=True))
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed is {seed}; use 0 to {2**32 - 1}.")
    make_room(desk.folder)
    contours = _contours(points)
    empty = gr.DownloadButton(value=None, interactive=False)
    yield "Starting. The first training compiles.", *[gr.skip()] * 3, empty, empty
    with desk.device:
        for now in train_points.train_points(points, seed):
            if desk.closing.is_set():
                return
            if now.frames is None:
                yield _status(now), *[gr.skip()] * 5
            elif now.step < train_points.NUM_STEPS:
                (shown,) = plots.draw_trajectories(now.frames[-1:], contours, -1, 1)
                path = pictures.keep_sheet(desk.folder, shown)
                yield _status(now), path, *[gr.skip()] * 4
            else:
                yield _last(desk.folder, points, contours, now)


def _contours(points: np.ndarray) -> np.ndarray:
    density = plane.kernel_density(points, bandwidth=0.04)
    places = plane.Square(-1.0, 1.0).places(_PIXELS).reshape(-1, 2)
    return density(places).reshape(_PIXELS, _PIXELS)


def _last(folder: Path, points: np.ndarray, contours: np.ndarray, now: Now) -> tuple:
    assert now.frames is not None
    drawn = plots.draw_trajectories(now.frames, contours, -1, 1)
    paths = tuple(pictures.keep_sheet(folder, frame) for frame in drawn)
    animation, table = (folder / "points" / name for name in FILES)
    images.save_gif(animation, drawn, fps=10, hold_last=2.0)
    text = io.StringIO()
    csv.writer(text).writerows([("x", "y"), *np.round(points, 4).tolist()])
    files.write_text(table, text.getvalue())
    buttons = [
        gr.DownloadButton(value=str(p), interactive=True) for p in (animation, table)
    ]
    return (
        f"**Done.** {now.step:,} steps, {now.seconds:.1f} s. The slider goes through "
        "the chain: from noise to points.",
        paths[-1],
        gr.Slider(value=len(paths) - 1),
        paths,
        *buttons,
    )


def _status(now: Now) -> str:
    if now.loss is None:
        return "Starting. The first training compiles."
    return (
        f"Step {now.step:,} of {train_points.NUM_STEPS:,}, {now.seconds:.1f} s, "
        f"loss {now.loss:.3f}."
    )
