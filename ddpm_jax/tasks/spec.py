"""What the specs of all tasks have in common.

A task of one's own is one file: a spec that derives from `TaskSpec`, has `build` and
`open`, and is registered. It is trained by the line that trains anything, goes on where
it stopped, and is loaded by `ddpm_jax.load`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.data.spec import Data
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.task import Task


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

    def build(self, source: Dataset, fit: Fit, mesh: Mesh) -> Task:
        """Build the task.

        Args:
            source: the data, opened; a batch of them is {"image": [B, ...], "label":
                int32 [B]}, as far as there are labels.
            fit: how it is trained.
            mesh: the devices.

        Raises:
            UserError: the data do not fit.
        """
        raise NotImplementedError

    def open(self, params: Any, facts: Mapping[str, Any]) -> Any:
        """Make of trained parameters what `ddpm_jax.load` returns.

        Args:
            params: the averaged ones, a tree of arrays.
            facts: what `Task.finish` found.
        """
        raise NotImplementedError
