"""Features of a set of images, computed part by part and kept.

FOLDER/FEATURES/
    features.npz        features [N, D], logits [N, K] if there are any
    statistics.npz      mu and sigma in the field's layout, with where they come from

The reference's folder lies in the cache of this user, since many runs are held against
the same images; that of a set lies beside its images.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import data
from ddpm_jax.commands.image_sets import Interrupted
from ddpm_jax.data.pipeline import gather
from ddpm_jax.evaluation import mean_covariance
from ddpm_jax.evaluation.feature_extractor import (
    Extract,
    FeatureExtractor,
    Outputs,
    check_images,
)
from ddpm_jax.evaluation.reference_statistics import Statistics, write_statistics
from ddpm_jax.runtime import files
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.batching import map_batches
from ddpm_jax.runtime.devices import on_every_host
from ddpm_jax.runtime.progress import progress

_FEATURES, _STATISTICS = "features.npz", "statistics.npz"
_PARTS = "extracted"
_WHAT = "the features"


def folder_name(features: FeatureExtractor) -> str:
    """Name the folder of what a network saw after all that decides it."""
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in features.name)
    way = features.resize.replace(" ", "-")
    return f"{plain}_{features.fingerprint}" + ("" if way == "none" else f"_{way}")


class Extraction(NamedTuple):
    """A feature extractor at work: one program for all sets of images.

    Attributes:
        features: the network.
        run: of `make_extract`.
        batch_size: images at a time, over all devices.
        interrupted: asked between batches.
    """

    features: FeatureExtractor
    run: Extract
    batch_size: int
    interrupted: Callable[[], int]

    def of(
        self, source: data.Dataset, folder: Path | None, *, optional: bool = False
    ) -> Outputs:
        """Return the features of all images of a source, going on where it stopped.

        Args:
            source: the images.
            folder: where they are kept; None keeps nothing.
            optional: what cannot be written is done without, with a note.

        Returns:
            float32 [N, D] and [N, K] or None.

        Raises:
            Interrupted: by the user.
            UserError: the images are not such as the network takes, or what lies in the
                folder is of other images.
        """

        def doubt() -> contextlib.AbstractContextManager[None]:
            return files.optional(_WHAT) if optional else contextlib.nullcontext()

        with files.alone_in(folder, stop=self.interrupted):
            about, count = provenance(source, self.features), len(source)
            if folder is not None:
                with doubt():
                    kinds = (_FEATURES, _STATISTICS, _PARTS)
                    parts.check_settings(folder, about, kinds)
                stored = _read(folder / _FEATURES, count)
                if on_every_host(stored is not None):
                    assert stored is not None
                    return stored
            measured = parts.PartialResults(folder, _PARTS, count, optional=optional)
            self._measure(source, measured)
            if measured.done < count:
                raise Interrupted
            whole = measured.whole()
            if folder is not None:
                with doubt():
                    _keep(folder, whole, about)
            measured.drop()
            return Outputs(whole["features"], whole.get("logits"))

    def _measure(self, source: data.Dataset, measured: parts.PartialResults) -> None:
        """Look at all images that are not measured yet."""

        def pixels(places: np.ndarray) -> np.ndarray:
            images = gather(source, places)["image"]
            check_images(self.features, images)
            return images

        with progress(len(source), "looking", done=measured.done) as bar:
            for found in map_batches(
                self.run.program,
                pixels,
                len(source),
                self.batch_size,
                mesh=self.run.mesh,
                first=measured.done,
                stop=self.interrupted,
                not_finite=lambda what, first, last: (
                    f"{what} of an image among {first} to {last} of {source.name} are "
                    f"not finite; the weights of {self.features.name} are damaged."
                ),
            ):
                seen = {k: v for k, v in found._asdict().items() if v is not None}
                bar.update(measured.add(seen))


def _keep(folder: Path, whole: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    everything = mean_covariance.from_vectors(whole["features"])
    covariance = mean_covariance.covariance(everything)
    statistics = Statistics(everything.mean, covariance, everything.count, about)
    write_statistics(folder / _STATISTICS, statistics)
    files.write_npz(folder / _FEATURES, whole)


def _read(path: Path, count: int) -> Outputs | None:
    """Read what is stored of so many images; None if there is nothing to be used."""
    try:
        whole = files.read_npz(path)
        for name, leaf in whole.items():
            if leaf.shape[:1] != (count,):
                rows = leaf.shape[0] if leaf.ndim else 1
                raise files.DamagedError(f"{name} of {rows} of {count} images")
        return Outputs(whole["features"], whole.get("logits"))
    except FileNotFoundError:
        return None
    except KeyError as error:
        reason = f"it lacks {error}"
    except files.DamagedError as error:
        reason = str(error)
    files.note(f"{path} cannot be used ({reason}); computing the features anew.")
    return None


def provenance(source: data.Dataset, features: FeatureExtractor) -> dict[str, Any]:
    """Say what decides the features, as plain data."""
    return {
        "data": source.name,
        "split": source.split,
        "fingerprint": source.fingerprint,
        "num_images": len(source),
        "resolution": list(source.image_shape),
        "features": features.name,
        "weights": features.fingerprint,
        "resize": features.resize,
    }


def reference_folder(source: data.Dataset, features: FeatureExtractor) -> Path:
    """Say where the features of a split of data are kept for every run of this user."""
    plain = "".join(c if c.isalnum() or c in "-." else "-" for c in source.name)[-40:]
    return files.cache_folder(
        "references",
        f"{plain}_{source.split}_{source.fingerprint}",
        folder_name(features),
    )
