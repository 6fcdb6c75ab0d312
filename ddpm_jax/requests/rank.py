"""The request of `rank`."""

import dataclasses

from ddpm_jax.requests.evaluate import Compared
from ddpm_jax.requests.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rank(Compared):
    """Retrieve the prompts of generated images, and find memorized ones.

    python main.py rank runs/emoji --retrieval=runs/emoji_retrieval
    """

    retrieval: str = option(
        "", "run of a dual encoder of images and captions", of="evaluate.retrieval"
    )
    baseline_split: str = option(
        "test", "real images measured for comparison", of="evaluate.floor_split"
    )
