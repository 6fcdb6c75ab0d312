"""The bar of a work that is done image by image."""

from tqdm import tqdm


def progress(
    total: int, what: str | None = None, *, done: int = 0, unit: str = "image"
) -> tqdm:
    """Show a bar, which a resumed run begins where it stopped.

    Args:
        total: at its end.
        what: is done; None for nothing in front of the bar.
        done: at its start.
        unit: of what is counted.
    """
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        disable=None,
        dynamic_ncols=True,
    )
