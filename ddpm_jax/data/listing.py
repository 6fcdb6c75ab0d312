"""Which pictures a folder holds: names, sizes and times, without opening any file.

Files and folders whose names begin with a dot are passed over, and so are links to
folders. The order is that of the sorted relative paths. A million files are listed in
seconds, since a listing asks the file system alone.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ddpm_jax.data.dataset import fingerprint_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder, sorted by the parts of their paths.

    Attributes:
        root: the folder.
        files: paths below it, with "/" between their parts.
        sizes: bytes of each.
        times: when each was last changed, nanoseconds since 1970.
    """

    root: Path
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    times: tuple[int, ...]

    def __len__(self):
        return len(self.files)

    def path(self, index: int) -> Path:
        """Return the place of a picture."""
        return self.root / self.files[index]

    @property
    def identity(self) -> list[tuple[str, int]]:
        """Names and sizes: what stays when a folder is copied."""
        return list(zip(self.files, self.sizes, strict=True))

    @property
    def key(self) -> str:
        """16 hexadecimal digits of place, names, sizes and times.

        They change when a file does.
        """
        root = str(self.root.resolve())
        return fingerprint_of([root, self.files, self.sizes, self.times])

    def take(self, indices: list[int]) -> "Listing":
        """Return some of the pictures, in the order given."""
        return Listing(
            self.root,
            tuple(self.files[i] for i in indices),
            tuple(self.sizes[i] for i in indices),
            tuple(self.times[i] for i in indices),
        )


def list_pictures(root: Path) -> Listing:
    """List all PNG, JPEG and WebP files under a folder."""
    found = []
    folders = [("", str(root))]
    while folders:
        prefix, folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((f"{prefix}{name}/", entry.path))
                elif name.lower().endswith(SUFFIXES) and entry.is_file():
                    status = entry.stat()
                    found.append((prefix + name, status.st_size, status.st_mtime_ns))
    found.sort(key=lambda row: row[0].split("/"))
    columns = zip(*found, strict=True) if found else ((), (), ())
    return Listing(root, *map(tuple, columns))
