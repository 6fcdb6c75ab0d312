"""Images: conversion of arrays, grids and trajectory grids, files.

Convention: outside the networks an image is uint8 [H, W, C] with C = 1 (grey), 3 (RGB)
or 4 (RGBA, not premultiplied); inside, float32 in [-1, 1]. Sheets and files of RGBA are
transparent where the images are. Any other number of channels (stacked fields) is drawn
as that many grey panels side by side, so that every channel is visible and no color
invented.

A file appears under its name only when complete: it is written beside it, then renamed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

Array = np.ndarray | jax.Array
Kind = TypeVar("Kind", np.ndarray, jax.Array)

_LEGIBLE = 64  # pixels; smaller images are upscaled to at least this on a sheet
_RGBA = 4
_IN_FILES = (1, 3, _RGBA)  # numbers of channels
_CHECK = 8  # pixels of a checkerboard's squares
_CHECK_LEVELS = (255, 204)  # white and light grey
_FASTEST_GIF = 50  # frames a second; a GIF counts time in hundredths


def to_float(images: Kind) -> Kind:
    """Map bytes to the networks' range: 0 to -1 and 255 to 1.

    Args:
        images: uint8 [...], NumPy or JAX, also under `jit`.

    Returns:
        float32 [...] in [-1, 1], of the same kind of array.

    Raises:
        ValueError: `images` is not uint8.
    """
    _check_bytes(images)
    # Not x / 127.5 - 1: XLA turns that into a fused multiply-add with the rounded
    # reciprocal, which maps 255 to 1.0000001. The difference here is exact.
    return (images.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)


def psnr(errors: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB, its mean over images.

    It is 10 log10(4 / mean squared error) for images in [-1, 1], and at most 120.

    Args:
        errors: mean squared error of each image, [N].
    """
    return float((10 * np.log10(4.0 / np.maximum(errors, 4e-12))).mean())


