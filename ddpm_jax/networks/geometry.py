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


def check_halves(height: int, width: int, num_levels: int) -> None:
    """Refuse images, sides in pixels, that do not halve once for all levels but one.

    Raises:
        UserError: naming the nearest sizes that do.
    """
    step = 2 ** (num_levels - 1)
    if height > 0 and width > 0 and height % step == 0 and width % step == 0:
        return
    below = [max(side // step, 1) * step for side in (height, width)]
    above = [max(-(-side // step), 1) * step for side in (height, width)]
    fits = " or ".join(f"{h}x{w}" for h, w in dict.fromkeys(map(tuple, (below, above))))
    raise UserError(
        f"images of {height}x{width} do not halve {num_levels - 1} times; "
        f"{num_levels} channel_multipliers need height and width in multiples of "
        f"{step}: resize or pad to {fits} in the data config, or use fewer levels."
    )
