"""Make a folder of game sprites with their names, to train text to image on.

    git clone --depth 1 https://github.com/crawl/tiles
    python scripts/make_sprites.py tiles --to=sprites

reads the tiles of Dungeon Crawl Stone Soup, from the folders and zip archives of the
checkout, and writes those of 32x32 that show a thing as PNG, beside a `metadata.jsonl`
that names and classifies each. A name is that of the file, with its folder in brackets
where that says more: "polar bear (animals)", "scimitar (weapon)". Left out are pictures
of the interface, files that the checkout's TILES_UNDER_UNKNOWN_LICENSE.md lists, and
twins pixel by pixel.

Their artists have put the tiles under CC0 1.0; ARTISTS.md of the checkout lists them
and is laid beside the images.
"""

import argparse
import hashlib
import io
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

SIZE = (32, 32)
UNKNOWN, ARTISTS = "TILES_UNDER_UNKNOWN_LICENSE.md", "ARTISTS.md"
# Folders of the releases, by class; what lies in no such folder is left out.
CLASSES = {
    "dungeon": ("dungeon", "dngn", "dc-dngn"),
    "effect": ("effect", "effects"),
    "item": ("item", "items"),
    "monster": ("monster", "monsters", "mon", "dc-mon"),
    "spell": ("spell", "spells"),
    "wearable": ("player", "wearable"),
}
_CLASS_OF = {folder: name for name, folders in CLASSES.items() for folder in folders}


def files_of(checkout: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Read all PNG files below a folder and in its zip archives, in sorted order."""
    for path in sorted(checkout.rglob("*")):
        place = PurePosixPath(path.relative_to(checkout).as_posix())
        if path.suffix.lower() == ".png" and path.is_file():
            yield place, path.read_bytes()
        elif path.suffix.lower() == ".zip" and path.is_file():
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.lower().endswith(".png"):
                        yield place / name, archive.read(name)


def class_of(place: PurePosixPath) -> tuple[str, tuple[str, ...]] | None:
    """Return the class of a file and its folders below that; None without one.

    The innermost folder of a class counts: `gui/spells/air` is of spells.
    """
    folders = [part.lower() for part in place.parts[:-1]]
    for i in reversed(range(len(folders))):
        if folders[i] in _CLASS_OF:
            return _CLASS_OF[folders[i]], tuple(folders[i + 1 :])
    return None


def words_of(name: str) -> list[str]:
    """Split a name into words, without numbers of variants and marks of tiles."""
    name = re.sub(r"^(dngn|i)[_-]", "", name.lower())
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[_\-. ]+", name)]
    return [word for word in words if word]


def caption(name: str, folders: tuple[str, ...]) -> str:
    """Caption a file by its name, and by its folders where they say more."""
    words = words_of(name)
    around = [word for folder in folders for word in re.split(r"[_\-. ]+", folder)]
    if not set(around) <= set(words):
        words.append(f"({' '.join(around)})")
    return " ".join(words)


def make(checkout: Path, to: Path) -> Counter[str]:
    """Write sprites and captions to a folder.

    Returns:
        How many there are of each class.

    Raises:
        SystemExit: there are none.
    """
    listed = checkout / UNKNOWN
    unknown = set(listed.read_text(encoding="utf-8").split())
    seen, lines, counts = set(), [], Counter[str]()
    for place, content in files_of(checkout):
        found = class_of(place)
        if found is None or place.name in unknown:
            continue
        try:
            image = Image.open(io.BytesIO(content)).convert("RGBA")
        except (UnidentifiedImageError, OSError):
            continue
        pixels = _hidden_cleared(image)
        text = caption(place.stem, found[1])
        digest = hashlib.sha256(pixels.tobytes()).digest()
        if pixels.size != SIZE or not text or digest in seen:
            continue
        seen.add(digest)
        name = f"{found[0]}/{len(lines):05}.png"
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        pixels.save(to / name)
        row = {"file_name": name, "text": text, "label": found[0], "name": place.stem}
        lines.append(json.dumps(row) + "\n")
        counts[found[0]] += 1
    if not lines:
        sys.exit(
            f"error: {checkout} holds no tiles in folders such as "
            f"{', '.join(_CLASS_OF)}; give a checkout of github.com/crawl/tiles."
        )
    if (checkout / ARTISTS).is_file():
        (to / ARTISTS).write_bytes((checkout / ARTISTS).read_bytes())
    # Last, since its presence marks the folder as complete.
    (to / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return counts


def _hidden_cleared(image: Image.Image) -> Image.Image:
    """Make pixels that are wholly transparent zero, whatever color they hide."""
    clear = Image.new("RGBA", image.size, 0)
    clear.paste(image, mask=image.getchannel("A").point(lambda a: 255 if a else 0))
    return clear


def main() -> None:
    """Read the checkout, and write the folder."""
    parser = argparse.ArgumentParser(description="Make a folder of named game sprites.")
    parser.add_argument("checkout", type=Path, help="of github.com/crawl/tiles")
    parser.add_argument("--to", type=Path, default=Path("sprites"), help="the folder")
    given = parser.parse_args()
    if (given.to / "metadata.jsonl").exists():
        sys.exit(
            f"error: {given.to} is there already; remove it, or give another --to."
        )
    if not (given.checkout / UNKNOWN).is_file():
        sys.exit(
            f"error: {given.checkout} is no checkout of github.com/crawl/tiles, which "
            f"holds {UNKNOWN}; git clone --depth 1 https://github.com/crawl/tiles "
            "makes one."
        )
    counts = make(given.checkout, given.to)
    listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    print(
        f"{given.to}: {counts.total():,} sprites ({listed}). View them with\n"
        "python main.py look --config=configs/folder.py:32 "
        f"--config.data.source=folder:{given.to}"
    )


if __name__ == "__main__":
    main()
