"""The data of a recipe."""

import dataclasses
from typing import Literal

from ddpm_jax import limits
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.data.sources import load
from ddpm_jax.errors import UserError

Size = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, and how its items are brought to what a model takes.

    Attributes:
        source: digits, shapes, solids, points:NAME, motion:NAME, folder:PATH,
            clips:PATH, npy:FILE, npz:FILE, or a TFDS name; "" of an imported model
            whose data are not known.
        split: train, test or all, or as TFDS writes them.
        data_dir: of TFDS data sets; None for $TFDS_DATA_DIR.
        image_size: side, or height and width as 32,48, that images are brought to; 0
            or None: as they are.
        resize: how: crop, pad_black, pad_white or squash.
        channels: 1 gray, 3 color, 4 RGBA; 0 or None: as stored.
        pad_to: pad with zeros to such a size; 0 or None: not.
        flip: mirror half of the training images left to right.
        on_device_mb: keep images of up to so many MB on each device.
        skip_broken: of a folder: leave out files that cannot be read.
        label_field: of a folder: the class in metadata.jsonl; None for "label".
        sample_bits: of a folder: that 16-bit gray files use; with 12, 4095 is white.
        hold_out: of a folder or an array: every so many items are the split test; 0:
            none.
        cache: keep decoded images on disk, if memory is too small.
    """

    source: str = "cifar10"
    split: str = "train"
    data_dir: str | None = None
    image_size: Size | None = None
    resize: Literal["crop", "pad_black", "pad_white", "squash"] = "crop"
    channels: int | None = None
    pad_to: Size | None = None
    flip: bool = True
    on_device_mb: int = 1024
    skip_broken: bool = False
    label_field: str | None = None
    sample_bits: int = 16
    hold_out: int = 0
    cache: bool = True

    def __post_init__(self) -> None:
        limits.at_least(self, 0, "on_device_mb")
        for name in ("image_size", "pad_to"):
            limits.between(self, name, 0, 65_536)

    def open(self, split: str | None = None) -> Dataset:
        """Open the data set; nothing is decoded yet.

        Args:
            split: another than that of the spec; None for that.

        Raises:
            UserError: it cannot be opened, or must not be mirrored.
        """
        opened = load(
            self.source,
            split=self.split if split is None else split,
            image_size=self.image_size or None,
            channels=self.channels or None,
            pad_to=self.pad_to or None,
            data_dir=self.data_dir,
            resize=self.resize,
            skip_broken=self.skip_broken,
            label_field=self.label_field or None,
            hold_out=self.hold_out,
            cache=self.cache,
            sample_bits=self.sample_bits,
        )
        if opened.sided and self.flip:
            raise UserError(
                f"config.data.flip=True mirrors images, and the captions of "
                f"{opened.name} say left and right; set it to False."
            )
        return opened
