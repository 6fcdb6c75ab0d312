"""From a name to a data set.

| name               | what it is                                                      |
| ------------------ | --------------------------------------------------------------- |
| digits             | 1,797 handwritten digits of 8x8, shipped with this package      |
| shapes, shapes:N   | captioned shapes, drawn by a rule, or N of them (see `shapes`)  |
| folder:PATH        | image files in a folder (see `folder`)                          |
| npy:FILE, npz:FILE | an array of images, or of items of any shape (see `arrays`)     |
| NAME or tfds:NAME  | any prepared TensorFlow data set of images (see `tfds`)         |
"""

from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from PIL import Image

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.arrays import KINDS, load_arrays
from ddpm_jax.data.dataset import Arrays, Dataset, fingerprint_of
from ddpm_jax.data.folder import load_folder
from ddpm_jax.data.shapes import load_shapes
from ddpm_jax.data.tfds import load_tfds
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import capacity


def load(
    spec: str,
    *,
    split: str = "train",
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    pad_to: int | Sequence[int] | None = None,
    data_dir: str | None = None,
    resize: str = "crop",
    skip_broken: bool = False,
    label_field: str | None = None,
    hold_out: int = 0,
    cache: bool = False,
    sample_bits: int = layouts.WIDE_BITS,
) -> Dataset:
    """Open a data set by name; images are decoded later, when they are asked for.

    Args:
        spec: "digits", "shapes", "shapes:N", "folder:PATH", "npy:FILE", "npz:FILE", or
            a TFDS name with or without "tfds:".
        split: "train", "test" or "all"; TFDS takes its own expressions as well, and
            shapes have "train", "test" and "held_out".
        image_size: Side, or (H, W), that images are scaled and cropped to; None
            keeps their size (shapes are drawn with a side of 32).
        channels: 1, 3 or 4 (RGBA); None keeps what the data set has, transparency laid
            over white.
        pad_to: Side, or (H, W), that images are then padded to with zeros: MNIST
            with pad_to=32 has two pixels of background more on each side.
        data_dir: Where TFDS data sets are; else $TFDS_DATA_DIR, else
            ~/tensorflow_datasets.
        resize: How images of another shape come to `image_size`: crop, pad_black,
            pad_white or squash (see `layout`).
        skip_broken: Of a folder: leave out files that cannot be decoded.
        label_field: Of a folder with a captions file: the field with the class.
        hold_out: Of a folder or an array: every so many items are its split "test"; 0:
            none.
        cache: Of a folder: let `ready` keep decoded images on disk.
        sample_bits: Of a folder: bits that the samples of 16-bit gray files span, 9 to
            16; with 12, 4095 is white.

    Raises:
        UserError: The name, the split or a size does not fit; the message says what
            would.
    """
    if not spec:
        raise UserError(
            "config.data.source is empty; give --config.data.source=folder:PATH, or "
            "the name of a data set (a model that was imported does not know its own)."
        )
    layout = layouts.make_layout(image_size, channels, pad_to, resize, sample_bits)
    kind, colon, rest = spec.partition(":")
    if kind == "folder" and colon:
        return load_folder(
            rest,
            split=split,
            layout=layout,
            skip_broken=skip_broken,
            label_field=label_field,
            hold_out=hold_out,
            cache=cache,
        )
    if kind in KINDS and colon:
        asked = {
            "image_size": image_size,
            "channels": channels,
            "pad_to": pad_to,
            "resize": resize if resize != "crop" else None,
        }
        _refuse_options(asked, "files of pictures", spec)
        hold_out, of_arrays = 0, hold_out
    of_folders = {
        "skip_broken": skip_broken,
        "label_field": label_field,
        "hold_out": hold_out,
        "sample_bits": sample_bits - layouts.WIDE_BITS and sample_bits,
    }
    _refuse_options(of_folders, "folders of pictures", spec)
    if kind in KINDS and colon:
        return load_arrays(kind, rest, split=split, hold_out=of_arrays)
    return _load_other(spec, split, layout, data_dir)


def _refuse_options(asked: Mapping[str, object], what: str, spec: str) -> None:
    for option, given in asked.items():
        if given:
            raise UserError(
                f"{option}={given!r} is for {what}, and {spec!r} is none; leave it out."
            )


def _load_other(
    spec: str, split: str, layout: layouts.Layout, data_dir: str | None
) -> Dataset:
    kind, colon, rest = spec.partition(":")
    if spec == "digits":
        return load_digits(split=split, layout=layout)
    if kind == "shapes":
        return load_shapes(rest if colon else None, split=split, layout=layout)
    name = rest if kind == "tfds" and colon else spec
    return load_tfds(name, split=split, layout=layout, data_dir=data_dir)


def load_digits(*, split: str, layout: layouts.Layout) -> Dataset:
    """Return the optical digits of UCI: gray, 8x8, stored as 17 levels 0..16.

    Level v becomes (255 v + 8) // 16: 0 is 0, 16 is 255, and 17 distinct values in
    between keep all there is. Every sixth example (5, 11, 17, ...) is for testing,
    which gives 1,498 for "train" and 299 for "test"; "all" is both, in file order.

    Raises:
        UserError: No such split.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI
        Machine Learning Repository, CC BY 4.0: its test set, which scikit-learn ships
        as well. `digits.npz` holds its "levels" [1797, 8, 8] and "labels" [1797].
    """
    if split not in ("train", "test", "all"):
        raise UserError(f"digits has no split {split!r}; use train, test or all.")
    packed = resources.files("ddpm_jax.data").joinpath("digits.npz")
    with packed.open("rb") as file, np.load(file) as stored:
        levels, digit = stored["levels"].astype(np.int64), stored["labels"]
    images = ((levels * 255 + 8) // 16).astype(np.uint8)[..., None]
    places = np.arange(len(images)) % 6
    chosen = {"train": places < 5, "test": places == 5, "all": places < 6}[split]
    images, labels = images[chosen], digit[chosen].astype(np.int32)
    layout = layouts.complete(layout, (8, 8, 1), "digits")
    height, width, channels = layouts.shape_of(layout)
    needed, memory = len(images) * height * width * channels, capacity.machine_memory()
    if memory is not None and needed > memory:
        raise UserError(
            f"{len(images)} digits of {height}x{width} take "
            f"{capacity.format_bytes(needed)}, "
            f"and there are {capacity.format_bytes(memory)} of memory; use a smaller "
            "image_size and pad_to."
        )
    identity = ["digits", split, images.tobytes(), labels.tobytes()]
    identity += layouts.identity(layout)
    arranged = [
        layouts.arrange(Image.fromarray(image[..., 0]), layout) for image in images
    ]
    return Dataset(
        name="digits",
        source=Arrays(np.stack(arranged), labels),
        shape=layouts.shape_of(layout),
        label_names=tuple(str(digit) for digit in range(10)),
        fingerprint=fingerprint_of(identity),
        split=split,
    )
