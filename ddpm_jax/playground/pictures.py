"""Images in and out: trajectories as sheets and files, uploads and masks."""

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_jax import data
from ddpm_jax.errors import UserError
from ddpm_jax.playground.gate import MAX_UPLOAD
from ddpm_jax.playground.jobs import Progress
from ddpm_jax.playground.scratch import own_file
from ddpm_jax.runtime import files, images
from ddpm_jax.runtime.results import LAST_FILE
from ddpm_jax.sampling.plan import Trajectory
from ddpm_jax.sampling.result_files import (
    TRAJECTORY_FILES,
    write_items,
    write_trajectory,
)

CHAIN, BELIEF = "x_t, the chain", "x0, as the network sees it"
VIEWS = (CHAIN, BELIEF)
ARRAYS = "images.npz"
FILES = LAST_FILE, *TRAJECTORY_FILES, ARRAYS


def sheet(shown: np.ndarray, columns: int | None) -> np.ndarray:
    """Lay images out as the command line does, for the page.

    Args:
        shown: uint8 [B, H, W, C].
        columns: images that stand side by side; None for about a square.

    Returns:
        uint8 [H', W', 3], or [H', W'] if grey.
    """
    drawn = images.grid(shown, columns=columns)
    return drawn[..., 0] if drawn.shape[-1] == 1 else drawn


def frame(
    trajectory: Trajectory, number: int, view: str, columns: int | None
) -> np.ndarray:
    """Lay one frame of a trajectory out as a `sheet`.

    Args:
        trajectory: of a job.
        number: of the frame, 0 being the noise; those beyond the end are the last.
        view: CHAIN, or BELIEF; the network has no belief about frame 0, so that of
            frame 1 stands for it.
        columns: images that stand side by side.
    """
    number = min(max(number, 0), len(trajectory.x_t) - 1)
    if view == BELIEF and trajectory.x0:
        shown = trajectory.x0[max(number, 1) - 1]
    else:
        shown = trajectory.x_t[number]
    return sheet(shown, columns)


def keep_sheet(folder: Path, pixels: np.ndarray) -> str:
    """Write a sheet as a file that is named by its bytes, and never changes after.

    gradio would write the same pixels over the file that it wrote for them before,
    which a browser may be reading: the end of a chain has the sheet of its last step.

    Args:
        folder: of the page.
        pixels: of a `sheet`, uint8 [H, W, 3] or [H, W].

    Returns:
        The file's path.
    """
    content = f"{pixels.shape}".encode() + pixels.tobytes()
    path = folder / "sheets" / f"{hashlib.sha256(content).hexdigest()[:24]}.png"
    if not path.exists():
        images.save_png(path, pixels.reshape(*pixels.shape[:2], -1))
    return str(path)


def write_results(folder: Path, done: Progress, film_images: int) -> list[str]:
    """Write what a job made, for download, by the names that the command line uses.

    Args:
        folder: where to; its files are replaced.
        done: the last of a job.
        film_images: rows of the trajectory grids, at most.

    Returns:
        The paths of `FILES`.
    """
    assert done.point.items is not None  # the last of a job has them
    x_t, x0 = map(np.stack, done.point.trajectory)
    write_trajectory(folder, Trajectory(x_t, x0), done.columns, rows=film_images)
    sheet = images.grid(done.point.items, columns=done.columns)
    write_items(folder, done.point.items, sheet, arrays_file=ARRAYS)
    paths = [folder / name for name in FILES]
    return [str(path) for path in paths]


def keep_upload(folder: Path, path: object, what: str) -> str:
    """Copy an uploaded file to a name that an option can hold.

    Args:
        folder: of the page; the upload lies in it.
        path: of the upload, from a request; None if there is none.
        what: the image is, for the message.

    Returns:
        The copy's path, which a comma in a file's name cannot split.

    Raises:
        UserError: there is no file, it is not an upload, or it is too large.
    """
    if not path:
        raise UserError(
            f"{what} is missing; upload one, or take an example of the data."
        )
    upload = own_file(folder, path)
    if upload.stat().st_size > MAX_UPLOAD:
        raise UserError(
            f"{what} is larger than {MAX_UPLOAD // 2**20} MiB; give a smaller file."
        )
    content = upload.read_bytes()
    kept = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.picture"
    files.write_bytes(kept, content)
    return str(kept)


def canvas(path: str, image_shape: tuple[int, int, int], *, padded: bool) -> dict:
    """Prepare an uploaded image for the painter: brought to the model's size.

    Raises:
        UserError: it is no image.
    """
    pixels = data.read_image(path, image_shape, padded=padded)
    height, width, channels = pixels.shape
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    url = f"data:image/png;base64,{encoded}"
    return {"picture": url, "height": height, "width": width, "mask": ""}


def keep_mask(folder: Path, painted: Any, size: tuple[int, int]) -> str:
    """Write a painted mask as the file that an edit reads, white to be filled.

    Args:
        folder: of the uploads.
        painted: value of the painter.
        size: (H, W) of the model's images.

    Returns:
        The file's path.

    Raises:
        UserError: nothing is painted, or everything.
    """
    text = painted.get("mask", "") if isinstance(painted, Mapping) else ""
    if not isinstance(text, str) or len(text) != size[0] * size[1] or "1" not in text:
        raise UserError(
            "nothing is painted; paint on the picture what is to be filled."
        )
    if "0" not in text:
        raise UserError("all is painted; leave something of the picture to be kept.")
    white = np.frombuffer(text.encode(), np.uint8).reshape(*size, 1) == ord("1")
    pixels = white.astype(np.uint8) * 255
    path = folder / f"mask-{hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}.png"
    images.save_png(path, pixels)
    return str(path)


def keep_example(folder: Path, pixels: np.ndarray, number: int) -> str:
    """Write an example of the model's data as a file, for an image's place.

    Args:
        folder: of the uploads.
        pixels: uint8 [H, W, C].
        number: of the example.
    """
    path = folder / f"data-{number}.png"
    images.save_png(path, pixels)
    return str(path)
