"""Checks of image sizes and channel counts of convolutional networks."""

from collections.abc import Sequence

from ddpm_jax.errors import UserError


def check_groups(
    channels: int, channel_multipliers: Sequence[int], num_groups: int
) -> None:
    """Refuse channels that the groups of a normalization do not divide.

    Args:
        channels: of the first convolution, and the unit of the multipliers.
        channel_multipliers: one per level, finest first.
        num_groups: of every normalization.

    Raises:
        UserError: naming the first level.
    """
    for level, multiplier in enumerate((1, *channel_multipliers)):
        if channels * multiplier % num_groups:
            raise UserError(
                f"num_groups={num_groups} does not divide the "
                f"{channels * multiplier} channels of level {max(level - 1, 0)}; "
                f"make channels a multiple of {num_groups} or lower num_groups."
            )


def check_halves(height: int, width: int, num_levels: int, patch: int = 1) -> None:
    """Refuse images, sides in pixels, that do not halve once for all levels but one.

    Args:
        height: rows of the images.
        width: columns of the images.
        num_levels: of the network.
        patch: side of the patches, pixels, whose map is halved.

    Raises:
        UserError: naming the nearest sizes that do.
    """
    step = patch * 2 ** (num_levels - 1)
    if divides(step, height, width):
        return
    does = f"halve {num_levels - 1} times"
    needs, less = f"{num_levels} channel_multipliers", "fewer levels"
    if patch > 1:
        does = f"divide into patches of {patch}x{patch} that {does}"
        needs, less = f"{needs} and patch={patch}", f"{less}, or smaller patches"
    raise UserError(
        f"images of {height}x{width} do not {does}; {needs} need height and width in "
        f"multiples of {step}: resize or pad to {nearest(step, height, width)} in the "
        f"data config, or use {less}."
    )


def divides(step: int, height: int, width: int) -> bool:
    """Tell whether both sides are positive multiples of a step, pixels."""
    return height > 0 and width > 0 and height % step == 0 and width % step == 0


def nearest(step: int, height: int, width: int) -> str:
    """Name the sizes below and above whose sides are multiples of a step, pixels."""
    below = [max(side // step, 1) * step for side in (height, width)]
    above = [max(-(-side // step), 1) * step for side in (height, width)]
    sizes = dict.fromkeys(map(tuple, (below, above)))
    return " or ".join(f"{h}x{w}" for h, w in sizes)
