"""Your own pictures, at any size from 16 to 256 pixels: docs/your-pictures.md.

Command:   python main.py --config=folder:64 --config.data.source=folder:photos
           where photos is your folder and 64 the size that pictures are brought to,
           which may be left out; 32,48 is a height and a width
Model:     by the size, as the table below says; `main.py plan` gives its parameters,
           memory and time, `main.py look` looks at the pictures
Time:      not measured; see `main.py plan`
Sources:   up to 32 the model of Ho et al. 2020 for CIFAR-10, up to 256 theirs for LSUN
           and CelebA-HQ; between them the levels of Dhariwal and Nichol 2021
"""

import re
from typing import NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    Cosine,
    Data,
    Diffusion,
    Fit,
    Linear,
    Stratified,
    UNet,
    recipe,
)

SIZE = 64  # if none is given


class Row(NamedTuple):
    """What a recipe does up to some size.

    The smaller the pictures, the wider the network can be; the larger, the deeper it
    must be, for the coarsest map to see the whole.
    """

    size: int  # pixels; the row serves this and smaller sizes
    channels: int
    channel_multipliers: tuple[int, ...]
    dropout: float
    batch_size: int
    learning_rate: float
    num_steps: int
    schedule: Cosine | Linear


TABLE = (
    Row(24, 64, (1, 2, 2), 0.1, 128, 2e-4, 100_000, Cosine()),
    Row(32, 128, (1, 2, 2, 2), 0.1, 128, 2e-4, 200_000, Cosine()),
    Row(64, 128, (1, 2, 3, 4), 0.1, 64, 1e-4, 300_000, Cosine()),
    Row(128, 128, (1, 1, 2, 3, 4), 0.0, 64, 1e-4, 400_000, Linear()),
    Row(256, 128, (1, 1, 2, 2, 4, 4), 0.0, 64, 2e-5, 500_000, Linear()),
)
SMALLEST, LARGEST = 16, TABLE[-1].size

# Options that the network was chosen by, and what to do to change them.
FIXED = {"data.image_size": "give the size as --config=configs/folder.py:SIZE"}


def get_config(argument: str = ""):
    """Return the recipe for a size, as "64" or "32,48"; "" for the usual one."""
    height, width = _sizes(argument)
    row = next(row for row in TABLE if max(height, width) <= row.size)
    _check_halvings(height, width, row)
    shorter = min(height, width)
    sides = [shorter >> level for level in range(len(row.channel_multipliers))]
    return recipe(
        Diffusion(
            data=Data(
                source="folder:",  # the user's
                image_size=height if height == width else (height, width),
            ),
            network=UNet(
                channels=row.channels,
                channel_multipliers=row.channel_multipliers,
                # Where every position can look at every other at little cost.
                attention_resolutions=(next(s for s in sides if s <= 16),),
                dropout=row.dropout,
            ),
            schedule=row.schedule,
            variance="small",  # the better one at fewer steps than T
            times=Stratified(),
        ),
        Fit(
            num_steps=row.num_steps,
            batch_size=row.batch_size,
            learning_rate=row.learning_rate,
            preview_every=10_000,
        ),
        sample={"num_steps": 250},  # of 1000, evenly spaced
    )


def _sizes(argument: str) -> tuple[int, int]:
    """Read "64", or "32,48" (or "32x48"), as (height, width)."""
    if not argument:
        return SIZE, SIZE
    match = re.fullmatch("([0-9]{1,4})(?:[,x]([0-9]{1,4}))?", argument)
    height, width = map(int, (match[1], match[2] or match[1])) if match else (0, 0)
    if not SMALLEST <= min(height, width) <= max(height, width) <= LARGEST:
        raise UserError(
            f"--config=configs/folder.py:{argument[:20]} names no size; use {SMALLEST} "
            f"to {LARGEST} pixels, such as configs/folder.py:{SIZE}, or a height and a "
            "width, such as configs/folder.py:32,48."
        )
    return height, width


def _check_halvings(height: int, width: int, row: Row) -> None:
    halvings = len(row.channel_multipliers) - 1
    step = 2**halvings
    if height % step or width % step:
        below = [max(side // step, 1) * step for side in (height, width)]
        above = [-(-side // step) * step for side in (height, width)]
        fits = " or ".join(dict.fromkeys([_format(*below), _format(*above)]))
        raise UserError(
            f"pictures of {_format(height, width)} pixels do not halve {halvings} "
            f"times, as the network does with them; use {fits}."
        )


def _format(height: int, width: int) -> str:
    return str(height) if height == width else f"{height},{width}"
