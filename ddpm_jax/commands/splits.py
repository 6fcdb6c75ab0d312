"""Images to learn from, and others to be tested on."""

import re
from pathlib import Path

from ddpm_jax import data
from ddpm_jax.commands.look import open_to_train
from ddpm_jax.data.hold_out import split_indices
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data

_HELD_OUT = 10  # every so many images of data without a test split


def with_test_split(of: Data, workdir: Path) -> dict[str, data.Dataset]:
    """Open the images to learn from, "train", and others to be tested on.

    Args:
        of: the data.
        workdir: where lists of broken files, and of those left out, are written.

    Returns:
        Both by their names, "train" first.

    Raises:
        UserError: the data cannot be opened, or no images are left to be tested on.
    """
    source = open_to_train(of, workdir, look=True)
    try:
        test = of.open("test")
    except data.NoSplitError:
        return _held_out(source)
    if {"all", "test"} & set(re.findall(r"[A-Za-z_]+", of.split)):
        raise UserError(
            f"config.data.split={of.split!r} holds the test images, which are to "
            "tell how well the network does on others; use train."
        )
    return {"train": source, "test": test}


def _held_out(source: data.Dataset) -> dict[str, data.Dataset]:
    if len(source) < _HELD_OUT:
        raise UserError(
            f"{source.name} has {len(source)} images and no test split; every "
            f"{_HELD_OUT}th is held out, so give {_HELD_OUT} or more."
        )

    def part(split: str) -> data.Dataset:
        indices = split_indices(len(source), split, _HELD_OUT, source.name)
        assert indices is not None  # it is of all only where nothing is held out
        return data.subset(source, indices)

    named = f"every {_HELD_OUT}th image, held out"
    return {"train": part("train"), named: part("test")}