def to_uint8(images: Kind) -> Kind:
    """Map [-1, 1] to the nearest byte, clipping what lies outside; undoes `to_float`.

    Rounding to nearest matters: truncation, a common mistake, darkens every image by
    half a level and does not invert `to_float`.

    Args:
        images: floating point [...], NumPy or JAX, also under `jit`.

    Returns:
        uint8 [...], of the same kind of array.

    Raises:
        ValueError: not floating point, or (outside `jit`, where values are known)
            holding a NaN or infinity, which would otherwise turn black or white.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images of dtype {images.dtype}, want floating point in [-1, 1]; "
            "uint8 images need no conversion."
        )
    xp = jnp if isinstance(images, jax.Array) else np
    if not isinstance(images, jax.core.Tracer):
        bad = int((~xp.isfinite(images)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {images.size} pixel values are NaN or infinite; find "
                "where they arise."
            )
    levels = (images.astype(np.float32) + np.float32(1)) * np.float32(127.5)
    return xp.clip(xp.round(levels), 0, 255).astype(np.uint8)


def grid(
    images: Array,
    *,
    columns: int | None = None,
    padding: int = 2,
    upscale: int | None = None,
    background: int = 255,
) -> np.ndarray:
    """Lay images out on one sheet, row by row.

    Args:
        images: uint8 [N, H, W, C].
        columns: images a row; None makes the sheet about square.
        padding: pixels between images and around the sheet.
        upscale: whole factor of nearest-neighbor upscaling; None upscales until the
            shorter side has 64 pixels.
        background: grey level of the padding and of empty places in the last row; with
            RGBA these are transparent.

    Returns:
        uint8 [rows * (h + padding) + padding, columns * (w + padding) + padding, c],
        with h, w the upscaled size and c = 1, 3 or 4.

    Raises:
        ValueError: `images` is not uint8 [N, H, W, C] with N > 0, or a count is not
            positive.
    """
    images = _panels(_as_bytes(images, "NHWC"))
    num_images, height, width, channels = images.shape
    if columns is None:
        columns = math.ceil(math.sqrt(num_images))
    if upscale is None:
        upscale = math.ceil(_LEGIBLE / min(height, width))
    if min(columns, upscale) < 1 or padding < 0:
        raise ValueError(
            f"columns={columns}, upscale={upscale}, padding={padding}; want at least "
            "1, 1 and 0."
        )
    images = images.repeat(upscale, axis=1).repeat(upscale, axis=2)
    rows = math.ceil(num_images / columns)
    step_y, step_x = height * upscale + padding, width * upscale + padding
    shape = (rows * step_y + padding, columns * step_x + padding, channels)
    sheet = np.full(shape, background, np.uint8)
    if channels == _RGBA:
        sheet[..., -1] = 0
    for i, image in enumerate(images):
        y, x = padding + i // columns * step_y, padding + i % columns * step_x
        sheet[y : y + step_y - padding, x : x + step_x - padding] = image
    return sheet


def trajectory_grid(
    frames: Array,
    *,
    padding: int = 2,
    upscale: int | None = None,
    background: int = 255,
) -> np.ndarray:
    """Lay out N trajectories of K frames as one image: a row each, time to the right.

    Args:
        frames: uint8 [K, N, H, W, C], as recorded while sampling.
        padding: as in `grid`.
        upscale: as in `grid`.
        background: as in `grid`.

    Returns:
        uint8 image, as from `grid` with K columns.

    Raises:
        ValueError: `frames` is not uint8 [K, N, H, W, C].
    """
    frames = _as_bytes(frames, "KNHWC")
    in_rows = frames.swapaxes(0, 1).reshape(-1, *frames.shape[2:])
    return grid(
        in_rows,
        columns=len(frames),
        padding=padding,
        upscale=upscale,
        background=background,
    )


def save_png(path: str | Path, image: Array, *, durable: bool = True) -> None:
    """Write one image, making folders as needed.

    Args:
        path: where to; an existing file is replaced.
        image: uint8 [H, W, C], C = 1, 3 or 4.
        durable: wait until the disk has it; see `files.write`.

    Raises:
        ValueError: `image` has another dtype or shape.
        UserError: the file cannot be written.
    """
    encoded = _to_pillow(_as_bytes(image, "HWC"))
    files.write(path, lambda file: encoded.save(file, format="PNG"), durable=durable)


def save_images(
    folder: str | Path, images: Array, names: Sequence[str | int] | None = None
) -> list[Path]:
    """Write each image to its own PNG file, other numbers of channels as panels.

    Args:
        folder: made if it does not exist.
        images: uint8 [N, H, W, C].
        names: N file names without `.png`; None numbers them 000000, 000001, ...

    Returns:
        The paths written.

    Raises:
        ValueError: wrong dtype or shape, or names missing or repeated.
        UserError: a file cannot be written.
    """
    images = _panels(_as_bytes(images, "NHWC"))
    names = [f"{i:06d}" for i in range(len(images))] if names is None else names
    if len(set(map(str, names))) != len(images) or len(names) != len(images):
        raise ValueError(
            f"{len(names)} names, {len(set(map(str, names)))} of them different, for "
            f"{len(images)} images; give each image its own."
        )
    paths = [Path(folder) / f"{name}.png" for name in names]
    for path, image in zip(paths, images, strict=True):
        save_png(path, image, durable=False)
    return paths


def save_gif(
    path: str | Path, frames: Array, *, fps: float = 10.0, hold_last: float = 1.0
) -> None:
    """Write an animation that repeats for ever.

    Args:
        path: where to; an existing file is replaced.
        frames: uint8 [K, H, W, C], C = 1, 3 or 4. RGB is reduced to 256 colors a frame,
            and RGBA laid over a checkerboard.
        fps: frames a second, at most 50; rounded to whole hundredths of a second.
        hold_last: seconds for which the last frame stands.

    Raises:
        ValueError: wrong dtype or shape.
        UserError: `fps` or `hold_last` is out of range, or the file cannot be written.
    """
    frames = _as_bytes(frames, "KHWC")
    if frames.shape[-1] == _RGBA:
        frames = on_checkerboard(frames)
    converted = [_to_pillow(frame) for frame in frames]
    if not 0 < fps <= _FASTEST_GIF or hold_last < 0:
        raise UserError(
            f"fps={fps}, hold_last={hold_last}; want fps above 0 and at most "
            f"{_FASTEST_GIF}, hold_last 0 or more seconds."
        )
    durations = [10 * round(100 / fps)] * len(converted)
    durations[-1] = max(durations[-1], round(1000 * hold_last))
    first, rest = converted[0], converted[1:]
    files.write(
        path,
        lambda file: first.save(
            file,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=durations,
            loop=0,
        ),
    )


def save_webp(path: str | Path, frames: Array, *, fps: float = 10.0) -> None:
    """Write a WebP animation that repeats for ever, without loss.

    Args:
        path: where to; an existing file is replaced.
        frames: uint8 [K, H, W, C], C = 1, 3 or 4.
        fps: frames a second; rounded to whole thousandths of a second.

    Raises:
        ValueError: wrong dtype or shape.
        UserError: `fps` is out of range, or the file cannot be written.
    """
    first, *rest = (_to_pillow(frame) for frame in _as_bytes(frames, "KHWC"))
    if not 0 < fps <= 1000:
        raise UserError(f"fps={fps}; use more than 0, at most 1000.")
    files.write(
        path,
        lambda file: first.save(
            file,
            format="WEBP",
            save_all=True,
            append_images=rest,
            duration=round(1000 / fps),
            loop=0,
            lossless=True,
        ),
    )


def save_animation(path: str | Path, frames: Array, *, fps: float = 10.0) -> None:
    """Write an animation twice, `path`.gif that all show and `path`.webp without loss.

    Args:
        path: without an ending; existing files are replaced.
        frames: uint8 [K, H, W, C], C = 1, 3 or 4.
        fps: frames a second, at most 50.

    Raises:
        ValueError: wrong dtype or shape.
        UserError: `fps` is out of range, or a file cannot be written.
    """
    save_gif(f"{path}.gif", frames, fps=fps, hold_last=0.0)
    save_webp(f"{path}.webp", frames, fps=fps)


def on_checkerboard(images: np.ndarray) -> np.ndarray:
    """Composite RGBA over a checkerboard, which shows what is transparent.

    Args:
        images: uint8 [..., H, W, 4], colors not premultiplied.

    Returns:
        uint8 [..., H, W, 3].
    """
    height, width = images.shape[-3:-1]
    y, x = np.arange(height)[:, None] // _CHECK, np.arange(width) // _CHECK
    board = np.where((y + x) % 2 == 0, *_CHECK_LEVELS)[..., None].astype(np.int64)
    color, alpha = images[..., :3].astype(np.int64), images[..., 3:].astype(np.int64)
    laid = color * alpha + board * (255 - alpha)
    return ((laid + 127) // 255).astype(np.uint8)


def save_npz(path: str | Path, items: Array, labels: Array | None = None) -> None:
    """Write samples in the layout that evaluators of the field read.

    Args:
        path: where to; by custom it ends in `.npz`.
        items: uint8 [N, H, W, C], of which those evaluators want C = 3, or clips
            [N, F, H, W, C]; or float32 [N, ...].
        labels: integers [N], or None.

    Raises:
        ValueError: wrong dtype or shape, or the numbers of images and labels differ.
        UserError: the file cannot be written.

    Source: `arr_0` and `arr_1` are the names in openai/guided-diffusion, evaluations.
    """
    items = np.asarray(items)
    if items.dtype != np.float32:
        items = _as_bytes(items, "NHWC" if items.ndim <= len("NHWC") else "NFHWC")
    arrays: dict[str, Any] = {"arr_0": items}
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != items.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels are {labels.dtype} {list(labels.shape)}, want integers "
                f"[{len(items)}], one for each image."
            )
        arrays["arr_1"] = labels
    files.write(path, lambda file: np.savez(file, **arrays))


def _check_bytes(images: Array) -> None:
    if images.dtype != np.uint8:
        raise ValueError(
            f"images of dtype {images.dtype}, want uint8; to_uint8 converts [-1, 1]."
        )


def _as_bytes(images: Array, axes: str) -> np.ndarray:
    """Bring images to the host and check them against axes such as "NHWC"."""
    images = np.asarray(images)
    _check_bytes(images)
    if images.ndim != len(axes) or 0 in images.shape:
        raise ValueError(
            f"images of shape {list(images.shape)}, want [{', '.join(axes)}] with no "
            "axis empty."
        )
    return images


def _panels(images: np.ndarray) -> np.ndarray:
    num_images, height, width, channels = images.shape
    if channels in _IN_FILES:
        return images
    beside = images.transpose(0, 1, 3, 2)  # [N, H, C, W]
    return beside.reshape(num_images, height, channels * width, 1)


def _to_pillow(image: np.ndarray) -> Image.Image:
    if image.shape[-1] not in _IN_FILES:
        raise ValueError(
            f"image of shape {list(image.shape)}, want 1, 3 or 4 channels; "
            "grid draws other numbers as grey panels."
        )
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
