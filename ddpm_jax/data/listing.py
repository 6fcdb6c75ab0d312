"""Listing of the images of a folder: names, sizes and times, without opening any.

Links are followed, to files and to folders. A link to a folder that contains it would
never end and is left out; behind a second link each folder is read once. Names that
begin with a dot belong to other programs and are left out with all below them. What is
left out, and why, is part of the listing.

The order is that of the sorted relative paths. A million files are listed in seconds,
since a listing takes the file system alone.
"""

import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ddpm_jax.data import captions
from ddpm_jax.data.dataset import fingerprint_of
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import printable
from ddpm_jax.runtime.image_file import SUFFIXES

# Why an entry of a folder is left out, in the order in which it is reported.
KIND = "of other kinds"
NO_TARGET = "links that lead nowhere"
LOOP = "links to a folder above or read before"
SPECIAL = "neither files nor folders"
EMPTY = "folders without images"
HIDDEN = "hidden"
REASONS = (KIND, NO_TARGET, LOOP, SPECIAL, EMPTY, HIDDEN)

# In these formats the size does not depend on the content.
_UNCOMPRESSED = (".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff")
_SAMPLED = 16  # number of files whose parts are hashed, about
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Listing:
    """The images of a folder, sorted by the parts of their paths.

    Attributes:
        root: the folder.
        files: paths below it, with "/" between their parts.
        sizes: bytes of each.
        times: when each was last changed, nanoseconds since 1970.
        left_out: (path below the folder, one of `REASONS`) of all else in it, sorted.
    """

    root: Path
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    times: tuple[int, ...]
    left_out: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __len__(self):
        return len(self.files)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.root / self.files[index]

    @property
    def identity(self) -> list[object]:
        """What stays when a folder is copied, for a fingerprint.

        Names and sizes, and parts of some files where the size is that of any image.
        """
        names_and_sizes = list(zip(self.files, self.sizes, strict=True))
        if any(name.lower().endswith(_UNCOMPRESSED) for name in self.files):
            return [names_and_sizes, self.sample]
        return [names_and_sizes]

    @functools.cached_property
    def key(self) -> str:
        """16 hexadecimal digits of names, sizes, times and parts of some files.

        They change when a file does, and not when the folder is moved.
        """
        return fingerprint_of([self.files, self.sizes, self.times, self.sample])

    @functools.cached_property
    def sample(self) -> str:
        """SHA-256 of parts of some files, which distinguish folders of equal names."""
        digest = hashlib.sha256()
        for index in range(0, len(self), max(1, len(self) // _SAMPLED)):
            try:
                with self.path(index).open("rb") as file:
                    digest.update(file.read(_SAMPLE_BYTES))
                    file.seek(self.sizes[index] // 2)
                    digest.update(file.read(_SAMPLE_BYTES))
            except OSError as error:
                digest.update(repr(error.errno).encode())
        return digest.hexdigest()

    def take(self, indices: list[int]) -> "Listing":
        """Return some of the images, in the order given."""
        return Listing(
            self.root,
            tuple(self.files[i] for i in indices),
            tuple(self.sizes[i] for i in indices),
            tuple(self.times[i] for i in indices),
            self.left_out,
        )

    def describe_left_out(self, most: int = 3) -> str:
        """Count what is left out by reason and name some of each; "" for nothing.

        Args:
            most: names listed for each reason.
        """
        lines = []
        for reason in REASONS:
            names = [name for name, why in self.left_out if why == reason]
            if names:
                named = ", ".join(map(printable, names[:most]))
                dots = ", ..." if len(names) > most else ""
                lines.append(f"{reason} {len(names):,} ({named}{dots})")
        return "; ".join(lines)


def list_images(root: Path) -> Listing:
    """List all files under a folder that end as image files do.

    Raises:
        UserError: a folder cannot be listed.
    """
    search = _Search()
    status = root.stat()
    search.enter(str(root), "", ((status.st_dev, status.st_ino),), 0)
    while search.folders:
        search.enter(*search.folders.pop())
    entries = sorted(search.found, key=lambda row: row[0].split("/"))
    names, sizes, times = zip(*entries, strict=True) if entries else ((), (), ())
    left_out = sorted([*search.left_out, *search.empty()])
    return Listing(root, names, sizes, times, tuple(left_out))


class _Search:
    """A search through a folder, the folders still to be entered being on a stack."""

    def __init__(self):
        self.found: list[tuple[str, int, int]] = []  # name, size, time
        self.left_out: list[tuple[str, str]] = []
        # Path, prefix of names, identities of the folders above, links on the way.
        self.folders: list[tuple[str, str, tuple[tuple[int, int], ...], int]] = []
        self.tops: list[str] = []  # folders directly below the root
        self.behind_links: set[tuple[int, int]] = set()

    def enter(self, folder: str, prefix: str, above: tuple, links: int) -> None:
        """Sort the entries of a folder into images, folders and what is left out."""
        for entry, status in self._entries(folder, prefix):
            name = prefix + entry.name
            if stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                through = links + entry.is_symlink()
                if self._is_repeated(identity, above, through):
                    self.left_out.append((name, LOOP))
                    continue
                if not prefix:
                    self.tops.append(name)
                below = (*above, identity)
                self.folders.append((entry.path, f"{name}/", below, through))
            elif not stat.S_ISREG(status.st_mode):
                self.left_out.append((name, SPECIAL))
            elif entry.name.lower().endswith(SUFFIXES):
                self.found.append((name, status.st_size, status.st_mtime_ns))
            elif name != captions.NAME:
                self.left_out.append((name, KIND))

    def _entries(
        self, folder: str, prefix: str
    ) -> Iterator[tuple[os.DirEntry, os.stat_result]]:
        try:
            with os.scandir(folder) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"cannot list the folder {printable(folder)} ({error.strerror}); make "
                "it readable, or move it away."
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                self.left_out.append((prefix + entry.name, HIDDEN))
                continue
            try:
                yield entry, entry.stat()
            except OSError:  # also of links that lead to each other
                self.left_out.append((prefix + entry.name, NO_TARGET))

    def _is_repeated(self, identity: tuple[int, int], above: tuple, links: int) -> bool:
        if identity in above:
            return True
        if links < 2:
            return False
        # Folders that link to each other could be walked in more orders than would end.
        known = identity in self.behind_links
        self.behind_links.add(identity)
        return known

    def empty(self) -> list[tuple[str, str]]:
        """List the folders directly below the root without any image."""
        filled = {name.partition("/")[0] for name, _, _ in self.found}
        return [(f"{top}/", EMPTY) for top in self.tops if top not in filled]
