"""Reference statistics: mean and covariance of features, in the usual .npz layout.

`mu` [D] and `sigma` [D, D] are the names of pytorch-fid, clean-fid and guided-diffusion
(whose reference batches hold more beside them). Ours add `count` and `provenance`, a
text of JSON: which data, split, resolution, network, weights and resize.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files


class Statistics(NamedTuple):
    """Mean and covariance of the features of a set of images, by one network.

    Attributes:
        mean: float64 [D].
        covariance: float64 [D, D].
        count: images they are of; None if the file does not say.
        provenance: where they come from, as plain data; None if the file does not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None  # type: ignore[assignment]  # hides a method of tuples
    provenance: dict[str, Any] | None = None


def write_statistics(path: str | Path, statistics: Statistics) -> None:
    """Write statistics; programs for `mu` and `sigma` can read them.

    Raises:
        UserError: a number is not finite, or the file cannot be written.
    """
    _check(path, statistics.mean, statistics.covariance)
    arrays = {"mu": statistics.mean, "sigma": statistics.covariance}
    if statistics.count is not None:
        arrays["count"] = np.asarray(statistics.count)
    if statistics.provenance is not None:
        arrays["provenance"] = np.asarray(json.dumps(statistics.provenance))
    files.write_npz(path, arrays)


def read_statistics(path: str | Path) -> Statistics:
    """Read statistics of ours or of another program; nothing in the file is executed.

    Raises:
        UserError: no such file, no such arrays, or arrays of other shapes.
    """
    try:
        stored = files.read_npz(path, only=("mu", "sigma", "count", "provenance"))
    except (FileNotFoundError, files.DamagedError) as error:
        raise UserError(
            f"cannot read {path} as statistics ({error}); give an .npz with mu and "
            "sigma."
        ) from error
    missing = [name for name in ("mu", "sigma") if name not in stored]
    if missing:
        raise UserError(
            f"{path} holds no {' and no '.join(missing)}; statistics are an .npz with "
            "mu [D] and sigma [D, D]."
        )
    mean, covariance = stored["mu"], stored["sigma"]
    _check(path, mean, covariance)
    return Statistics(
        np.asarray(mean, np.float64),
        np.asarray(covariance, np.float64),
        _count(path, stored["count"]) if "count" in stored else None,
        _provenance(path, stored["provenance"]) if "provenance" in stored else None,
    )


def _count(path: str | Path, stored: np.ndarray) -> int:
    if stored.shape != () or stored.dtype.kind not in "iu" or stored < 1:
        raise UserError(
            f"count of {path} is not the number of its images; compute the statistics "
            "again."
        )
    return int(stored)


def _provenance(path: str | Path, stored: np.ndarray) -> dict[str, Any]:
    try:
        about = json.loads(str(stored))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise UserError(
            f"provenance of {path} is not the JSON that was written there; compute the "
            "statistics again."
        )
    return about


def _check(path: str | Path, mean: np.ndarray, covariance: np.ndarray) -> None:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(
            f"mu and sigma of {path} have shapes {list(mean.shape)} and "
            f"{list(covariance.shape)}; want [D] and [D, D]."
        )
    numbers = mean.dtype.kind == "f" and covariance.dtype.kind == "f"
    if not numbers or not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(
            f"mu and sigma of {path} are not all finite numbers; compute them again."
        )
