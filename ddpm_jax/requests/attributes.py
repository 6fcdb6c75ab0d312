"""The request of `attributes`."""

import dataclasses

from ddpm_jax.requests.evaluate import Compared
from ddpm_jax.requests.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attributes(Compared):
    """Classify the attributes of generated shapes by a rule, and count those as asked.

    python main.py attributes runs/shapes --guidance-scales=1,2,3
    """

    images: str = option(
        "",
        "folder:PATH of captioned images; unset: samples of the model",
        of="evaluate.images",
    )
