"""Normalizing flow: maximum likelihood, exactly.

    log p(x) = log N(f(x); 0, I) + log |det df/dx|                                 (1)

Bytes are spread evenly over the bins of their values first, after which the mean of (1)
is a lower bound on the log-probability of the bytes, up to the width of a bin.

Sources:
    Dinh, Sohl-Dickstein, Bengio 2017, "Density Estimation Using Real NVP", eq. (3).
    Theis, van den Oord, Bethge 2016, "A Note on the Evaluation of Generative Models",
    section 3.1, for dequantization.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.ode_likelihood import dequantize
from ddpm_jax.networks.flow import Flow
from ddpm_jax.tasks.latent_model import (
    LatentModel,
    LikelihoodTask,
    Maps,
    Terms,
    examples,
)
from ddpm_jax.tasks.vae import log_normal
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Batch, Objective, Task

_FIRST_BATCH = 1024  # items on which the normalizations are initialized

Apply = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
"""(params, x [B, ...]) -> z [B, D] and log |det| [B]."""


def log_density(apply: Apply, params: Any, x: jax.Array) -> jax.Array:
    """Compute (1) of items [B, ...]: nats [B]."""
    z, log_det = apply(params, x)
    return log_normal(z, 0.0, 0.0).sum(1) + log_det


def make_objective(
    apply: Apply, start: Callable[[jax.Array, jax.Array], jax.Array], num_values: int
) -> Objective:
    """Compose the loss: minus (1) per dimension, in nats.

    Args:
        apply: the flow.
        start: (key, stored items) -> x [B, ...], dequantized if they are bytes.
        num_values: of bytes, how many values they have; 0 of floating point.
    """

    def objective(
        params: Any, key: jax.Array, batch: Batch, carry: Any
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        x = start(key, batch["image"])
        loss = -log_density(apply, params, x).mean() / x[0].size
        metrics = {"loss": loss}
        if num_values:
            bits = loss / math.log(2.0) + math.log2((num_values - 1) / 2)
            metrics["bits_per_dim"] = bits
        return loss, (metrics, carry)

    return objective


@dataclasses.dataclass(frozen=True)
class FlowTask(LikelihoodTask):
    """A normalizing flow, of points or of images.

    Attributes:
        network: the flow.
    """

    network: Flow = dataclasses.field(default_factory=Flow)

    def maps(self, network: Flow, dtype: str) -> Maps:
        """Return what samples, encodes and computes the likelihood.

        Args:
            network: for the items of the data.
            dtype: of the items.
        """
        apply = _apply(network)

        def decode(params: Any, keys: jax.Array, z: jax.Array) -> jax.Array:
            del keys
            found: Any = network.apply({"params": params}, z, inverse=True)
            return found[0]

        def likelihood(
            params: Any, keys: jax.Array, x: jax.Array, num_samples: int
        ) -> Terms:
            del num_samples  # it is exact, but for one draw of each dequantization
            if dtype != "uint8":
                return {"log_likelihood": log_density(apply, params, x)}
            x = dequantize(keys, self.on_grid(x), self.num_values)
            of_bins = x[0].size * math.log(2.0 / (self.num_values - 1))
            return {"log_likelihood": log_density(apply, params, x) + of_bins}

        return Maps(
            decode=decode,
            encode=lambda params, x: apply(params, x)[0],
            likelihood=likelihood,
        )

    def build(self, source: Dataset, fit: Fit, mesh: Mesh) -> Task:
        """Build the task; see `TaskSpec`."""
        network = self.network.for_items(source.shape)
        maps = self.maps(network, str(source.dtype))
        of_items, is_bytes = self.start_of(source), str(source.dtype) == "uint8"

        def start(key: jax.Array, items: jax.Array) -> jax.Array:
            key_items, key_bins = jax.random.split(key)
            x = of_items(key_items, items)
            if not is_bytes:
                return x
            keys = jax.random.split(key_bins, len(x))
            return dequantize(keys, x, self.num_values)

        @functools.cache  # drawn for its shapes, and again for its values
        def first() -> np.ndarray:
            return examples(source, _FIRST_BATCH)

        def draw() -> Any:
            key_items, key_params = jax.random.split(self.init_key())
            x = start(key_items, jnp.asarray(first()))
            return jax.jit(network.init)(key_params, x)["params"]

        return gradient_task(
            draw,
            make_objective(_apply(network), start, self.num_values if is_bytes else 0),
            fit.transformation(),
            ema_target=fit.ema_decay,
            mesh=mesh,
            num_parts=fit.accumulate,
            shown=("loss", *(("bits_per_dim",) if is_bytes else ())),
            preview=self.previewer(source, network.latent_shape(source.shape), maps),
            finish=lambda state: self.facts(source),
            unused=("ema_stds",),
        )

    def open(self, params: Any, facts: Mapping[str, Any]) -> LatentModel:
        """Make the model of trained parameters; see `TaskSpec`."""
        shape = tuple(facts["item_shape"])
        network = self.network.for_items(shape)
        maps = self.maps(network, facts["dtype"])
        return LatentModel("flow", params, maps, network.latent_shape(shape), facts)


def _apply(network: Flow) -> Apply:
    def apply(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        found: Any = network.apply({"params": params}, x)
        return found

    return apply
