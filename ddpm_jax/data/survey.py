"""A first look at a folder: every picture opened and decoded once.

What is found (sizes, modes, broken files) is remembered in the user's cache folder
under the key of the listing, so that the next start asks the file system alone.
"""

import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax import files
from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import CORES
from ddpm_jax.data.listing import Listing

_CHUNK = 64  # pictures a thread takes at a time
_SHOWN = 3  # broken files that a message spells out


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found in a folder.

    Attributes:
        listing: of the N pictures.
        sizes: int32 [N, 2], (H, W) in pixels as seen upright; 0 of a broken one.
        modes: Pillow's word for the pixels of each, "" of a broken one.
        broken: index -> why the file cannot be read.
    """

    listing: Listing
    sizes: np.ndarray
    modes: tuple[str, ...]
    broken: dict[int, str]

    @property
    def whole(self) -> list[int]:
        """Indices of the pictures that can be read."""
        return [i for i in range(len(self.listing)) if i not in self.broken]

    def count_modes(self) -> list[tuple[str, int]]:
        """Count the modes, the most frequent first."""
        return Counter(mode for mode in self.modes if mode).most_common()

    def count_sizes(self) -> list[tuple[tuple[int, int], int]]:
        """Count the sizes (H, W), the most frequent first."""
        return Counter(map(tuple, self.sizes[self.whole].tolist())).most_common()


def survey(listing: Listing) -> Survey:
    """Decode every picture of a listing, or recall what was found before.

    A progress bar appears, on a terminal, after five seconds.
    """
    place = files.cache_folder("looks", f"{listing.key}.npz")
    return _recall(place, listing) or _look(place, listing)


def _recall(place: Path, listing: Listing) -> Survey | None:
    try:
        with np.load(place) as stored:
            sizes, modes = stored["sizes"], stored["modes"]
            broken = dict(
                zip(stored["broken"].tolist(), stored["reasons"].tolist(), strict=True)
            )
    except (OSError, ValueError, KeyError, EOFError):  # none there, or a damaged one
        return None
    return Survey(listing, sizes, tuple(modes.tolist()), broken)


def _look(place: Path, listing: Listing) -> Survey:
    from tqdm import tqdm

    count = len(listing)
    sizes, modes, broken = np.zeros((count, 2), np.int32), [""] * count, {}

    def look(start):
        stop = min(start + _CHUNK, count)
        for index in range(start, stop):
            found = _open(listing.path(index))
            if isinstance(found, str):
                broken[index] = found
            else:
                sizes[index], modes[index] = found
        return stop - start

    bar = tqdm(total=count, desc="looking", unit="image", delay=5, disable=None)
    pool = ThreadPoolExecutor(CORES, thread_name_prefix="look")
    try:
        for done in pool.map(look, range(0, count, _CHUNK)):
            bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    broken = dict(sorted(broken.items()))
    arrays = {
        "sizes": sizes,
        "modes": np.array(modes, np.str_),
        "broken": np.array(list(broken), np.int64),
        "reasons": np.array(list(broken.values()), np.str_),
    }
    files.write_npz(place, arrays)
    return Survey(listing, sizes, tuple(modes), broken)


def _open(path: Path) -> tuple[tuple[int, int], str] | str:
    """Return ((H, W) as seen, mode), or why the picture cannot be decoded."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image.load()
            return layouts.seen_size(image), image.mode
    except layouts.BROKEN as error:
        return layouts.reason_of(error)


def describe_broken(found: Survey, name: str, place: Path | None = None) -> str:
    """Name broken files, of which there is at least one, and say what to do.

    Args:
        found: the survey.
        name: of the data set.
        place: a file that lists all of them, if one was written.
    """
    shown = list(found.broken.items())[:_SHOWN]
    said = ", ".join(f"{found.listing.files[i]} ({reason})" for i, reason in shown)
    more = len(found.broken) - len(shown)
    rest = f" and {more:,} more" if more else ""
    listed = f"; all are listed in {place}" if place else ""
    return (
        f"{name} has broken files, {len(found.broken):,} of {len(found.listing):,}: "
        f"{said}{rest}{listed}; repair or remove them, or give "
        "--config.data.skip_broken=True to leave them out."
    )


def write_broken(path: Path, found: Survey) -> None:
    """Write a line for each broken file: its name, a tab, what is wrong."""
    lines = [f"{found.listing.files[i]}\t{why}\n" for i, why in found.broken.items()]
    files.write_text(path, "".join(lines))
