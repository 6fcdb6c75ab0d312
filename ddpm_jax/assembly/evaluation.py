"""From a config to an evaluation: which draws, seen by which network, scored how."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.assembly.features import classifier_features
from ddpm_jax.assembly.idle import EVALUATE, refuse_idle
from ddpm_jax.assembly.keys import sample_seed
from ddpm_jax.assembly.latents import refuse_latents
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import resize
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs
from ddpm_jax.evaluation.scores import SCORES
from ddpm_jax.networks.inception import SIDE, InceptionV3, parameter_shapes
from ddpm_jax.runtime.keys import check_seed
from ddpm_jax.weights import inception_file

RESIZES = {
    "tensorflow": resize.tensorflow,
    "pytorch": resize.pytorch,
    "clean": resize.clean,
}
BITS_PER_DIM = "bits_per_dim"
"""A score that no features enter: the `likelihood` command measures it."""


def check_evaluate(config: ConfigDict) -> None:
    """Refuse options that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    options = config.evaluate
    for name, least in {"num_images": 2, "num_seeds": 1, "batch_size": 1}.items():
        if options[name] < least:
            raise UserError(
                f"config.evaluate.{name}={options[name]} is too small; use {least} or "
                "more."
            )
    first = sample_seed(config)
    check_seed("config.sample.seed", first)
    check_seed(
        f"the last of config.evaluate.num_seeds={options.num_seeds}, seed",
        first + options.num_seeds - 1,
    )
    if options.resize not in RESIZES:
        raise UserError(
            f"config.evaluate.resize={options.resize!r} is not known; use "
            f"{', '.join(RESIZES)}."
        )
    if BITS_PER_DIM in score_names(config) and "codec" in config:
        refuse_latents(config, f"config.evaluate.scores={BITS_PER_DIM}")
    images_kind(config)
    if options.reference and not options.reference.startswith("npz:"):
        raise UserError(
            f"config.evaluate.reference={options.reference!r} is not known; use "
            "npz:FILE, or leave it out to compare with config.data."
        )
    refuse_idle(config, EVALUATE)
    numbers(options.sample_steps, "sample_steps", int)
    numbers(options.guidance_scales, "guidance_scales", float)
    if options.checkpoints != "all":
        numbers(options.checkpoints, "checkpoints", int)
    of_a_model = ("checkpoints", "sample_steps", "guidance_scales")
    given = [name for name in of_a_model if options[name]]
    given += ["num_seeds"] if options.num_seeds > 1 else []
    if given and images_kind(config)[0] != "samples":
        raise UserError(
            f"config.evaluate.{given[0]} is of a model's samples, and "
            f"config.evaluate.images={options.images!r} is not drawn; leave one out."
        )


def images_kind(config: ConfigDict) -> tuple[str, str]:
    """Read `config.evaluate.images` as (kind, the rest after a colon).

    The kinds are samples, folder, npz, data, reconstructions and noise.

    Raises:
        UserError: it is none of these.
    """
    text = config.evaluate.images
    kind, colon, rest = text.partition(":")
    if not text:
        return "samples", ""
    if text == "noise":
        return text, ""
    if kind in ("folder", "npz", "data", "reconstructions") and colon and rest:
        return kind, rest
    raise UserError(
        f"config.evaluate.images={text!r} is not known; use folder:PATH, npz:FILE, "
        "data:SPLIT, reconstructions:SPLIT or noise, or leave it out to score the "
        "model's samples."
    )


def score_names(config: ConfigDict) -> list[str]:
    """Read `config.evaluate.scores`; "all" leaves out what takes hours.

    Raises:
        UserError: naming the scores there are.
    """
    text = config.evaluate.scores
    if text == "all":
        return list(SCORES)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in (*SCORES, BITS_PER_DIM):
            raise UserError(
                f"config.evaluate.scores has {name!r}, which is not known; use all, or "
                f"some of {', '.join((*SCORES, BITS_PER_DIM))}."
            )
    return names


def numbers(text: str, option: str, kind: type) -> list:
    """Read "10,20,50" as numbers of a kind.

    Raises:
        UserError: it is no such list.
    """
    try:
        return [kind(word) for word in text.split(",")] if text else []
    except ValueError:
        raise UserError(
            f"config.evaluate.{option}={text!r} is no list of numbers; write it like "
            "10,20,50."
        ) from None


def variants(config: ConfigDict, steps: Sequence[int]) -> list[ConfigDict]:
    """Spell out every draw that is asked for: checkpoints, steps, guidance, seeds.

    Args:
        config: `evaluate` says which.
        steps: of the checkpoints.
    """
    options, sample = config.evaluate, config.sample
    first = sample_seed(config)
    found = []
    for step in steps:
        for count in numbers(options.sample_steps, "", int) or [sample.num_steps]:
            scales = numbers(options.guidance_scales, "", float)
            for scale in scales or [sample.guidance_scale]:
                for seed in range(first, first + options.num_seeds):
                    chosen = config.copy_and_resolve_references()
                    chosen.sample.step = step
                    chosen.sample.num_steps = count
                    chosen.sample.guidance_scale = scale
                    chosen.sample.seed = seed
                    chosen.sample.num_images = options.num_images
                    # Nobody looks at the chain of ten thousand images.
                    chosen.sample.film_frames = 2
                    chosen.sample.film_images = 1
                    found.append(chosen)
    return found


def features(config: ConfigDict) -> FeatureExtractor:
    """Open the network that `config.evaluate` names.

    Raises:
        UserError: it is not there, or damaged.
    """
    options = config.evaluate
    if options.features == "inception":
        return _inception(options.weights, options.resize)
    if options.weights is not None:
        raise UserError(
            f"config.evaluate.weights={options.weights} are of inception, and "
            f"config.evaluate.features={options.features!r} is another network; leave "
            "one out."
        )
    return classifier_features(Path(options.features))


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
        apply=partial(_see, RESIZES[way]),
    )


def _see(way: Any, params: Any, images: jax.Array) -> Outputs:
    return Outputs(
        *InceptionV3().apply({"params": params}, resize.prepare(images, way))
    )
