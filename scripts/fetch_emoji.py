"""Make a folder of emoji with their names, to train text to image on.

    python scripts/fetch_emoji.py --to=emoji

fetches the npm package emoji-datasource-google 16.0.0 (74 MB) with npm, and writes its
1,906 emoji without variants of skin color: 64x64, laid on white, as lossless WebP,
beside a `metadata.jsonl` that names each. With `--package=FILE.tgz` nothing is fetched.

The images are Google's Noto emoji, under the Apache License 2.0; the names are of the
package, under the MIT License. Both licenses are to be kept with copies: LICENSE and
README.md of the package are laid beside the images.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"
SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
_IMAGES = "package/img/google/64/"
_KEPT = ("LICENSE", "README.md")


def fetch(folder: Path) -> Path:
    """Let npm download the package into a folder.

    Raises:
        SystemExit: npm is not there, or cannot.
    """
    try:
        done = subprocess.run(
            ["npm", "pack", "--silent", PACKAGE],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        sys.exit(
            f"error: there is no npm; install Node.js, or download {PACKAGE} elsewhere "
            "and give --package=FILE.tgz."
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it gives no reason"])[-1]
        sys.exit(f"error: npm cannot fetch {PACKAGE}: {reason}")
    return folder / done.stdout.strip().splitlines()[-1]


def unpack(package: Path, to: Path) -> int:
    """Write images and captions of the package to a folder.

    Returns:
        How many there are.

    Raises:
        SystemExit: the file is not that package.
    """
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(
            f"error: {package} has sha256 {digest}, {PACKAGE} has {SHA256}; download "
            "it again."
        )
    (to / "images").mkdir(parents=True, exist_ok=True)
    content = _read(package)
    emoji = json.loads(content["package/emoji.json"])
    emoji.sort(key=lambda one: one["sort_order"])
    chosen = [one for one in emoji if one["has_img_google"] and _is_whole(one)]
    lines = []
    for one in chosen:
        image = Image.open(io.BytesIO(content[_IMAGES + one["image"]]))
        name = f"images/{Path(one['image']).stem}.webp"
        on_white(image).save(to / name, lossless=True)
        lines.append(json.dumps(_describe(name, one), ensure_ascii=False) + "\n")
    for name in _KEPT:
        (to / name).write_bytes(content[f"package/{name}"])
    # Last, since its presence marks the folder as complete.
    (to / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(chosen)


def _read(package: Path) -> dict[str, bytes]:
    """Read what is needed in one pass: a compressed archive cannot jump."""
    wanted = {"package/emoji.json", *(f"package/{name}" for name in _KEPT)}
    content = {}
    with tarfile.open(package, "r|gz") as archive:
        for member in archive:
            if member.name in wanted or member.name.startswith(_IMAGES):
                file = archive.extractfile(member)
                assert file is not None  # a file of the package, whose hash is known
                content[member.name] = file.read()
    return content


def _is_whole(one: dict[str, Any]) -> bool:
    """Return whether an entry is an emoji of its own, and not a part of others."""
    return one["category"] != "Component"


def _describe(name: str, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "file_name": name,
        "text": one["name"].lower(),
        "short_names": [name.replace("_", " ") for name in one["short_names"]],
        "category": one["category"],
        "subcategory": one["subcategory"],
        "unicode": one["unified"],
    }


def on_white(image: Image.Image) -> Image.Image:
    """Lay an image with transparent parts on white."""
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def main() -> None:
    """Fetch, unless there is a file, and unpack."""
    parser = argparse.ArgumentParser(description="Make a folder of emoji with names.")
    parser.add_argument("--to", type=Path, default=Path("emoji"), help="the folder")
    parser.add_argument("--package", type=Path, help="the downloaded package")
    given = parser.parse_args()
    if (given.to / "metadata.jsonl").exists():
        sys.exit(
            f"error: {given.to} is there already; remove it, or give another --to."
        )
    if given.package is not None and not given.package.is_file():
        sys.exit(
            f"error: {given.package} is not a file; give the package, or leave it out."
        )
    with tempfile.TemporaryDirectory() as folder:
        package = given.package or fetch(Path(folder))
        count = unpack(package, given.to)
    print(
        f"{given.to}: {count:,} images. View them with\n"
        "python main.py look --config=configs/folder.py:32 "
        f"--config.data.source=folder:{given.to}"
    )


if __name__ == "__main__":
    main()
