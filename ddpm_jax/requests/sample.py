"""The request of `sample`."""

import dataclasses
from typing import Any

from ddpm_jax.requests.options import (
    ByPrior,
    Chain,
    Shown,
    WithResults,
    option,
    request,
)


@request("sample")
class Sample(Shown, Chain, ByPrior, WithResults):
    """Generate images with a trained model.

    python main.py sample runs/digits --label=7,3 --num-steps=50
    """

    num_images: int = option(64, "images to generate")
    prompt_to: str = option("", "walk from the prompt to this one, with the same noise")
    picture: str = option(
        "",
        "of an image-conditional model, data:SPLIT: the images of a split; unset: of "
        "the one that it was trained on",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "num_images")


def sample_of(chain: Chain, **changes: Any) -> Sample:
    """Ask for samples by the chain of another request.

    Args:
        chain: such as of an edit, or of an evaluation.
        changes: what else is asked for, by the names of fields.
    """
    own = {field.name for field in dataclasses.fields(chain)}
    shared = {
        field.name: getattr(chain, field.name)
        for field in dataclasses.fields(Sample)
        if field.name in own
    }
    return Sample(**{**shared, **changes})
