"""Survey of a folder: every image is opened and decoded once.

The results (sizes, modes, broken files) are stored in the user's cache folder
under the key of the listing, so that the next start only needs the file system.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ddpm_jax.data import layout as layouts
from ddpm_jax.data.dataset import CORES
from ddpm_jax.data.listing import Listing
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.runtime.files import printable
from ddpm_jax.runtime.image_file import BROKEN, open_image, reason_of

_CHUNK = 64  # images a thread takes at a time
_LISTED = 3  # broken files that a message spells out


@dataclass(frozen=True, eq=False)
class Survey:
    """The state of all images of a folder.

    Attributes:
        listing: of the N images.
        sizes: int32 [N, 2], (H, W) in pixels when upright; 0 of a broken one.
        modes: Pillow's word for the pixels of each, "" of a broken one.
        broken: index -> why the file cannot be read.
        peaks: int32 [N], the largest sample of 16-bit gray images, -1 of others.
        animated: indices of animations and multi-page files; their first frame is used.
    """

    listing: Listing
    sizes: np.ndarray
    modes: tuple[str, ...]
    broken: dict[int, str]
    peaks: np.ndarray
    animated: tuple[int, ...]

    @property
    def whole(self) -> list[int]:
        """Indices of the images that can be read."""
        return [i for i in range(len(self.listing)) if i not in self.broken]

    def count_modes(self) -> list[tuple[str, int]]:
        """Count the modes, the most frequent first."""
        return Counter(mode for mode in self.modes if mode).most_common()

    def count_sizes(self) -> list[tuple[tuple[int, int], int]]:
        """Count the sizes (H, W), the most frequent first."""
        return Counter(map(tuple, self.sizes[self.whole].tolist())).most_common()


def survey(listing: Listing) -> Survey:
    """Decode every image of a listing, or read the stored results.

    A progress bar appears, on a terminal, after five seconds.
    """
    place = files.cache_folder("looks", f"{listing.key}.npz")
    return _recall(place, listing) or _look(place, listing)


def _recall(place: Path, listing: Listing) -> Survey | None:
    try:
        stored = files.read_npz(place)
        broken = dict(
            zip(stored["broken"].tolist(), stored["reasons"].tolist(), strict=True)
        )
        result = Survey(
            listing,
            stored["sizes"],
            tuple(stored["modes"].tolist()),
            broken,
            stored["peaks"],
            tuple(stored["animated"].tolist()),
        )
        count = len(listing)
        if result.sizes.shape != (count, 2) or not all(
            len(one) == count for one in (result.modes, result.peaks)
        ):
            return None
        if not all(0 <= index < count for index in (*broken, *result.animated)):
            return None
    except (
        OSError,
        TypeError,
        ValueError,
        KeyError,
        files.DamagedError,
    ):  # none, or damaged
        return None
    return result


def _look(place: Path, listing: Listing) -> Survey:
    from tqdm import tqdm

    count = len(listing)
    results: list[_Decoded | str] = [""] * count

    def decode(start):
        stop = min(start + _CHUNK, count)
        for index in range(start, stop):
            results[index] = _open(listing.path(index))
        return stop - start

    bar = tqdm(total=count, desc="surveying", unit="image", delay=5, disable=None)
    pool = ThreadPoolExecutor(CORES, thread_name_prefix="survey")
    try:
        for done in pool.map(decode, range(0, count, _CHUNK)):
            bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    made = _gather(listing, results)
    arrays = {
        "sizes": made.sizes,
        "modes": np.array(made.modes, np.str_),
        "broken": np.array(list(made.broken), np.int64),
        "reasons": np.array(list(made.broken.values()), np.str_),
        "peaks": made.peaks,
        "animated": np.array(made.animated, np.int64),
    }
    with files.optional("the survey of the images"):
        files.write_npz(place, arrays)
    return made


class _Decoded(NamedTuple):
    """One image that can be decoded."""

    size: tuple[int, int]
    mode: str
    peak: int
    is_animated: bool


def _gather(listing: Listing, results: Sequence[_Decoded | str]) -> Survey:
    """Turn the results, or reasons for none, into arrays."""
    broken = _Decoded((0, 0), "", -1, False)
    decoded = [broken if isinstance(one, str) else one for one in results]
    return Survey(
        listing,
        np.array([one.size for one in decoded], np.int32).reshape(-1, 2),
        tuple(one.mode for one in decoded),
        {index: one for index, one in enumerate(results) if isinstance(one, str)},
        np.array([one.peak for one in decoded], np.int32),
        tuple(index for index, one in enumerate(decoded) if one.is_animated),
    )


def _open(path: Path) -> _Decoded | str:
    """Decode an image, or return why it cannot be decoded."""
    try:
        with open_image(path) as image:
            image.load()
            peak = layouts.peak_of(image)
            return _Decoded(
                layouts.upright_size(image),
                image.mode,
                -1 if peak is None else peak,
                _is_animated(image),
            )
    except BROKEN as error:
        return reason_of(error)


def _is_animated(image: Image.Image) -> bool:
    # Photographs of telephones are MPO: a second image is for other programs.
    if image.format == "MPO":
        return False
    try:
        return getattr(image, "is_animated", False)
    except BROKEN:  # the first frame, which is what is used, could be read
        return True


def describe_broken(found: Survey, name: str, place: Path | None = None) -> str:
    """Return a message on broken files, of which there is at least one.

    Args:
        found: the survey.
        name: of the data set.
        place: a file that lists all of them, if one was written.
    """
    first = list(found.broken.items())[:_LISTED]
    described = ", ".join(
        f"{printable(found.listing.files[i])} ({reason})" for i, reason in first
    )
    more = len(found.broken) - len(first)
    rest = f" and {more:,} more" if more else ""
    listed = f"; all are listed in {place}" if place else ""
    return (
        f"{name} has broken files, {len(found.broken):,} of {len(found.listing):,}: "
        f"{described}{rest}{listed}; repair or remove them, or give "
        "--config.data.skip_broken=True to leave them out."
    )


def write_broken(path: Path, found: Survey) -> None:
    """Write a line for each broken file: its name, a tab, what is wrong."""
    names = found.listing.files
    lines = [f"{printable(names[i])}\t{why}\n" for i, why in found.broken.items()]
    files.write_text(path, "".join(lines))


class BrokenFilesError(UserError):
    """Some files of a folder cannot be decoded.

    Attributes:
        found: the survey that names them.
        name: of the data set.
    """

    def __init__(self, found: Survey, name: str):
        super().__init__(describe_broken(found, name))
        self.found, self.name = found, name
