"""The request of `rank`."""

from ddpm_jax.requests.evaluate import Compared
from ddpm_jax.requests.options import option, request


@request("evaluate")
class Rank(Compared):
    """Retrieve the prompts of generated images, and find memorized ones.

    python main.py rank runs/emoji --retrieval=runs/emoji_retrieval
    """

    retrieval: str = option("", "run of a dual encoder of images and captions")
    baseline_split: str = option(
        "test", "real images measured for comparison", of="evaluate.floor_split"
    )
