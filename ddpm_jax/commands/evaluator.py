"""Evaluator: a feature extractor with the reference that images are scored by."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from ddpm_jax import data
from ddpm_jax.commands.extraction import Extraction, provenance, reference_folder
from ddpm_jax.commands.image_sets import ImageSet
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, make_extract
from ddpm_jax.evaluation.reference_statistics import read_statistics
from ddpm_jax.evaluation.scores import Reference, check_count, reference_of
from ddpm_jax.recipe import Data
from ddpm_jax.requests import Evaluate
from ddpm_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Target:
    """A reference before its features are known.

    Attributes:
        about: all that decides it, as plain data.
        real: its images, if it has them.
        published: its moments, where only they are.
    """

    about: dict[str, Any]
    real: data.Dataset | None
    published: Reference | None

    @property
    def name(self) -> str:
        """A name for a file."""
        parts = (self.about["data"], self.about.get("split"), self.about["fingerprint"])
        said = "-".join(part for part in parts if part)
        return "".join(c if c.isalnum() or c in "-." else "-" for c in said)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A feature extractor, and what the reference is in its features."""

    extraction: Extraction
    target: Target
    reference: Reference


def open_target(of: Data, asked: Evaluate, features: FeatureExtractor) -> Target:
    """Open what a request names as the reference, computing nothing yet.

    Raises:
        UserError: it cannot be read, or is of other features.
    """
    if asked.reference:
        return _published(Path(asked.reference.removeprefix("npz:")), features)
    real = of.open(asked.reference_split)
    return Target(provenance(real, features), real, None)


def make_evaluator(
    mesh: Mesh,
    batch_size: int,
    features: FeatureExtractor,
    target: Target,
    interrupted: Callable[[], int],
) -> Evaluator:
    """Extract the features of the reference, which are kept for next time.

    Raises:
        Interrupted: by the user.
        UserError: its images cannot be read, or are not such as the network takes.
    """
    run = make_extract(features, mesh)
    extraction = Extraction(features, run, batch_size, interrupted)
    reference = target.published
    if reference is None:
        assert target.real is not None  # a target has the one or the other
        folder = _cache_folder(target.real, features)
        reference = reference_of(extraction.of(target.real, folder, optional=True))
    return Evaluator(extraction, target, reference)


def _cache_folder(source: data.Dataset, features: FeatureExtractor) -> Path | None:
    """Make the folder of a reference's features; None if it cannot be made."""
    folder, made = reference_folder(source, features), False
    with files.optional("the features of the reference"):
        folder.mkdir(parents=True, exist_ok=True)
        made = True
    return folder if made else None


def _published(path: Path, features: FeatureExtractor) -> Target:
    """Read published moments, and refuse those of other features."""
    stored = read_statistics(path)
    about = stored.provenance or {}
    if features.num_features not in (None, len(stored.mean)):
        raise UserError(
            f"{path} has statistics of {len(stored.mean)} features, {features.name} "
            f"has {features.num_features}; give statistics made with it."
        )
    now = {
        "features": features.name,
        "weights": features.fingerprint,
        "resize": features.resize,
    }
    for name, value in now.items():
        if about.get(name, value) != value:
            raise UserError(
                f"{path} was made with {name} {about[name]!r}, this is {value!r}; give "
                "statistics made with the same."
            )
    if not about:
        files.note(
            f"{path} does not say which features, resize or images it was made with; "
            "scores against it are as comparable as that is known."
        )
    known = {
        "data": path.name,
        "fingerprint": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "num_images": stored.count,
    }
    return Target(known | about, None, Reference(stored.mean, stored.covariance, None))


def check_set(
    one: ImageSet,
    features: FeatureExtractor,
    target: Target,
    names: list[str],
    *,
    allow_few: bool,
) -> None:
    """Refuse what cannot be compared, before anything is sampled.

    Raises:
        UserError: images of another size than the reference or the network takes, or
            too few of them.
    """
    holders = {
        "the reference": target.about.get("resolution"),
        features.name: features.image_shape,
    }
    for holder, wanted in holders.items():
        if wanted is not None and list(one.image_shape) != list(wanted):
            raise UserError(
                f"{one.described}: {_size(one.image_shape)}, and {holder} is of "
                f"{_size(wanted)}; bring them to one size and number of channels "
                "first, since how that is done is part of the score."
            )
    if {"frechet", "frechet_infinity"} & set(names) and not allow_few:
        assert features.num_features is not None
        check_count(one.num_images, features.num_features)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
