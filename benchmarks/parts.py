"""The pieces of a run that benchmarks share: network, state, step, batches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import assembly, data
from ddpm_jax.commands.feed import Feed, make_feed
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.data.info import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import rows, shardings
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import init_state, make_train_step
from ddpm_jax.training.task import Step

_SHAPES = {  # of data sets that may not be prepared on this machine
    "cifar10": ((32, 32, 3), 10),
    "mnist": ((28, 28, 1), 10),
}


@dataclasses.dataclass(frozen=True)
class Parts:
    """A recipe made into what can be run.

    Attributes:
        cfg: the recipe.
        source: its data, or random pixels of their shape.
        is_real: whether they are its data.
        info: the description of the data for the model.
        unet: the network with its conditioners.
        mesh: the devices.
    """

    cfg: ConfigDict
    source: data.Dataset
    is_real: bool
    info: DataInfo
    unet: Conditioned
    mesh: Mesh


def make_parts(cfg: ConfigDict) -> Parts:
    """Build what a recipe names; where its data are not prepared, noise stands in.

    Speed does not depend on what is in an image, and not everyone who has a GPU at
    hand has prepared CIFAR-10 there.

    Raises:
        UserError: the recipe cannot work, or the data are not known either.
    """
    try:
        source, is_real = assembly.dataset(cfg), True
    except UserError as error:
        source, is_real = _stand_in(cfg, error), False
        print(f"note: random pixels stand in for the data: {error}")
    info = assembly.data_info(source)
    assembly.check(cfg, info)
    assembly.check_batch(cfg)
    return Parts(
        cfg, source, is_real, info, assembly.model(cfg, info), assembly.mesh(cfg)
    )


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Read a size of a config, one side or two, as (height, width)."""
    return size if isinstance(size, tuple) else (size, size)


def _stand_in(cfg: ConfigDict, error: UserError) -> data.Dataset:
    if cfg.data.source not in _SHAPES:
        raise error
    (height, width, channels), classes = _SHAPES[cfg.data.source]
    height, width = sides_of(cfg.data.image_size or (height, width))
    padded = sides_of(cfg.data.pad_to or 1)
    height, width = max(height, padded[0]), max(width, padded[1])
    shape = (height, width, cfg.data.channels or channels)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10_000, *shape), np.uint8)
    labels = rng.integers(0, classes, 10_000, np.int32)
    return data.Dataset(
        name=f"random pixels in place of {cfg.data.source}",
        source=data.Arrays(pixels, labels),
        shape=shape,
        label_names=tuple(str(i) for i in range(classes)),
        fingerprint="0" * 16,
        split=cfg.data.split,
    )


def start_state(parts: Parts) -> TrainState:
    """Start a run as the program does, with the state where its mesh puts it."""
    state = _fresh(parts)
    return jax.device_put(state, shardings(parts.mesh, state))


def _fresh(parts: Parts) -> TrainState:
    cfg = parts.cfg
    return init_state(
        assembly.init_params(cfg, parts.unet, parts.info),
        assembly.optimizer(cfg),
        carry=assembly.time_sampler(cfg).init(),
        num_profiles=len(cfg.training.ema_stds),
    )


def train_step(parts: Parts) -> Step:
    """Build the step of training that the program runs."""
    cfg = parts.cfg
    return make_train_step(
        assembly.objective(cfg, parts.unet, parts.info),
        assembly.optimizer(cfg),
        ema_target=cfg.training.ema_decay,
        mesh=parts.mesh,
        ema_stds=tuple(cfg.training.ema_stds),
        placed=shardings(parts.mesh, jax.eval_shape(lambda: _fresh(parts))),
        num_parts=cfg.training.accumulate,
    )


def feed_of(parts: Parts) -> Feed:
    """Return the program's own way of bringing batches to the devices."""
    cfg = parts.cfg
    return make_feed(
        parts.source,
        cfg.training.batch_size,
        seed=cfg.seed,
        mesh=parts.mesh,
        max_mb_on_device=cfg.data.on_device_mb,
    )


def stream_of(parts: Parts) -> Any:
    """Return the batches that the program trains on: `stream[step]`."""
    return data.batches(
        parts.source, parts.cfg.training.batch_size, seed=parts.cfg.seed
    )


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Spread one batch over the mesh by rows."""
    by_row = rows(mesh)
    return {
        name: jax.make_array_from_process_local_data(by_row, part)
        for name, part in batch.items()
    }


def forward(parts: Parts) -> Callable[..., jax.Array]:
    """Return (params, x_t, t, label or None) -> output, not compiled, no dropout."""
    network = assembly.network(parts.unet)

    def apply(
        params: Any, x_t: jax.Array, t: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        return network(params, x_t, t, None if label is None else {"label": label})

    return apply


def forward_inputs(parts: Parts, batch_size: int) -> tuple[Any, ...]:
    """Return (x_t, t, label or None) of a batch, NumPy arrays."""
    rng = np.random.default_rng(0)
    x_t = rng.standard_normal((batch_size, *parts.info.image_shape), np.float32)
    t = rng.integers(0, parts.cfg.schedule.num_levels, batch_size).astype(np.float32)
    classes = assembly.num_classes(parts.cfg, parts.info)
    label = rng.integers(0, classes, batch_size).astype(np.int32) if classes else None
    return x_t, t, label


def num_parameters(params: Any) -> int:
    """Count the numbers in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
