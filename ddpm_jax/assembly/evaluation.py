"""Evaluation: which samples, seen by which network, scored how."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from ddpm_jax.assembly.features import classifier_features
from ddpm_jax.assembly.idle import leave_out_idle
from ddpm_jax.assembly.keys import seed_of
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import resize
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs
from ddpm_jax.evaluation.scores import SCORES
from ddpm_jax.limits import check_seed
from ddpm_jax.networks.inception import SIDE, InceptionV3, parameter_shapes
from ddpm_jax.recipe import TaskSpec
from ddpm_jax.requests import Evaluate, Sample
from ddpm_jax.requests.evaluate import BITS_PER_DIM, Compared
from ddpm_jax.requests.sample import sample_of
from ddpm_jax.weights import inception_file


def check_seeds(spec: TaskSpec, asked: Compared) -> None:
    """Refuse more sets than there are seeds after the first.

    Raises:
        UserError: saying so.
    """
    last = seed_of(spec, asked) + asked.num_seeds - 1
    check_seed(f"the last of config.evaluate.num_seeds={asked.num_seeds}, seed", last)


def score_names(asked: Evaluate) -> list[str]:
    """List the scores that are asked for; "all" leaves out what takes hours.

    Raises:
        UserError: naming the scores there are.
    """
    if asked.scores == "all":
        return list(SCORES)
    names = list(asked.scored)
    for name in names:
        if name not in (*SCORES, BITS_PER_DIM):
            raise UserError(
                f"config.evaluate.scores has {name!r}, which is not known; use all, or "
                f"some of {', '.join((*SCORES, BITS_PER_DIM))}."
            )
    return names


def variants(spec: TaskSpec, asked: Compared, steps: Sequence[int]) -> list[Sample]:
    """Spell out every set of samples: checkpoints, steps, guidance, seeds.

    Args:
        spec: of the model.
        asked: which sets are compared.
        steps: of the checkpoints.
    """
    first = seed_of(spec, asked)
    found = [
        sample_of(
            asked,
            step=step,
            num_steps=count,
            guidance_scale=scale,
            seed=seed,
            # Nobody looks at the chain of ten thousand images.
            film_frames=2,
            film_images=1,
        )
        for step in steps
        for count in asked.all_steps()
        for scale in asked.all_scales()
        for seed in range(first, first + asked.num_seeds)
    ]
    return [leave_out_idle(spec, one) for one in found]


def features(asked: Evaluate) -> FeatureExtractor:
    """Open the network whose features are compared.

    Raises:
        UserError: it is not there, or damaged.
    """
    if asked.features == "inception":
        return _inception(asked.weights, asked.resize)
    return classifier_features(Path(asked.features))


def _inception(weights: str | None, way: str) -> FeatureExtractor:
    params, digest = inception_file.load_inception(weights, parameter_shapes())
    return FeatureExtractor(
        name=inception_file.name_of(digest),
        fingerprint=digest[:16],
        num_features=2048,
        label_names=None,  # ImageNet's, which are not those of the data
        resize=f"{way} to {SIDE}x{SIDE}",
        image_shape=None,
        params=params,
        apply=partial(_see, getattr(resize, way)),
    )


def _see(way: Any, params: Any, images: jax.Array) -> Outputs:
    return Outputs(
        *InceptionV3().apply({"params": params}, resize.prepare(images, way))
    )
