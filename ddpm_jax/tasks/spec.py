"""What the specs of all tasks have in common.

A task of one's own is one file: a spec that derives from `TaskSpec`, has `build` and
`open`, and is registered. It is trained by the line that trains anything, goes on where
it stopped, and is loaded by `ddpm_jax.load`. If what `open` returns is a `Sampled`,
`commands` may name those that sample it; if it is a `Measured`, that of its likelihood.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.data.spec import Data
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.task import Task


@runtime_checkable
class Sampled(Protocol):
    """A model that can be sampled, and so be drawn from, scored and shown."""

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of what it makes."""

    def sample(self, key: jax.Array, num_items: int, first: int = 0) -> jax.Array:
        """Sample items [N, ...]; item i depends on the key and on i alone.

        Args:
            key: [].
            num_items: N.
            first: number of the first item, of a set that is made in parts.
        """

    def store(self, items: Any) -> np.ndarray:
        """Map items [N, ...] to what files hold: bytes of images, else as they are."""


@runtime_checkable
class Measured(Protocol):
    """A model with a likelihood, which the command `likelihood` measures."""

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of the items that it measures."""

    @property
    def dtype(self) -> str:
        """Of these: uint8, whose likelihood is a probability, or float32, a density."""

    @property
    def is_bounded(self) -> bool:
        """Whether its likelihood is a lower bound of draws, or exact."""

    def likelihood_terms(
        self, key: jax.Array, items: Any, num_samples: int = 1, first: int = 0
    ) -> Mapping[str, jax.Array]:
        """Compute "log_likelihood" of items: nats [N].

        Args:
            key: []; what is drawn of item i depends on it and on i alone.
            items: [N, ...], as the data have them.
            num_samples: draws of each item, if it is bounded; there are "rate" and
                "distortion" too then, [N] each, whose sum is the negative ELBO.
            first: number of the first item, of a set that is measured in parts.
        """


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """What is trained, on which data, from which seed.

    Attributes:
        data: the data set.
        seed: of initialization, batch order, noise, dropout and sampling.
        commands: of those on a run, which serve its model; a class attribute. With
            "sample" or "evaluate" the model is a `Sampled`, with "edit interpolate" it
            has `interpolate` too, as `LatentModel`, with "likelihood" it is a
            `Measured`. Its recipe has their sections.
        options: fields of requests that mean something to its model, beside those that
            do to every model; a class attribute.
    """

    data: Data = dataclasses.field(default_factory=Data)
    seed: int = 0
    commands: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        limits.between(self, "seed", 0, limits.MAX_INT)

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
