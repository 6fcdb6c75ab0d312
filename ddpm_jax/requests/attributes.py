"""The request of `attributes`."""

from ddpm_jax.requests.evaluate import Compared, images_kind
from ddpm_jax.requests.options import option, request


@request("evaluate")
class Attributes(Compared):
    """Classify the attributes of generated shapes by a rule, and count those as asked.

    python main.py attributes runs/shapes --guidance-scales=1,2,3
    """

    images: str = option(
        "", "folder:PATH of captioned images; unset: samples of the model"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        images_kind(self.images)  # refuses what is none
