"""Arrays of one file: `npy:FILE.npy` or `npz:FILE.npz`, items of any shape.

uint8 [N, H, W, C] are images of any number of channels, 4 being RGBA, and uint8
[N, H, W] grey ones. float32 [N, ...] are items of any rank, used as they are: points
[N, D], signals [N, L, C], clips [N, F, H, W, C]. An .npz holds one such array, under
any name, and classes too if it has integers [N] under "label", or "arr_1" beside
"arr_0" as samples.npz of this program has.

Nothing in a file is executed: pickled objects are refused.
"""

import hashlib
from pathlib import Path

import numpy as np

from ddpm_jax.data.dataset import (
    MAX_BYTES,
    Arrays,
    Dataset,
    fingerprint_of,
)
from ddpm_jax.data.hold_out import check_split, split_indices
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

KINDS = ("npy", "npz")
_LABELS = {"label", "arr_1"}
_CHUNK = 64 * 1024**2  # bytes that are checked and hashed together


def load_arrays(kind: str, path: str, *, split: str, hold_out: int = 0) -> Dataset:
    """Open the array of a file as a data set.

    The fingerprint covers all values, and not where the file lies.

    Args:
        kind: "npy" or "npz".
        path: the file; `~` is expanded.
        split: "train" or "all"; with `hold_out` "train" is the rest, and "test" what is
            held out.
        hold_out: N: every N-th item is for testing, in the file's order; 0: none.

    Raises:
        UserError: there is no such file, it is damaged, or does not hold one array of
            uint8 or finite float32, and labels that fit.
        NoSplitError: no such split.
    """
    name = f"{kind}:{files.printable(path)}"
    check_split(split, hold_out, name)
    items, labels = _read(kind, Path(path).expanduser(), name)
    _check_items(items, name)
    if items.dtype == np.uint8 and items.ndim == 3:
        items = items[..., None]  # grey
    digest = _digest_finite(items, name)
    names = None
    if labels is not None:
        labels = _check_labels(labels, len(items), name)
        names = tuple(str(number) for number in range(int(labels.max()) + 1))
        digest.update(labels.tobytes())
    chosen = split_indices(len(items), split, hold_out, name)
    if chosen is not None:
        items = items[chosen]
        labels = None if labels is None else labels[chosen]
    identity = ["arrays", items.shape, str(items.dtype), digest.digest()]
    return Dataset(
        name=name,
        source=Arrays(items, labels),
        shape=items.shape[1:],
        label_names=names,
        fingerprint=fingerprint_of(
            [*identity, "all" if chosen is None else (split, hold_out)]
        ),
        split=split,
    )


def _read(kind: str, path: Path, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the array of items, and the labels if there are some."""
    try:
        if kind == "npy":
            return files.read_npy(path, mmap_above=MAX_BYTES), None
        arrays = files.read_npz(path)
    except FileNotFoundError as error:
        raise UserError(f"{name} is not there; give the path of the file.") from error
    except files.DamagedError as error:
        raise UserError(
            f"cannot read {name} ({error}); write plain numbers with "
            f"np.{_writer(kind)}."
        ) from error
    labels = {key: arrays[key] for key in _LABELS & set(arrays)}
    others = [key for key in arrays if key not in labels]
    if len(others) != 1 or len(labels) > 1:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(
            f"{name} holds {found}; it must hold one array of items, and beside it at "
            "most the classes, under 'label'."
        )
    return arrays[others[0]], next(iter(labels.values()), None)


def _writer(kind: str) -> str:
    return "save" if kind == "npy" else "savez"


def _check_items(items: np.ndarray, name: str) -> None:
    shape = "x".join(map(str, items.shape))
    if items.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"{name} holds {items.dtype}; convert it to uint8 for images of 0 to 255, "
            "or to float32."
        )
    if items.ndim < 2 or 0 in items.shape:
        raise UserError(
            f"{name} holds an array of shape {shape or 'none'}; its first axis must "
            "count the items, and each must hold numbers: [N, ...]."
        )


def _digest_finite(items: np.ndarray, name: str) -> "hashlib._Hash":
    """Hash all values, and refuse those that are not finite."""
    digest = hashlib.sha256()
    rows = max(1, _CHUNK // max(1, items[0].nbytes))
    for start in range(0, len(items), rows):
        chunk = np.ascontiguousarray(items[start : start + rows])
        if chunk.dtype == np.float32 and not np.isfinite(chunk).all():
            finite = np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
            raise UserError(
                f"{name} has values that are not finite, the first in item "
                f"{start + int(np.argmin(finite))}; remove or repair such items."
            )
        digest.update(chunk.data)
    return digest


def _check_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise UserError(
            f"the labels of {name} are {labels.dtype} {list(labels.shape)}; give an "
            f"integer for each item, [{count}]."
        )
    if labels.min() < 0 or labels.max() >= count:
        raise UserError(
            f"the labels of {name} go from {labels.min()} to {labels.max()}; number "
            "the classes 0, 1, 2 and so on."
        )
    return labels.astype(np.int32)
