"""Button handlers: jobs started, reported and refused.

Nothing here depends on gradio. A field that is not to change is KEEP.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.playground import jobs, pictures
from ddpm_jax.playground.choices import chosen, command_line, labels_text, number
from ddpm_jax.playground.jobs import Progress, Studio
from ddpm_jax.playground.scratch import make_room
from ddpm_jax.requests import COMMANDS, Edit, Sample
from ddpm_jax.sampling.plan import Trajectory

KEEP = object()  # "leave what is there", in an Answer
PICTURES = {  # the input images of each mode, by the names of its fields
    "image-to-image": ("picture",),
    "inpaint": ("picture",),
    "interpolate": ("picture", "other"),
    "variations": ("picture",),
    "text-diff": ("picture",),
}
NAMED = {"picture": "the picture", "other": "the other picture"}
_NUM_FOLDERS = 32  # of results; then the oldest is written over


class Watched(NamedTuple):
    """The state of a tab: a trajectory, and how its sheets are laid out."""

    trajectory: Trajectory
    columns: int | None


class Answer(NamedTuple):
    """A job's update of the page; any field may be KEEP."""

    sheet: Any = KEEP  # path of an image
    status: Any = KEEP  # a line
    last_frame: Any = KEEP  # number of the newest frame
    watched: Any = KEEP  # Watched
    command: Any = KEEP  # a line for the shell
    files: Any = KEEP  # a path for each of `pictures.FILES`, or None


def answers(
    studio: Studio, folder: Path, mode: str, asked: Mapping[str, Any], view: str
) -> Iterator[Answer]:
    """Run the job of a tab.

    Args:
        studio: the model.
        folder: for uploads and results.
        mode: of main.py.
        asked: options by their names in a recipe; beside them "picture" and "other",
            uploaded files, "mask", from the painter, and "level", from 1 to T, to which
            an image is noised.
        view: of the trajectory, while it grows.

    Yields:
        Updates of the page, as the work goes on.

    Raises:
        UserError: saying what to change.
    """
    _check_view(view)
    make_room(folder)
    request, job = _begun(studio, folder, mode, asked)
    yield Answer(
        status="Starting. What was not asked for before is compiled first.",
        files=[None] * len(pictures.FILES),
        command=command_line(studio.recipe, request, str(studio.workdir)),
    )
    frames = 0
    try:
        for now in job:
            if now.point.items is not None:
                yield _last(folder, request.film_images, now)
            elif now.point.trajectory.x_t and len(now.point.trajectory.x_t) != frames:
                frames = len(now.point.trajectory.x_t)
                yield _next(folder, now, view)
            else:
                yield Answer(status=_status(now))
    except jax.errors.JaxRuntimeError as error:
        text = str(error).splitlines()[0]
        raise UserError(
            f"the device gave up ({text}); draw fewer images at a time."
        ) from error
    finally:
        job.close()


def _begun(
    studio: Studio, folder: Path, mode: str, asked: Mapping[str, Any]
) -> tuple[Sample | Edit, Generator[Progress, None, None]]:
    recipe, info = studio.recipe, studio.trained.info
    most = jobs.most_images(recipe)
    options = {name: value for name, value in asked.items() if "." in name}
    if "sample.labels" in options:
        options["sample.labels"] = labels_text(options["sample.labels"] or (), info)
    if (level := asked.get("level")) is not None:
        share = number("the level", level) / recipe.task.schedule.num_levels
        options["edit.strength"] = share
    if mode == "sample":
        drawn = chosen(recipe, info, Sample, options, most_images=most)
        return drawn, jobs.draw(studio, drawn)
    kept = [
        pictures.keep_upload(folder, asked[name], NAMED[name])
        for name in PICTURES[mode]
    ]
    options["edit.image"] = ",".join(kept)
    if mode == "inpaint":
        size = info.image_shape[:2]
        options["edit.mask"] = pictures.keep_mask(folder, asked["mask"], size)
    kind = cast(type[Edit], COMMANDS[f"edit {mode}"])
    edited = chosen(recipe, info, kind, options, most_images=most)
    return edited, jobs.edit(studio, edited)


def _next(folder: Path, now: Progress, view: str) -> Answer:
    last = len(now.point.trajectory.x_t) - 1
    pixels = pictures.frame(now.point.trajectory, last, view, now.columns)
    return Answer(
        sheet=pictures.keep_sheet(folder, pixels),
        status=_status(now),
        last_frame=last,
        watched=Watched(now.point.trajectory, now.columns),
    )


def _last(folder: Path, film_images: int, now: Progress) -> Answer:
    assert now.point.items is not None  # the last of a job has them
    place = _results_folder(folder)
    return Answer(
        sheet=pictures.keep_sheet(folder, pictures.sheet(now.point.items, now.columns)),
        status=_status(now),
        files=pictures.write_results(place, now, film_images),
    )


def _status(now: Progress) -> str:
    if now.point.items is not None:
        return f"**Done.** {now.point.num_steps} steps, {now.seconds:.1f} s."
    stage = (
        ""
        if now.point.num_stages == 1
        else f"Stage {now.point.stage + 1} of {now.point.num_stages}. "
    )
    return (
        f"{stage}Step {now.point.step} of {now.point.num_steps}, {now.seconds:.1f} s."
    )


def _results_folder(folder: Path) -> Path:
    used = sorted(folder.glob("results-*"), key=lambda path: path.stat().st_mtime)
    if len(used) < _NUM_FOLDERS:
        return folder / f"results-{len(used)}"
    used[0].touch()
    return used[0]


def seen(folder: Path, watched: Watched | None, place: object, view: str) -> str | None:
    """Show a frame of a trajectory, as far as there is one.

    Args:
        folder: of the page.
        watched: the state of the tab.
        place: number of the frame, from a request.
        view: of `pictures.VIEWS`, from a request.

    Returns:
        The path of an image.

    Raises:
        UserError: there is no such frame or view.
    """
    _check_view(view)
    frame = int(number("the frame", place))
    if watched is None:
        return None
    pixels = pictures.frame(watched.trajectory, frame, view, watched.columns)
    return pictures.keep_sheet(folder, pixels)


def _check_view(view: object) -> None:
    if view not in pictures.VIEWS:
        raise UserError(f"the view is not known; use {' or '.join(pictures.VIEWS)}.")


def example_reader(studio: Studio) -> Callable[[object], np.ndarray]:
    """Make a function from a number to that example of the model's data.

    The data are opened when it is first called, and kept.
    """
    opened: list[Any] = []

    def read(which: object) -> np.ndarray:
        index = -1 if which is None else number("the example", which, whole=True)
        if not opened:
            opened.append(studio.recipe.task.data.open())
        source: Sequence = opened[0].source
        if not 0 <= index < len(source):
            raise UserError(
                f"example {which} is not among the model's data; use 0 to "
                f"{len(source) - 1}."
            )
        return source[int(index)]["image"]

    return read
