"""The likelihood of a split, batch by batch, whatever the model.

A `Measurement` says what is measured of each item, and what decides the numbers; here
is what opens its split, and the measurement of any model that has a likelihood of its
own, as a VAE or a flow.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import assembly, data, specs
from ddpm_jax.commands.model import digest
from ddpm_jax.commands.sampled import open_task, refuse_other_options
from ddpm_jax.data.pipeline import gather
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, TaskSpec
from ddpm_jax.requests import Likelihood, sections
from ddpm_jax.runtime import files
from ddpm_jax.runtime.batching import map_batches
from ddpm_jax.tasks.spec import Measured

Batches = Callable[[int, Callable[[], int]], Iterator[dict[str, np.ndarray]]]
"""(first item, stop) -> arrays [B, ...] of each batch from there on."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is measured of the items of a split.

    Attributes:
        method: how, as a result has it.
        settings: all that decides the numbers, besides the model; plain data.
        model: which parameters they are of; plain data.
        source: the split.
        num_items: the first of it that are measured.
        described: the model, for a person.
        batches: what measures.
        times: t of each term of the bound of diffusion, rising [N]; else None.
    """

    method: str
    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    source: data.Dataset
    num_items: int
    described: str
    batches: Batches
    times: np.ndarray | None = None

    @property
    def noun(self) -> str:
        """What the items are called."""
        return "images" if len(self.source.shape) == 3 else "items"


def settings_of(
    asked: Likelihood,
    source: data.Dataset,
    method: str,
    options: tuple[str, ...],
    **others: Any,
) -> dict[str, Any]:
    """Describe a measurement by all that decides its numbers, as plain data.

    Args:
        asked: what is asked for.
        source: the split.
        method: how it is measured.
        options: of the section `likelihood` that decide the numbers of that method.
        others: what else does, by name.
    """
    given = sections.options_in(asked, "likelihood")
    return {
        "method": method,
        "data": source.name,
        "fingerprint": source.fingerprint,
        "split": asked.split,
        "num_images": asked.num_images or len(source),
        "dimensions": math.prod(source.shape),
        **others,
        "options": {
            name: value for name, value in given.items() if name in ("source", *options)
        },
    }


def open_split(
    of: Data,
    asked: Likelihood,
    item_shape: tuple[int, ...],
    dtype: str,
    fingerprint: str,
) -> data.Dataset:
    """Open the split asked for, and compare it with what a model was trained on.

    Args:
        of: the data of the model.
        asked: which split, perhaps of other data.
        item_shape: of the model's items.
        dtype: of these.
        fingerprint: of what it was trained on.

    Raises:
        UserError: there is no such split, it is of other items, or has too few.
    """
    source = dataclasses.replace(of, source=asked.source or of.source).open(asked.split)
    if source.shape != item_shape or str(source.dtype) != dtype:
        raise UserError(
            f"the items of split {asked.split!r} are {source.dtype} {source.shape}, "
            f"the model's {dtype} {item_shape}; give the data that it was trained on."
        )
    if asked.num_images is not None and asked.num_images > len(source):
        raise UserError(
            f"config.likelihood.num_images={asked.num_images}, but split "
            f"{asked.split!r} of {source.name} has {len(source)}; use that or fewer."
        )
    if source.fingerprint == fingerprint:
        files.note(
            f"{asked.split!r} is what the model was trained on; "
            "--split names another split."
        )
    return source


def not_finite(remedy: str) -> Callable[[str, int, int], str]:
    """Make the message of a batch with an item that is not finite.

    Args:
        remedy: what to do.
    """
    return lambda what, first, last: (
        f"{what} of an item among {first} to {last} is not finite; {remedy}."
    )


# --- A model with a likelihood of its own ---------------------------------------------


def of_any(spec: TaskSpec, asked: Likelihood, workdir: Path) -> list[Measurement]:
    """Prepare the measurement of a model of any kind but diffusion: a list of one.

    Args:
        spec: of the model.
        asked: of which split, of how many of it, and how many at a time.
        workdir: of the model.

    Raises:
        UserError: the workdir holds no such model, or data or options do not fit it.
    """
    kind = specs.kind_of(spec)
    assembly.refuse_idle(spec, asked)
    opened = open_task(workdir, kind)
    refuse_other_options(spec, workdir)
    model = opened.model
    if not isinstance(model, Measured):
        raise UserError(
            f"the model of kind {kind} in {workdir} has no item_shape, dtype, "
            "is_bounded and likelihood_terms; give them to what its TaskSpec.open "
            "returns."
        )
    shape, size = tuple(model.item_shape), math.prod(model.item_shape)
    assembly.check_batch_memory("likelihood", asked.batch_size, shape)
    of_data = opened.about.get("data_fingerprint", "")  # none of what was imported
    source = open_split(spec.data, asked, shape, model.dtype, of_data)
    num_items, seed = asked.num_images or len(source), assembly.seed_of(spec, asked)
    key = assembly.likelihood_key(seed)
    num_samples = asked.num_samples if model.is_bounded else 1

    def measure(given: tuple[np.ndarray, np.ndarray]) -> dict[str, jax.Array]:
        places, items = given
        terms = dict(
            model.likelihood_terms(key, items, num_samples, first=int(places[0]))
        )
        # Of log p the negative, as of all that is counted in bits.
        terms = {"bits": -terms.pop("log_likelihood"), **terms}
        return {name: nats / (size * math.log(2.0)) for name, nats in terms.items()}

    def given(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return places, gather(source, places)["image"]

    method = "elbo" if model.is_bounded else "exact"
    settings = settings_of(
        asked,
        source,
        method,
        ("num_samples",) if model.is_bounded else (),
        checkpoint_step=opened.step,
        parameters="ema",
        seed=seed,
    )
    return [
        Measurement(
            method=method,
            settings=settings,
            model={"fingerprint": digest(opened.about.get("checksums"))},
            source=source,
            num_items=num_items,
            described=f"the {kind} of step {opened.step:,}",
            batches=lambda first, stop: map_batches(
                measure,
                given,
                num_items,
                min(asked.batch_size, num_items),
                mesh=None,
                first=first,
                stop=stop,
                not_finite=not_finite(
                    "train with a lower learning rate, in another --workdir"
                ),
            ),
        )
    ]
