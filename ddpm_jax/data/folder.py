"""A folder of PNG, JPEG or WebP images, searched recursively.

Files and folders whose names begin with a dot are passed over, and so are links to
folders. The order is that of the sorted relative paths. Labels exist when every image
lies in one of at least two folders directly under the root (however deep below it):
the classes are those folders, in sorted order. With some images loose beside class
folders, or all in a single folder, there are no labels; `note` says so.
"""

import os
from pathlib import Path

from PIL import Image

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import (
    CORES,
    Dataset,
    NoSplitError,
    Records,
    fingerprint_of,
)
from ddpm_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SPLITS = {"train", "test", "val", "valid", "validation"}


def load_folder(path: str, *, split: str, layout: layouts.Layout) -> Dataset:
    """Open a folder of images as a data set.

    The fingerprint covers names and sizes of the files, not their content.

    Args:
        path: The folder; `~` is expanded.
        split: "train" or "all"; a folder is one split, and both mean all of it.
        layout: With `size` or `channels` open, every file's header is read: the
            images must then agree in size, and are grey only if all of them are.

    Raises:
        UserError: No such folder, no images, or sizes that differ.
        NoSplitError: No such split.
    """
    name = f"folder:{path}"
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"{name} is not a folder; give the path of a folder of images.")
    if split not in ("train", "all"):
        raise NoSplitError(
            f"{name} has no split {split!r}: a folder is one split; "
            "give the folder of that split with split='train'."
        )
    files = _find_images(root)
    if not files:
        raise UserError(f"{name} holds no PNG, JPEG or WebP images; check the path.")
    classes, note = _find_classes(files, name)
    layout = _complete(layout, root, files, name)

    def read(index):
        relative = files[index]
        example = {"image": _read_image(root / relative, layout)}
        if classes is not None:
            example["label"] = classes.index(relative.parts[0])
        return example

    sizes = [(file.as_posix(), (root / file).stat().st_size) for file in files]
    return Dataset(
        name=name,
        source=Records(len(files), read, num_threads=CORES),
        image_shape=layouts.shape_of(layout),
        label_names=classes,
        fingerprint=fingerprint_of(["folder", sizes, layout]),
        split=split,
        note=note,
    )


def _find_images(root):
    """Return the relative paths of all images under root, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder, name).relative_to(root)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found, key=lambda file: file.parts)


def _find_classes(files, name):
    """Return (class names or None, note)."""
    tops = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    loose = sum(len(file.parts) == 1 for file in files)
    if not tops:
        return None, ""
    if set(tops) <= SPLITS:
        raise UserError(
            f"{name} holds the splits {', '.join(tops)}, not classes; "
            f"name one of them, for example {name.rstrip('/')}/{tops[0]}"
        )
    if loose:
        return None, (
            f"{loose} of {len(files)} images lie outside the class folders: no labels."
        )
    if len(tops) == 1:
        return None, f"All images lie in the one folder {tops[0]!r}: no labels."
    return tuple(tops), ""


def _read_image(path, layout):
    try:
        with Image.open(path) as image:
            return layouts.arrange(image, layout)
    except layouts.BROKEN as error:
        raise _broken(path, error) from error


def _broken(path, error):
    reason = " ".join(str(error).split())
    return UserError(f"cannot read the image {path} ({reason}); repair or remove it.")


def _read_header(path):
    """Return ((H, W) as seen, whether it is grey) without decoding any pixel."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(layouts.ORIENTATION, 1) >= 5
            size = image.size if turned else image.size[::-1]
            return size, image.mode[0] in "1LI"
    except layouts.BROKEN as error:
        raise _broken(path, error) from error


def _complete(layout, root, files, name):
    if layout.size and layout.channels:
        return layouts.complete(layout, (*layout.size, layout.channels), name)
    first, is_grey = _read_header(root / files[0])
    for file in files[1:]:
        size, grey = _read_header(root / file)
        is_grey &= grey
        if size != first and not layout.size:
            raise UserError(
                f"the images of {name} differ in size ({files[0]} is "
                f"{first[0]}x{first[1]}, {file} is {size[0]}x{size[1]}); "
                "give image_size to bring them to one size."
            )
    return layouts.complete(layout, (*first, 1 if is_grey else 3), name)
