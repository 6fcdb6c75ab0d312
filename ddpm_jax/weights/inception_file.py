"""Finding the weights of the Inception network: a file given, cached, or fetched once.

    params, digest = load_inception(None, parameter_shapes())

The weights are 91 MiB that others publish, and no part of this project. Three files
hold the same numbers and are distinguished by their first bytes, not by their names:
that of pytorch-fid (.pth), the TensorFlow graph (.pb), and the archive it was published
in (.tgz). None of them is trusted: see torch_file.py and tensorflow_graph.py.
"""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import CACHE_VARIABLE, cache_folder
from ddpm_jax.weights.inception_weights import from_graph, from_torch
from ddpm_jax.weights.tensorflow_graph import (
    GRAPH_NAME,
    GZIP_START,
    NODE_START,
    read_constants,
)
from ddpm_jax.weights.torch_file import LEGACY_START, ZIP_START, read_tensors

FILE_VARIABLE = "DDPM_JAX_INCEPTION"

_CHUNK = 2**20  # bytes
_PATIENCE = 30  # seconds without an answer


class Published(NamedTuple):
    """A file that is published under an address and known by its contents."""

    url: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


PYTORCH_FID = Published(
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    95_628_359,
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)


def name_of(digest: str) -> str:
    """Name features after the file of their weights: the usual one, or its hash.

    Args:
        digest: SHA-256 of the file, hexadecimal.
    """
    if digest == PYTORCH_FID.sha256:
        return "inception-2015-12-05"
    return f"inception-{digest[:8]}"


def load_inception(
    path: str | Path | None, shapes: Any, *, published: Published = PYTORCH_FID
) -> tuple[dict[str, Any], str]:
    """Load the weights of the Inception network from the first place that has them.

    These are `path`; the file that $DDPM_JAX_INCEPTION names; the cache, which is
    $DDPM_JAX_CACHE or ~/.cache/ddpm_jax; and the address that it is published under,
    from which it is fetched to the cache.

    Args:
        path: a file given by the user, or None.
        shapes: the tree of the network's parameters, as leaves with a shape.
        published: what is fetched.

    Returns:
        The parameters, float32; the SHA-256 of the file they were read from, as 64
        hexadecimal digits.

    Raises:
        UserError: a file is missing, damaged, or of another network; or there is none
            and it cannot be fetched.
    """
    given = path or os.environ.get(FILE_VARIABLE)
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(
                f"there is no file {path} with the weights of Inception; correct the "
                f"path, or give none to have {published.file_name} fetched."
            )
        digest = _sha256(path)
    else:
        path, digest = _cached(published)
    return read_weights(path, shapes), digest


def read_weights(path: Path, shapes: Any) -> dict[str, Any]:
    """Read a file of any of the three kinds, and check that all of it fits.

    Args:
        path: the file.
        shapes: the tree of the network's parameters, as leaves with a shape.

    Raises:
        UserError: it is damaged, of another kind, or of another network.
    """
    with path.open("rb") as stream:
        start = stream.read(len(LEGACY_START))
    if start.startswith(ZIP_START) or start == LEGACY_START:
        return from_torch(read_tensors(path), shapes, str(path))
    if start.startswith((GZIP_START, NODE_START)):
        return from_graph(read_constants(path), shapes, str(path))
    raise UserError(
        f"{path} holds no weights: it is neither a PyTorch file nor a TensorFlow "
        f"graph; give {PYTORCH_FID.file_name} or {GRAPH_NAME}."
    )


def _cached(published: Published) -> tuple[Path, str]:
    path = cache_folder(published.file_name)
    if not path.exists():
        _fetch(published, path)
    digest = _sha256(path)
    if digest != published.sha256:
        raise UserError(
            f"the cached file {path} is damaged: its SHA-256 is {digest[:16]}..., not "
            f"{published.sha256[:16]}...; delete it and run again."
        )
    return path, digest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(published: Published, path: Path) -> None:
    """Fetch a file to a temporary name and give it its own when it proves right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); set {CACHE_VARIABLE} to a folder "
            "that can be written."
        ) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _download(published, file)
        size, digest = temporary.stat().st_size, _sha256(temporary)
        if (size, digest) != (published.size, published.sha256):
            raise UserError(
                f"{published.url} sent {size} bytes with SHA-256 {digest[:16]}..., not "
                f"{published.size} with {published.sha256[:16]}...; nothing was kept. "
                f"{_by_hand(published, path)}"
            )
        temporary.chmod(0o644)  # mkstemp lets nobody else read
        temporary.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise UserError(
            f"cannot fetch the weights of Inception from {published.url} ({reason}); "
            f"{_by_hand(published, path)}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _by_hand(published: Published, path: Path) -> str:
    return (
        f"put {published.file_name} from there at {path}, or name your copy with "
        f"--config.evaluate.weights or ${FILE_VARIABLE}; a classifier of your own data "
        "(configs/digits_features.py is one) needs no such file."
    )


def _download(published: Published, file: Any) -> None:
    request = urllib.request.Request(published.url, headers={"User-Agent": "ddpm-jax"})
    bar = tqdm(
        desc=published.file_name,
        total=published.size,
        unit="B",
        unit_scale=True,
        disable=None,
        dynamic_ncols=True,
    )
    with bar, urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        # One byte too many is enough to know that it is another file.
        left = published.size + 1
        while left and (chunk := answer.read(min(_CHUNK, left))):
            file.write(chunk)
            bar.update(len(chunk))
            left -= len(chunk)
