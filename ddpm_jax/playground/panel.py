"""Right side of a tab: the output of a job, and its buttons.

Every button that computes queues for the one device, and the page shows its place.
"""

import functools
import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ddpm_jax.errors import UserError
from ddpm_jax.playground import pictures, work
from ddpm_jax.playground.jobs import Studio

# One job at a time, of whatever tab in whatever window.
ON_THE_DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
_STOPPED = "**Stopped.** What was sampled so far stays in the trajectory."
REFUSED = "**Not made.** The message says why."

Asked = dict[str, gr.components.Component]
"""Option of a recipe, or name of an image -> its input component."""


class Place(NamedTuple):
    """Where a tab stands: the model, its folder, the mode of main.py it is for."""

    studio: Studio
    folder: Path
    mode: str


class Shown(NamedTuple):
    """The outputs of a tab, beginning with those of `work.Answer`, in its order."""

    sheet: gr.Image
    status: gr.Markdown
    slider: gr.Slider
    watched: gr.State
    command: gr.Code
    view: gr.Radio
    files: tuple[gr.DownloadButton, ...]  # in the order of `pictures.FILES`


def lay_out(mode: str) -> Shown:
    """Lay out the sheet, the trajectory below, and the downloads."""
    status = gr.Markdown(
        "Nothing sampled yet.", elem_id=f"{mode}-status", elem_classes="status"
    )
    sheet = gr.Image(
        format="png",
        interactive=False,
        show_label=False,
        height=320,
        elem_id=f"{mode}-sheet",
        elem_classes="picture",
        buttons=["download", "fullscreen"],
    )
    slider = gr.Slider(
        0,
        1,
        value=0,
        step=1,
        label="Trajectory: frame, from noise to image",
        interactive=True,
        elem_id=f"{mode}-film",
        buttons=[],
    )
    view = gr.Radio(
        list(pictures.VIEWS),
        value=pictures.CHAIN,
        show_label=False,
        container=False,
        elem_id=f"{mode}-view",
    )
    with gr.Row():
        files = tuple(
            gr.DownloadButton(
                name, size="sm", min_width=90, interactive=False, elem_id=f"{mode}-{i}"
            )
            for i, name in enumerate(pictures.FILES)
        )
    with gr.Accordion(
        "The same from the command line", open=False, elem_id=f"{mode}-same"
    ):
        command = gr.Code(
            "",
            language="shell",
            lines=2,
            show_label=False,
            interactive=False,
            wrap_lines=True,
            elem_id=f"{mode}-command",
        )
    return Shown(sheet, status, slider, gr.State(None), command, view, files)


def connect(
    place: Place, asked: Asked, buttons: tuple[gr.Button, gr.Button], shown: Shown
) -> None:
    """Make the buttons run and stop the tab's job, and the slider its trajectory.

    Args:
        place: of the tab.
        asked: the inputs of the job.
        buttons: the one that runs it, and the one that stops it.
        shown: the outputs of the job.
    """
    go, stop = buttons
    names = list(asked)

    def run(*values: Any) -> Iterator[tuple]:
        *given, view = values
        asked = dict(zip(names, given, strict=True))
        try:
            for answer in work.answers(
                place.studio, place.folder, place.mode, asked, view
            ):
                yield _changes(answer)
        except UserError as error:
            yield _changes(work.Answer(status=REFUSED))
            raise message(error) from error
        except Exception as error:
            yield _changes(work.Answer(status=REFUSED))
            raise defect(error) from error

    running = go.click(
        run,
        as_sent(*asked.values(), shown.view),
        [*shown[:5], *shown.files],
        show_progress="minimal",
        show_progress_on=shown.status,
        api_visibility="private",
        **ON_THE_DEVICE,
    )
    stop.click(None, None, None, cancels=running)
    # After the job is gone, so that none of its steps is reported afterwards.
    running.failure(
        after_failure,
        as_sent(shown.status),
        shown.status,
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    for change in (shown.slider.input, shown.view.input):
        change(
            with_message(functools.partial(work.seen, place.folder)),
            [shown.watched, *as_sent(shown.slider, shown.view)],
            shown.sheet,
            show_progress="hidden",
            trigger_mode="always_last",
            queue=False,
            api_visibility="private",
        )


def after_failure(status: str) -> str:
    """Tell a stopped job from a refused one: both have failed."""
    return status if status == REFUSED else _STOPPED


def _changes(answer: work.Answer) -> tuple:
    """Translate an answer for gradio: what is to change of each component."""
    *fields, files = answer._replace(
        last_frame=work.KEEP
        if answer.last_frame is work.KEEP
        else gr.Slider(maximum=max(answer.last_frame, 1), value=answer.last_frame)
    )
    if files is work.KEEP:
        downloads = [work.KEEP] * len(pictures.FILES)
    else:
        downloads = [
            gr.DownloadButton(value=f, interactive=f is not None) for f in files
        ]
    return tuple(gr.skip() if x is work.KEEP else x for x in (*fields, *downloads))


def with_message(function: Callable) -> Callable:
    """Let what the user can mend appear as a message in the page."""

    def shielded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise message(error) from error
        except Exception as error:
            raise defect(error) from error

    return shielded


def as_sent(*inputs: gr.components.Component) -> list[gr.components.Component]:
    """Let an event have what was sent: gradio refuses types with a traceback.

    What the event calls checks them, with a sentence.
    """
    for component in inputs:
        component.preprocess = _unchanged
    return list(inputs)


def _unchanged(value: Any) -> Any:
    # An upload becomes a dataclass of gradio's before it gets here.
    return value.path if hasattr(value, "path") else value


def defect(error: Exception) -> gr.Error:
    """Report a fault of the program in the page; the terminal has the traceback."""
    return gr.Error(
        f"This is a defect of the page ({type(error).__name__}); the terminal in which "
        "it runs says more.",
        title="This failed",
    )


def message(error: UserError) -> gr.Error:
    """Report in the page what the user can mend."""
    # The text may quote what the user typed, and the page reads it as HTML.
    text = html.escape(str(error), quote=False)
    return gr.Error(text, title="This cannot work", print_exception=False)
