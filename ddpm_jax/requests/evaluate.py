"""The request of `evaluate`."""

from ddpm_jax.errors import UserError
from ddpm_jax.requests.likelihood import NUM_SAMPLES
from ddpm_jax.requests.options import (
    ByPrior,
    Chain,
    WithResults,
    listed,
    option,
    request,
)

BITS_PER_DIM = "bits_per_dim"
"""A score that no features enter: the `likelihood` command measures it."""
RESIZES = ("tensorflow", "pytorch", "clean")
"""Ways to bring images to the size of inception, functions of `evaluation.resize`."""


@request("evaluate")
class Compared(Chain, ByPrior, WithResults):
    """Sets of samples to be compared."""

    num_images: int = option(
        10_000, "of each set; of given images at most as many as there are"
    )
    num_seeds: int = option(1, "sets, of --seed, the seed after it, and so on")
    sample_steps: str = option("", "several values of --num-steps, such as 10,20,50")
    guidance_scales: str = option(
        "", "several values of --guidance-scale, such as 1,2,4"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(2, "num_images")
        self.check_at_least(1, "num_seeds")
        self.all_steps()
        self.all_scales()

    def all_steps(self) -> list[int | None]:
        """List the numbers of steps that are asked for.

        Raises:
            UserError: it is no such list.
        """
        return numbers(self.sample_steps, "sample_steps", int) or [self.num_steps]

    def all_scales(self) -> list[float]:
        """List the guidance scales that are asked for.

        Raises:
            UserError: it is no such list.
        """
        found = numbers(self.guidance_scales, "guidance_scales", float)
        return found or [self.guidance_scale]


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


def images_kind(text: str) -> tuple[str, str]:
    """Read `config.evaluate.images` as (kind, the rest after a colon).

    The kinds are samples, folder, npz, data, reconstructions and noise.

    Raises:
        UserError: it is none of these.
    """
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


@request("evaluate")
class Evaluate(Compared):
    """Score images against real ones: FID, KID, precision, ...

    python main.py evaluate runs/digits --num-images=2000
    """

    images: str = option(
        "",
        "folder:PATH, npz:FILE, data:SPLIT (real images), reconstructions:SPLIT (the "
        "same, through the autoencoder) or noise; unset: samples of the model",
    )
    checkpoints: str = option(
        "", "several steps, such as 1000,2000, or all; unset: --step"
    )
    scores: str = option(
        "all", "or some, such as frechet,kernel; bits_per_dim if it is named"
    )
    features: str = option(
        "inception", "feature extractor: inception, or the run of a classifier"
    )
    weights: str | None = option(
        None, "of inception: a file; unset: $DDPM_JAX_INCEPTION"
    )
    resize: str = option(
        "tensorflow", f"to inception's size: {listed(RESIZES)}", choices=RESIZES
    )
    feature_batch_size: int = option(
        64, "images at a time through the feature extractor", of="evaluate.batch_size"
    )
    reference: str = option(
        "", "npz:FILE of published statistics; unset: the data of the run"
    )
    reference_split: str = option("train", "of these data")
    baseline_split: str = option(
        "test", "real images scored for comparison", of="evaluate.floor_split"
    )
    allow_few: bool = option(False, "score fewer images than there are features")
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
    likelihood_num_samples: int = option(
        NUM_SAMPLES,
        "of score bits_per_dim of a VAE: importance samples",
        of="likelihood.num_samples",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "feature_batch_size", "likelihood_num_samples")
        if self.reference and not self.reference.startswith("npz:"):
            raise UserError(
                f"config.evaluate.reference={self.reference!r} is not known; use "
                "npz:FILE, or leave it out to compare with config.data."
            )
        if self.checkpoints != "all":
            numbers(self.checkpoints, "checkpoints", int)
        images_kind(self.images)  # refuses what is none

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the scores, as they are given."""
        return tuple(name.strip() for name in self.scores.split(","))
