"""The request of `evaluate`."""

import dataclasses

from ddpm_jax.requests.options import Chain, WithResults, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared(Chain, WithResults):
    """Sets of samples to be compared."""

    num_images: int = option(
        10_000,
        "of each set; of given images at most as many as there are",
        of="evaluate.num_images",
    )
    num_seeds: int = option(
        1, "sets, of --seed, the seed after it, and so on", of="evaluate.num_seeds"
    )
    sample_steps: str = option(
        "",
        "several values of --num-steps, such as 10,20,50",
        of="evaluate.sample_steps",
    )
    guidance_scales: str = option(
        "",
        "several values of --guidance-scale, such as 1,2,4",
        of="evaluate.guidance_scales",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Compared):
    """Score images against real ones: FID, KID, precision, ...

    python main.py evaluate runs/digits --num-images=2000
    """

    images: str = option(
        "",
        "folder:PATH, npz:FILE, data:SPLIT (real images), reconstructions:SPLIT (the "
        "same, through the autoencoder) or noise; unset: samples of the model",
        of="evaluate.images",
    )
    checkpoints: str = option(
        "",
        "several steps, such as 1000,2000, or all; unset: --step",
        of="evaluate.checkpoints",
    )
    scores: str = option(
        "all",
        "or some, such as frechet,kernel; bits_per_dim if it is named",
        of="evaluate.scores",
    )
    features: str = option(
        "inception",
        "feature extractor: inception, or the run of a classifier",
        of="evaluate.features",
    )
    weights: str | None = option(
        None,
        "of inception: a file; unset: $DDPM_JAX_INCEPTION",
        of="evaluate.weights",
    )
    resize: str = option(
        "tensorflow",
        "to inception's size: tensorflow, pytorch or clean",
        of="evaluate.resize",
    )
    feature_batch_size: int = option(
        64, "images at a time through the feature extractor", of="evaluate.batch_size"
    )
    reference: str = option(
        "",
        "npz:FILE of published statistics; unset: the data of the run",
        of="evaluate.reference",
    )
    reference_split: str = option(
        "train", "of these data", of="evaluate.reference_split"
    )
    baseline_split: str = option(
        "test", "real images scored for comparison", of="evaluate.floor_split"
    )
    allow_few: bool = option(
        False, "score fewer images than there are features", of="evaluate.allow_few"
    )
    picture: str = option(
        "",
        "of an image-conditional model, data:SPLIT: the images of a split",
        of="sample.picture",
    )
    likelihood_split: str = option(
        "test", "of score bits_per_dim", of="likelihood.split"
    )
    likelihood_num_images: int | None = option(
        None,
        "of score bits_per_dim; unset: the whole split",
        of="likelihood.num_images",
    )
    likelihood_num_steps: int | None = option(
        None, "of score bits_per_dim; unset: all T", of="likelihood.num_steps"
    )
    likelihood_batch_size: int = option(
        64, "of score bits_per_dim", of="likelihood.batch_size"
    )
