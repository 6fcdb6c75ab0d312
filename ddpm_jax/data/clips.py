"""Clips of a person's own: animations, videos, and folders of frames.

| what                     | how it is read                                         |
| ------------------------ | ------------------------------------------------------ |
| .gif, .webp, .png        | the frames of an animation, as Pillow composes them    |
| .mp4, .mov, .mkv, .webm  | by PyAV, which has to be installed: `pip install av`   |
| .npy                     | uint8 [F, H, W, C], or [F, H, W] for grey              |
| a folder of images       | its files in the order of their names                  |

`clips:FOLDER` is a data set of what lies in a folder, each file or folder in it being a
clip. A clip longer than a model's is cut into several, what is left over is passed by.
`clips:FOLDER:16` cuts into 16 frames, without a number into 8. All frames of a clip
have to be of one size; how often a second they were taken is not looked at.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import MAX_BYTES, Arrays, Dataset, fingerprint_of
from ddpm_jax.data.hold_out import check_split, split_indices
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import capacity, files
from ddpm_jax.runtime.image_file import BROKEN, SUFFIXES, open_image, reason_of

ANIMATIONS = (".gif", ".webp", ".png")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm")
NUM_FRAMES, _MOST_FRAMES = 8, 1024
_KNOWN = f"{', '.join((*ANIMATIONS, *VIDEOS, '.npy'))} or a folder of frames"


def read_clip(path: str | Path, layout: layouts.Layout) -> np.ndarray:
    """Read a clip, each frame brought to one layout.

    Args:
        path: of the clip.
        layout: what is open in it is taken from the first frame.

    Returns:
        uint8 [F, H, W, C].

    Raises:
        UserError: it is no clip, or a frame is damaged or of another size, naming it.
    """
    path = Path(path).expanduser()
    name = files.printable(str(path))
    frames, size = [], None
    number = 0
    source = _frames(path, name)
    while True:
        try:
            image = next(source, None)
            if image is None:
                break
            if size is not None and image.size != size:
                raise UserError(
                    f"frame {number} of {name} is {_sides(image.size)}, and those "
                    f"before are {_sides(size)}; give frames of one size."
                )
            if size is None:
                size = image.size
                native = (image.height, image.width, _channels(image))
                layout = layouts.complete(layout, native, name)
            frames.append(layouts.arrange(_unenlarged(image, layout), layout))
        except BROKEN as error:
            raise UserError(
                f"cannot read frame {number} of {name} ({reason_of(error)}); give "
                f"{_KNOWN}."
            ) from error
        number += 1
    if not frames:
        raise UserError(f"{name} has no frames; give {_KNOWN}.")
    return np.stack(frames)


def _unenlarged(image: Image.Image, layout: layouts.Layout) -> Image.Image:
    """Undo the enlargement by whole factors with which clips are shown."""
    if layout.size is None:
        return image
    height, width = layout.size
    factor = image.height // height
    if factor < 2 or image.size != (factor * width, factor * height):
        return image
    small = image.resize((width, height), Image.Resampling.NEAREST)
    again = small.resize(image.size, Image.Resampling.NEAREST)
    return small if again.tobytes() == image.tobytes() else image


def _sides(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _channels(image: Image.Image) -> int:
    return 1 if image.mode in ("1", "L", "LA", "I", "I;16", "F") else 3


def _frames(path: Path, name: str) -> Iterator[Image.Image]:
    """Yield the frames of a clip.

    Raises:
        UserError: it is no clip, or what reads it is missing.
        OSError: or another of `BROKEN`: the frame is damaged.
    """
    if path.is_dir():
        for file in _images_in(path):
            with open_image(file) as image:
                yield image.copy()
        return
    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        yield from _video_frames(path)
    elif suffix == ".npy":
        yield from _array_frames(path, name)
    elif suffix in ANIMATIONS:
        with open_image(path) as image:
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                yield image.convert("RGBA") if image.mode == "P" else image.copy()
    else:
        raise UserError(f"{name} is no clip; give {_KNOWN}.")


def _images_in(folder: Path) -> list[Path]:
    found = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    return sorted(found, key=lambda file: _natural(file.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Order frame-2 before frame-10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _array_frames(path: Path, name: str) -> Iterator[Image.Image]:
    try:
        frames = files.read_npy(path, mmap_above=MAX_BYTES)
    except files.DamagedError as error:
        raise UserError(
            f"cannot read {name} ({error}); write it by np.save."
        ) from error
    if frames.ndim == 4 and frames.shape[-1] == 1:
        frames = frames[..., 0]
    is_color = frames.ndim == 4 and frames.shape[-1] in (3, 4)
    if frames.dtype != np.uint8 or not (is_color or frames.ndim == 3):
        raise UserError(
            f"{name} holds {frames.dtype} {'x'.join(map(str, frames.shape))}; a clip "
            "is uint8, frames x height x width x channels of 1, 3 or 4."
        )
    yield from map(Image.fromarray, frames)


def _video_frames(path: Path) -> Iterator[Image.Image]:
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path.suffix} files are read by PyAV, which is not installed; install it "
            "with pip install av, or give a .gif."
        ) from None
    try:
        with av.open(str(path)) as video:
            for frame in video.decode(video=0):
                yield frame.to_image()
    except (av.FFmpegError, IndexError) as error:
        raise OSError(str(error)) from error


# --- A folder of clips ----------------------------------------------------------------


def load_clips(
    rest: str, *, split: str, layout: layouts.Layout, hold_out: int = 0
) -> Dataset:
    """Open a folder of clips as a data set of clips of one length.

    Args:
        rest: what is after "clips:": a folder, or FOLDER:FRAMES.
        split: train, all, or with `hold_out` test.
        layout: what frames are brought to; by default those of the first clip, and all
            must be of one size then.
        hold_out: N: every N-th clip, cut ones counted, is for testing; 0: none.

    Raises:
        UserError: there is no clip, or one cannot be read, or is too short.
        NoSplitError: no such split.
    """
    path, num_frames = _divide(rest)
    folder, name = Path(path).expanduser(), f"clips:{files.printable(rest)}"
    check_split(split, hold_out, name)
    found: list[np.ndarray] = []
    total, memory = 0, capacity.machine_memory()
    for file in _clips_in(folder, name):
        clip = read_clip(file, layout)
        shown = files.printable(str(file))
        if len(clip) < num_frames:
            raise UserError(
                f"{shown} has {len(clip)} frames, fewer than {num_frames}; take it "
                f"out, or write {name.rpartition(':')[0] or name}:{len(clip)}."
            )
        if found and clip.shape[1:] != found[0].shape[2:]:
            one = "x".join(map(str, clip.shape[1:]))
            other = "x".join(map(str, found[0].shape[2:]))
            raise UserError(
                f"{shown} has frames of {one}, and clips before it {other}; give "
                "config.data.image_size and channels."
            )
        whole = len(clip) // num_frames
        cut = clip[: whole * num_frames].reshape(whole, num_frames, *clip.shape[1:])
        found.append(cut)
        total += cut.nbytes
        if memory is not None and total > memory:
            raise UserError(
                f"the clips of {name} take more than the "
                f"{capacity.format_bytes(memory)} of memory; use a smaller image_size."
            )
    items = np.concatenate(found)
    chosen = split_indices(len(items), split, hold_out, name)
    if chosen is not None:
        items = items[chosen]
    identity = ["clips", items.shape, items.tobytes()]
    return Dataset(
        name=name,
        source=Arrays(items, None),
        shape=items.shape[1:],
        label_names=None,
        fingerprint=fingerprint_of(identity),
        split=split,
    )


def _divide(rest: str) -> tuple[str, int]:
    path, colon, frames = rest.rpartition(":")
    if not colon or not frames.isdecimal():
        return rest, NUM_FRAMES
    if not 2 <= int(frames[:9]) <= _MOST_FRAMES:
        raise UserError(
            f"clips:{files.printable(rest)} asks for {frames[:9]} frames; use 2 to "
            f"{_MOST_FRAMES}."
        )
    return path, int(frames)


def _clips_in(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{name} is no folder; give one that holds clips.")
    endings = (*ANIMATIONS, *VIDEOS, ".npy")
    found = [
        file
        for file in sorted(folder.iterdir(), key=lambda file: _natural(file.name))
        if (file.is_dir() and _images_in(file)) or file.suffix.lower() in endings
    ]
    if not found:
        raise UserError(f"{name} holds no clips; put {_KNOWN} into it.")
    return found
