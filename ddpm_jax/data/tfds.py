"""TensorFlow Datasets that are prepared on disk, read without TensorFlow.

TFDS reads ArrayRecord files by random access in plain Python; only *preparing* a data
set (download, conversion) needs TensorFlow. Images are decoded here, with Pillow, and
not by TFDS, so that the pixels do not depend on whether OpenCV is installed.

Source: https://www.tensorflow.org/datasets/data_source
"""

import functools
import io
import json
import logging
import os
import re
from pathlib import Path

import numpy as np

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import (
    CORES,
    Dataset,
    NoSplitError,
    Records,
    fingerprint_of,
)
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.image_file import BROKEN, open_image, reason_of

JPEG_NOTE = (
    "Images are stored as JPEG; scores do not compare with those from lossless copies."
)


def find_data_dir(data_dir: str | None) -> Path:
    """Return data_dir, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    fallback = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(data_dir or fallback).expanduser()


def find_prepared(root: Path) -> dict[str, Path]:
    """Return "name/version" or "name/config/version" -> folder of what is prepared."""
    infos = [
        *root.glob("*/*/dataset_info.json"),
        *root.glob("*/*/*/dataset_info.json"),
    ]
    folders = [info.parent for info in infos if re.match(r"\d+\.\d+", info.parent.name)]
    return {folder.relative_to(root).as_posix(): folder for folder in sorted(folders)}


def load_tfds(
    name: str, *, split: str, layout: layouts.Layout, data_dir: str | None
) -> Dataset:
    """Open a prepared TFDS image data set.

    Args:
        name: "mnist", "mnist:3.0.1", "celeb_a_hq/256"; without a version the newest.
        split: As TFDS names it: "train", "test", "train+test", "train[:1000]", "all".
        layout: `size` may stay open only if all images are of one size.
        data_dir: See `find_data_dir`.

    Raises:
        UserError: Not known, not prepared, not ArrayRecord, no such split, not images.
    """
    folder = _find_folder(name, find_data_dir(data_dir))
    import tensorflow_datasets as tfds

    logging.getLogger("absl").addFilter(_is_not_group_size_advice)
    builder = tfds.builder_from_directory(folder)
    features = dict(builder.info.features.items())
    layout = _complete(layout, features, name)
    source = _open(builder, name, split, {"image": tfds.decode.SkipDecoding()})
    is_jpeg = _first_record(source, name)["image"].startswith(b"\xff\xd8")
    label = features.get("label")
    has_labels = isinstance(label, tfds.features.ClassLabel)
    height, width, _ = features["image"].shape
    is_tiny = height and width and height * width <= 64 * 64
    info = json.loads((folder / "dataset_info.json").read_text())
    identity = [builder.info.full_name, split, len(source), info["splits"]]
    identity += layouts.identity(layout)
    return Dataset(
        name=builder.info.full_name,
        source=Records(
            num_examples=len(source),
            read=functools.partial(_read, source, layout, has_labels),
            num_threads=1 if is_tiny else CORES,
        ),
        shape=layouts.shape_of(layout),
        label_names=tuple(label.names) if label is not None and has_labels else None,
        fingerprint=fingerprint_of(["tfds", *identity]),
        split=split,
        note=JPEG_NOTE if is_jpeg else "",
    )


def _first_record(source, name):
    """Read a record early, so that a missing or damaged file is an error at once."""
    try:
        return source[0]
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot read the files of data set {name!r} ({reason}); copy or prepare "
            "them again."
        ) from error


def _read(source, layout, has_labels, index):
    record = source[index]
    try:
        with open_image(io.BytesIO(record["image"])) as image:
            example = {"image": layouts.arrange(image, layout)}
    except BROKEN as error:
        raise UserError(
            f"cannot decode example {index} of the data set ({reason_of(error)}); copy "
            "or prepare its files again."
        ) from error
    if has_labels:
        example["label"] = int(record["label"])
    return example


def _is_not_group_size_advice(record):
    """Drop the one line, logged as an error, on how files could be faster."""
    return "was created with group size" not in str(record.msg)


def _find_folder(name, root):
    """Return the folder of the newest version that goes by this name."""
    prepared = find_prepared(root)
    wanted, _, version = name.partition(":")
    matches = {
        full: folder
        for full, folder in prepared.items()
        if (full.startswith(wanted + "/") or full == wanted)
        and (not version or folder.name == version)
    }
    if not matches:
        raise UserError(_explain_missing(name, root, prepared))
    kinds = sorted({full.rpartition("/")[0] for full in matches})
    if len(kinds) > 1:
        raise UserError(f"{name!r} could be {', '.join(kinds)}; name one of them.")
    numbers = {full: re.findall(r"\d+", full.rpartition("/")[2]) for full in matches}
    return matches[max(matches, key=lambda full: [int(n) for n in numbers[full]])]


def _explain_missing(name, root, prepared):
    have = ", ".join(sorted({full.split("/")[0] for full in prepared})) or "none"
    if not _is_registered(re.split("[:/]", name)[0]):
        return (
            f"unknown data set {name!r}; use digits, shapes, folder:PATH, or a TFDS "
            f"data set prepared in {root} ({have}); data_dir or TFDS_DATA_DIR names "
            "another."
        )
    return (
        f"data set {name!r} is not prepared in {root} (there: {have}); set data_dir or "
        "TFDS_DATA_DIR to where it is, or prepare it once, which needs TensorFlow: "
        f"pip install tensorflow && tfds build {name} --file_format=array_record "
        f"--data_dir={root}"
    )


def _is_registered(name):
    import tensorflow_datasets as tfds

    return name in tfds.list_builders(with_community_datasets=False)


def _complete(layout, features, name):
    import tensorflow_datasets as tfds

    image = features.get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise UserError(
            f"data set {name!r} has no 8-bit feature 'image' "
            f"(its features: {', '.join(features)}); choose an image data set."
        )
    height, width, channels = image.shape
    if layout.size is None and None in (height, width):
        raise UserError(
            f"the images of {name!r} differ in size; give image_size to bring them "
            "to one size."
        )
    channels = 1 if channels == 1 else 3  # transparency is laid over white
    return layouts.complete(layout, (height, width, channels), name)


def _open(builder, name, split, decoders):
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError:
        raise UserError(
            f"data set {name!r} is not stored as ArrayRecord; prepare it again, with "
            f"TensorFlow: tfds build {name} --file_format=array_record --overwrite"
        ) from None
    except ValueError:
        splits = ", ".join(sorted(builder.info.splits))
        raise NoSplitError(
            f"data set {name!r} has no split {split!r}; use one of {splits}, all, or "
            "a part such as train[:1000]."
        ) from None
