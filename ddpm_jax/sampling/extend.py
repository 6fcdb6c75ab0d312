"""Clips longer than a model's: one block after another, each begun by the last frames.

A model of F frames makes a longer clip in blocks that overlap: the last K frames so far
are the first K of the next block, of which the model samples the F - K others.

    given    | a b c d e f g h |
    block 1          | e f g h . . . . |
    block 2                  | . . . . . . . . |

Memory is that of a block, however long the clip.

Source: Ho et al. 2022, "Video Diffusion Models", section 3.1.
"""

from typing import NamedTuple

from ddpm_jax.errors import UserError


class Block(NamedTuple):
    """A block of a clip.

    Attributes:
        known: frames that it begins with, and that are there.
        new: frames that are kept of those that it adds.
    """

    known: int
    new: int


def blocks_of(num_given: int, num_frames: int, length: int, known: int) -> list[Block]:
    """Lay out the blocks that bring a clip to its length.

    Args:
        num_given: frames that are there.
        num_frames: frames that are wanted.
        length: F, frames of a block.
        known: K, frames of a block that are known, where so many are there.

    Raises:
        UserError: a number does not fit.
    """
    if not 1 <= known < length:
        raise UserError(
            f"config.extend.known={known} does not fit blocks of {length} frames; use "
            f"1 to {length - 1}."
        )
    if num_frames <= num_given:
        raise UserError(
            f"config.extend.frames={num_frames} is no more than the {num_given} that "
            "are given; use more."
        )
    blocks = []
    while num_given < num_frames:
        of_block = min(known, num_given)
        new = min(length - of_block, num_frames - num_given)
        blocks.append(Block(of_block, new))
        num_given += new
    return blocks
