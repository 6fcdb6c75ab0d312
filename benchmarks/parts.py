"""The pieces of a run that benchmarks share: network, state, step, batches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import assembly, data
from ddpm_jax.commands.feed import Feed, make_feed
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.data.info import DataInfo
from ddpm_jax.data.spec import Data
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import data_mesh, rows, shardings
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
        recipe: what is trained, and how.
        source: its data, or random pixels of their shape.
        is_real: whether they are its data.
        info: the description of the data for the model.
        unet: the network with its conditioners.
        mesh: the devices.
    """

    recipe: Recipe[Diffusion]
    source: data.Dataset
    is_real: bool
    info: DataInfo
    unet: Conditioned
    mesh: Mesh


def make_parts(recipe: Recipe[Diffusion]) -> Parts:
    """Build what a recipe names; where its data are not prepared, noise stands in.

    Speed does not depend on what is in an image, and not everyone who has a GPU at
    hand has prepared CIFAR-10 there.

    Raises:
        UserError: the recipe cannot work, or the data are not known either.
    """
    try:
        source, is_real = recipe.task.data.open(), True
    except UserError as error:
        source, is_real = _stand_in(recipe.task.data, error), False
        print(f"note: random pixels stand in for the data: {error}")
    info = assembly.data_info(source)
    assembly.check(recipe.task, info)
    assembly.check_sample(recipe.task, info, recipe.request(Sample))
    assembly.check_batch(recipe.training)
    unet, mesh = assembly.model(recipe.task, info), data_mesh(recipe.devices.fsdp)
    return Parts(recipe, source, is_real, info, unet, mesh)


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Read a size of a config, one side or two, as (height, width)."""
    return size if isinstance(size, tuple) else (size, size)


def _stand_in(of: Data, error: UserError) -> data.Dataset:
    if of.source not in _SHAPES:
        raise error
    (height, width, channels), classes = _SHAPES[of.source]
    height, width = sides_of(of.image_size or (height, width))
    padded = sides_of(of.pad_to or 1)
    height, width = max(height, padded[0]), max(width, padded[1])
    shape = (height, width, of.channels or channels)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10_000, *shape), np.uint8)
    labels = rng.integers(0, classes, 10_000, np.int32)
    return data.Dataset(
        name=f"random pixels in place of {of.source}",
        source=data.Arrays(pixels, labels),
        shape=shape,
        label_names=tuple(str(i) for i in range(classes)),
        fingerprint="0" * 16,
        split=of.split,
    )


def start_state(parts: Parts) -> TrainState:
    """Start a run as the program does, with the state where its mesh puts it."""
    state = _fresh(parts)
    return jax.device_put(state, shardings(parts.mesh, state))


def _fresh(parts: Parts) -> TrainState:
    spec, fit = parts.recipe.task, parts.recipe.training
    return init_state(
        assembly.init_params(spec, parts.unet, parts.info),
        fit.transformation(),
        carry=spec.build_times().init(),
        num_profiles=len(fit.ema_stds),
    )


def train_step(parts: Parts) -> Step:
    """Build the step of training that the program runs."""
    spec, fit = parts.recipe.task, parts.recipe.training
    return make_train_step(
        assembly.objective(spec, parts.unet, parts.info),
        fit.transformation(),
        ema_target=fit.ema_decay,
        mesh=parts.mesh,
        ema_stds=fit.ema_stds,
        placed=shardings(parts.mesh, jax.eval_shape(lambda: _fresh(parts))),
        num_parts=fit.accumulate,
    )


def feed_of(parts: Parts) -> Feed:
    """Return the program's own way of bringing batches to the devices."""
    recipe = parts.recipe
    return make_feed(
        parts.source,
        recipe.training.batch_size,
        seed=recipe.task.seed,
        mesh=parts.mesh,
        max_mb_on_device=recipe.task.data.on_device_mb,
    )


def stream_of(parts: Parts) -> Any:
    """Return the batches that the program trains on: `stream[step]`."""
    return data.batches(
        parts.source, parts.recipe.training.batch_size, seed=parts.recipe.task.seed
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
    t = rng.integers(0, parts.recipe.task.schedule.num_levels, batch_size).astype(
        np.float32
    )
    classes = assembly.num_classes(parts.recipe.task, parts.info)
    label = rng.integers(0, classes, batch_size).astype(np.int32) if classes else None
    return x_t, t, label


def num_parameters(params: Any) -> int:
    """Count the numbers in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
