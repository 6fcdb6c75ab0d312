"""From a name to a data set.

| name               | what it is                                                      |
| ------------------ | --------------------------------------------------------------- |
| digits             | 1,797 handwritten digits of 8x8, shipped with this package      |
| shapes, shapes:N   | captioned shapes, rendered by a rule, or N (see `shapes`)       |
| shapes:partial     | those, with captions that leave things unsaid; or with :N       |
| solids             | captioned renders of known solids, or some (see `solids`)       |
| folder:PATH        | image files in a folder (see `folder`)                          |
| npy:FILE, npz:FILE | an array of images, or of items of any shape (see `arrays`)     |
| clips:PATH         | animations, videos and folders of frames (see `clips`)          |
| motion:NAME        | clips of moving digits, motion:digits or :mnist (see `motion`)  |
| points:NAME        | points in the plane, such as points:ring (see `points`)         |
| NAME or tfds:NAME  | any prepared TensorFlow data set of images (see `tfds`)         |
"""

from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from PIL import Image

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.arrays import KINDS, load_arrays
from ddpm_jax.data.clips import load_clips
from ddpm_jax.data.dataset import Arrays, Dataset, fingerprint_of
from ddpm_jax.data.folder import load_folder
from ddpm_jax.data.hold_out import split_indices
from ddpm_jax.data.motion.source import load_motion
from ddpm_jax.data.points import load_points
from ddpm_jax.data.shapes import load_shapes
from ddpm_jax.data.tfds import load_tfds
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import capacity

_DIGITS_HELD_OUT = 6  # every sixth is for testing


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
    """Open a data set by name; images are decoded later, at access.

    Args:
        spec: "digits", "shapes", "shapes:N", "shapes:partial", "solids",
            "solids:NAMES", "folder:PATH", "npy:FILE", "npz:FILE", "points:NAME",
            "motion:NAME", "clips:PATH", or a TFDS name with or without "tfds:".
        split: "train", "test" or "all"; TFDS takes its own expressions as well, shapes
            have "train", "test" and "held_out", and solids "train" and "test".
        image_size: Side, or (H, W), that images are scaled and cropped to; None
            keeps their size (shapes and solids are rendered with a side of 32).
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
        hold_out: N, of a folder or an array: every N-th item is for testing; 0: none.
        cache: Of a folder: let `ready` keep decoded images on disk.
        sample_bits: Of a folder: bits that the samples of 16-bit gray files span, 9 to
            16; with 12, 4095 is white.

    Raises:
        UserError: The name, the split or a size does not fit; the message names what
            would.
    """
    if not spec:
        raise UserError(
            "config.data.source is empty; give --config.data.source=folder:PATH, or "
            "the name of a data set (an imported model has none stored)."
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
    of_folders = {
        "skip_broken": skip_broken,
        "label_field": label_field,
        "sample_bits": sample_bits if sample_bits != layouts.WIDE_BITS else None,
    }
    if (kind in KINDS or kind == "points") and colon:
        of_images = {
            "image_size": image_size,
            "channels": channels,
            "pad_to": pad_to,
            "resize": resize if resize != "crop" else None,
        }
        _refuse_options(of_images, "image files", spec)
        _refuse_options(of_folders, "folders of images", spec)
        if kind == "points":
            return load_points(rest, split=split, hold_out=hold_out)
        return load_arrays(kind, rest, split=split, hold_out=hold_out)
    if kind == "clips" and colon:
        _refuse_options(of_folders, "folders of images", spec)
        return load_clips(rest, split=split, layout=layout, hold_out=hold_out)
    _refuse_options({**of_folders, "hold_out": hold_out}, "folders of images", spec)
    return _load_other(spec, split, layout, data_dir)


def _refuse_options(options: Mapping[str, object], kind: str, spec: str) -> None:
    for option, value in options.items():
        if value:
            raise UserError(
                f"{option}={value!r} is for {kind}, and {spec!r} is not one; leave it "
                "out."
            )


def _load_other(
    spec: str, split: str, layout: layouts.Layout, data_dir: str | None
) -> Dataset:
    kind, colon, rest = spec.partition(":")
    if spec == "digits":
        return load_digits(split=split, layout=layout)
    if kind == "shapes":
        return load_shapes(rest if colon else None, split=split, layout=layout)
    if kind == "motion" and colon:

        def stills(name: str) -> Dataset:
            return _load_other(name, split, layouts.Layout(), data_dir)

        return load_motion(rest, stills, split=split, layout=layout)
    if kind == "solids":
        from ddpm_jax.data.solids import load_solids  # late: rendering imports JAX

        return load_solids(rest if colon else None, split=split, layout=layout)
    name = rest if kind == "tfds" and colon else spec
    return load_tfds(name, split=split, layout=layout, data_dir=data_dir)


def load_digits(*, split: str, layout: layouts.Layout) -> Dataset:
    """Return the optical digits of UCI: gray, 8x8, stored as 17 levels 0..16.

    Level v becomes (255 v + 8) // 16: 0 is 0, 16 is 255, and 17 distinct values in
    between keep all there is. Every sixth example (5, 11, 17, ...) is for testing,
    which gives 1,498 for "train" and 299 for "test"; "all" is both, in file order.

    Raises:
        NoSplitError: No such split.
        UserError: The images do not fit into memory.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI
        Machine Learning Repository, CC BY 4.0: its test set, which scikit-learn ships
        as well. `digits.npz` holds its "levels" [1797, 8, 8] and "labels" [1797].
    """
    packed = resources.files("ddpm_jax.data").joinpath("digits.npz")
    with packed.open("rb") as file, np.load(file) as stored:
        levels, labels = stored["levels"].astype(np.int64), stored["labels"]
    images = ((levels * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = labels.astype(np.int32)
    indices = split_indices(len(images), split, _DIGITS_HELD_OUT, "digits")
    if indices is not None:
        images, labels = images[indices], labels[indices]
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
    if (layout.size, layout.channels) == ((8, 8), 1):  # as they are, all at once
        arranged = layouts.pad(images, (height, width))
    else:
        arranged = np.stack(
            [
                layouts.arrange(Image.fromarray(image[..., 0]), layout)
                for image in images
            ]
        )
    return Dataset(
        name="digits",
        source=Arrays(arranged, labels),
        shape=layouts.shape_of(layout),
        label_names=tuple(str(digit) for digit in range(10)),
        fingerprint=fingerprint_of(identity),
        split=split,
    )
