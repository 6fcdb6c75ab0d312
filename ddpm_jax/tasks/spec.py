"""What the specs of all tasks have in common."""

import dataclasses

from ddpm_jax import limits
from ddpm_jax.data.spec import Data


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """What is trained, on which data, from which seed.

    Attributes:
        data: the data set.
        seed: of initialization, batch order, noise, dropout and sampling.
    """

    data: Data = dataclasses.field(default_factory=Data)
    seed: int = 0

    def __post_init__(self) -> None:
        limits.between(self, "seed", 0, 2**63 - 1)
