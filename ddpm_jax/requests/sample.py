"""The request of `sample`."""

import dataclasses

from ddpm_jax.requests.options import Chain, Shown, WithResults, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Shown, Chain, WithResults):
    """Generate images with a trained model.

    python main.py sample runs/digits --label=7,3 --num-steps=50
    """

    num_images: int = option(64, "images to generate", of="sample.num_images")
    prompt_to: str = option(
        "",
        "walk from the prompt to this one, with the same noise",
        of="sample.prompt_to",
    )
    picture: str = option(
        "",
        "of an image-conditional model, data:SPLIT: the images of a split; unset: of "
        "the one that it was trained on",
        of="sample.picture",
    )
