"""A folder of images (see `image_file` for the formats), searched recursively.

The order is that of the sorted relative paths, or of the lines of a captions file
`metadata.jsonl`, if there is one; then images that it does not name are left out.

Labels exist when the captions file gives a class to each image. Else they exist when
every image lies in one of at least two folders directly under the root (however deep
below it): the classes are those folders, in sorted order. With some images loose beside
class folders, or all in a single folder, there are no labels; `note` says so.

A folder is one split, unless every N-th image is held out for testing.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddpm_jax.data import captions
from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import (
    CORES,
    Dataset,
    Records,
    fingerprint_of,
)
from ddpm_jax.data.hold_out import check_split, split_indices
from ddpm_jax.data.listing import Listing, list_images
from ddpm_jax.data.survey import BrokenFilesError, survey
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import cache_folder, printable
from ddpm_jax.runtime.image_file import BROKEN, NAMES, open_image, reason_of

SPLITS = {"train", "test", "val", "valid", "validation"}


def load_folder(
    path: str,
    *,
    split: str,
    layout: layouts.Layout,
    skip_broken: bool = False,
    label_field: str | None = None,
    hold_out: int = 0,
    cache: bool = False,
) -> Dataset:
    """Open a folder of images as a data set.

    The fingerprint covers names and sizes of the files, and the captions file's
    entries, but not their content; of uncompressed formats, whose size is that of any
    image, also parts of some files. It does not cover where the folder lies.

    Args:
        path: The folder; `~` is expanded.
        split: "train" or "all", which both mean all of it; with `hold_out` "train" is
            the rest, and "test" what is held out.
        layout: With `size` or `channels` open, every file's header is read: the
            images must then agree in size, and are grey only if all of them are.
        skip_broken: Decode every file first (see `survey`), and leave out those that
            cannot be; `note` counts them.
        label_field: Field of the captions file that holds the class; None: "label",
            if there is one.
        hold_out: N: every N-th image is for testing, in the folder's order; 0: none.
        cache: Store the decoded images on disk (see `cache`).

    Raises:
        UserError: No such folder, no images, or fewer than N, sizes that differ, or a
            captions file with something wrong.
        NoSplitError: No such split.
    """
    name = f"folder:{printable(os.path.normpath(path) if path else path)}"
    root = _root(path, name)
    check_split(split, hold_out, name)
    listing = list_images(root)
    if not len(listing):
        others = listing.describe_left_out()
        raise UserError(
            f"{name} holds no {NAMES} files{f' ({others})' if others else ''}; check "
            "the path, or convert what is there."
        )
    found, chosen, notes = _captions(listing, label_field, name)
    if skip_broken:
        chosen, notes = _skip_broken(listing, chosen, notes, name)
    kept = listing.take(chosen)
    texts, labels, classes, note = _describe(kept, found, name)
    layout = _complete(layout, kept, listing, name)
    # Only now, so that classes and size are the same in both splits.
    indices = split_indices(len(kept), split, hold_out, name)
    if indices is not None:
        kept = kept.take(indices.tolist())
        texts = texts and tuple(texts[index] for index in indices)
        labels = labels and [labels[index] for index in indices]

    def read(index):
        example = {"image": _read_image(kept.path(index), layout)}
        return example if labels is None else example | {"label": labels[index]}

    identity = ["folder", *kept.identity, *layouts.identity(layout)]
    if texts is not None or found is not None:
        identity += [texts, labels]
    label = None if labels is None else labels.__getitem__
    return Dataset(
        name=name,
        source=Records(
            len(kept),
            read,
            num_threads=CORES,
            label=label,
        ),
        shape=layouts.shape_of(layout),
        label_names=classes,
        fingerprint=fingerprint_of(identity),
        split=split,
        note=" ".join([*notes, *([note] if note else [])]),
        texts=texts,
        listing=listing,
        cache_key=_cache_key(root, kept, layout) if cache else "",
    )


def _root(path: str, name: str) -> Path:
    try:
        root = Path(path).expanduser()
        is_folder = bool(path) and root.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long; of an unknown ~user; a NUL
        is_folder = False
    if not is_folder:
        raise UserError(f"{name} is not a folder; give the path of a folder of images.")
    return root


def _captions(
    listing: Listing, label_field: str | None, name: str
) -> tuple[captions.Captions | None, list[int], list[str]]:
    """Return (the captions file if there is one, images to use, notes)."""
    path = listing.root / captions.NAME
    if path.is_symlink() or path.exists():
        if not path.is_file():
            raise UserError(
                f"{printable(path)} is not a file; write the captions there, or remove "
                "it."
            )
    else:
        if label_field is not None:
            raise UserError(
                f"label_field={label_field!r} names a field of {captions.NAME}, and "
                f"{name} has no such file; write one, or leave label_field out."
            )
        return None, list(range(len(listing))), []
    places = {file: index for index, file in enumerate(listing.files)}
    found = captions.read_captions(path, frozenset(places), label_field or "label")
    if label_field is not None and found.labels is None:
        raise UserError(
            f"{path} has no field {label_field!r}; label_field names the one that "
            "holds the class of each image."
        )
    left_out = len(listing) - len(found.files)
    note = f"Left out, since {captions.NAME} does not name them: {left_out:,}."
    return found, [places[file] for file in found.files], [note] if left_out else []


def _skip_broken(
    listing: Listing, chosen: list[int], notes: list[str], name: str
) -> tuple[list[int], list[str]]:
    broken = survey(listing).broken
    whole = [index for index in chosen if index not in broken]
    if not whole:
        raise UserError(f"all {len(chosen):,} images of {name} are broken.")
    skipped = [printable(listing.files[index]) for index in chosen if index in broken]
    if skipped:
        listed = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        notes = [*notes, f"Left out as broken: {len(skipped):,} ({listed})."]
    return whole, notes


def _describe(
    kept: Listing, found: captions.Captions | None, name: str
) -> tuple[tuple[str, ...] | None, list[int] | None, tuple[str, ...] | None, str]:
    """Return (captions, class of each, names of the classes, note)."""
    rows = {} if found is None else {file: i for i, file in enumerate(found.files)}
    texts = None
    if found is not None and found.texts is not None:
        texts = tuple(found.texts[rows[file]] for file in kept.files)
    if found is not None and found.labels is not None:
        values = [found.labels[rows[file]] for file in kept.files]
        names = sorted(set(values))
        numbers = {value: number for number, value in enumerate(names)}
        classes = tuple(str(value) for value in names)
        return texts, [numbers[value] for value in values], classes, ""
    classes, note = _find_classes([file.split("/") for file in kept.files], name)
    if classes is None:
        return texts, None, None, note
    numbers = {folder: number for number, folder in enumerate(classes)}
    labels = [numbers[file.partition("/")[0]] for file in kept.files]
    return texts, labels, tuple(map(printable, classes)), note


def _cache_key(root: Path, kept: Listing, layout: layouts.Layout) -> str:
    """Name what is decoded: the preparation and the state of the files.

    The folder's own path only distinguishes its former states from those of others.
    Images that were decoded before the folder was moved are still found.
    """
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in root.resolve().name)
    plain = printable(plain[-40:])
    place = fingerprint_of([str(root.resolve()), *layouts.identity(layout)])
    images = fingerprint_of([kept.key, *layouts.identity(layout)])
    kept_before = sorted(cache_folder("decoded").glob(f"*/{images}/index.json"))
    if kept_before:
        return f"{kept_before[0].parent.parent.name}/{images}"
    return f"{plain}-{place}/{images}"


def _find_classes(files: Sequence[list[str]], name: str):
    """Return (class names or None, note) of paths, given as lists of their parts."""
    tops = sorted({parts[0] for parts in files if len(parts) > 1})
    loose = sum(len(parts) == 1 for parts in files)
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
        return (
            None,
            f"All images lie in the one folder {printable(tops[0])!r}: no labels.",
        )
    return tuple(tops), ""


def _read_image(path, layout):
    try:
        with open_image(path) as image:
            return layouts.arrange(image, layout)
    except BROKEN as error:
        raise UserError(
            f"cannot read the image {printable(path)} ({reason_of(error)}); repair or "
            "remove it."
        ) from error


def _read_header(path):
    """Return ((H, W) when upright, whether it is grey) without decoding any pixel."""
    with open_image(path) as image:
        return layouts.upright_size(image), image.mode[0] in "1LI"


def _complete(layout, kept, listing, name):
    if layout.size and layout.channels:
        return layouts.complete(layout, (*layout.size, layout.channels), name)
    with ThreadPoolExecutor(CORES, thread_name_prefix="header") as pool:
        try:
            headers = list(pool.map(_read_header, map(kept.path, range(len(kept)))))
        except BROKEN as error:  # where one is, there may be more
            raise BrokenFilesError(survey(listing), name) from error
        (first, is_grey), *rest = headers
    for file, (size, grey) in zip(kept.files[1:], rest, strict=True):
        is_grey &= grey
        if size != first and not layout.size:
            raise UserError(
                f"the images of {name} differ in size ({printable(kept.files[0])} "
                f"is {first[0]}x{first[1]}, {printable(file)} is {size[0]}x{size[1]}); "
                "give image_size to bring them to one size."
            )
    return layouts.complete(layout, (*first, 1 if is_grey else 3), name)
