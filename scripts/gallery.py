"""The animation and the squares of README, cut out of the pictures of the documents.

    python scripts/gallery.py

Nothing is sampled: docs/mnist-chain.gif plays the columns of docs/mnist-film.png, and
each docs/gallery-*.png or .gif is a part of the picture that its page explains.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
SIDE = 264  # pixels of a square


def cells(name: str, side: int, gap: int = 2) -> np.ndarray:
    """Cut a sheet into its images.

    Args:
        name: of a PNG file of docs/.
        side: of an image in it, in pixels.
        gap: pixels around each.

    Returns:
        uint8 [rows, columns, side, side].
    """
    sheet = np.asarray(Image.open(DOCS / name).convert("L"))
    rows, columns = ((length - gap) // (side + gap) for length in sheet.shape)
    step = side + gap
    cut = [
        [
            sheet[gap + r * step :, gap + c * step :][:side, :side]
            for c in range(columns)
        ]
        for r in range(rows)
    ]
    return np.asarray(cut)


def in_a_grid(images: np.ndarray, columns: int, scale: int, gap: int) -> Image.Image:
    """Lay images [N, H, W] in rows, each pixel `scale` wide, on black."""
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    images = np.pad(images, ((0, 0), (gap, gap), (gap, gap)))
    height, width = images.shape[1:]
    rows = images.reshape(-1, columns, height, width)
    return Image.fromarray(rows.transpose(0, 2, 1, 3).reshape(-1, columns * width))


def save_animation(frames: Sequence[Image.Image], path: Path, ms: list[int]) -> None:
    """Save frames as a GIF without end, each shown for so many milliseconds."""
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=ms,
        loop=0,
        optimize=True,
    )


def square(name: str, *boxes: tuple[int, int, int, int]) -> Image.Image:
    """Cut parts of one size out of a picture and lay them in a square, two in a row."""
    parts = [Image.open(DOCS / name).convert("RGB").crop(box) for box in boxes]
    width, height = parts[0].size
    columns = min(2, len(parts))
    part = Image.new("RGB", (columns * width, len(parts) // columns * height))
    for i, each in enumerate(parts):
        part.paste(each, (i % columns * width, i // columns * height))
    scale = SIDE / max(part.size)
    size = round(scale * part.width), round(scale * part.height)
    part = part.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(part, ((SIDE - part.width) // 2, (SIDE - part.height) // 2))
    return canvas


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder to write to")
    to = parser.parse_args(argv).to

    film = cells("mnist-film.png", 64)[..., ::2, ::2]  # [digit, step, 32, 32]
    chain = [in_a_grid(film[:, step], 8, 3, 2) for step in range(film.shape[1])]
    save_animation(chain, to / "mnist-chain.gif", [140] * (len(chain) - 1) + [2600])

    clips = cells("motion.png", 64)[:4, ..., ::2, ::2]  # [clip, frame, 32, 32]
    there = [in_a_grid(clips[:, frame], 2, 4, 2) for frame in range(clips.shape[1])]
    both_ways = there + there[-2:0:-1]
    save_animation(both_ways, to / "gallery-clip.gif", [120] * len(both_ways))

    parts = {
        "digits": ("mnist-grid.png", (0, 0, 332, 332)),
        "words": ("text-shapes.png", (0, 264, 398, 662)),
        "families": (
            "families.png",
            *[(left, 258, left + 164, 434) for left in (195, 377, 561, 741)],
        ),
        "object": (
            "scene-control.png",
            *[(96 * view, 96, 96 * view + 96, 192) for view in (0, 1, 3, 6)],
        ),
        "inpainting": ("edit-inpaint.png", (0, 0, 266, 266)),
    }
    for name, (picture, *boxes) in parts.items():
        square(picture, *boxes).save(to / f"gallery-{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
