"""The memory of this machine, and the refusal of what is beyond it.

A request may be a typing error: a thousand million images. It is refused before it is
allocated, since the system may end a program that allocates too much.
"""

import os

from ddpm_jax.errors import UserError


def machine_memory() -> int | None:
    """Return the bytes of this machine's memory; None where that is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def format_bytes(num_bytes: float) -> str:
    """Format a number of bytes in MB or GB."""
    return (
        f"{num_bytes / 1e9:,.2f} GB"
        if num_bytes >= 1e8
        else f"{num_bytes / 1e6:,.1f} MB"
    )


def check(option: str, count: int, each: int, memory: int | None) -> None:
    """Refuse a number of something that memory cannot hold.

    Args:
        option: the name of the number, "config.sample.num_images".
        count: its value.
        each: bytes that one of them needs, at the least.
        memory: available bytes; None if that is not known.

    Raises:
        UserError: with the largest number that memory holds.
    """
    if memory is not None and count * each > memory:
        fits = memory // max(each, 1)
        what = f"use {fits:,} or fewer" if fits else "use smaller images"
        raise UserError(
            f"{option}={count} takes {format_bytes(count * each)} at the least, "
            f"and there are {format_bytes(memory)} of memory; {what}."
        )
